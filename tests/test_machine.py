"""Machines of any kind: CPUs and memory within limits, whose commit, and nowhere to write."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import wsdino
from wsdino.device import free_host_memory, num_cpus, require_memory
from wsdino.environment import environment, git_commit
from wsdino.errors import InputError
from wsdino.screen.convert import threads_for

PACKAGE = Path(wsdino.__file__).parent
GIB = 2**30


def machine(root: Path, files: dict[str, str]) -> Path:
    """Write the files in which Linux tells what there is: 8 GiB of memory, and the given ones."""
    files = {"proc/meminfo": f"MemTotal: 1 kB\nMemAvailable: {8 * GIB // 1024} kB\n"} | files
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


V2 = {"proc/self/cgroup": "0::/user/job\n"}
V1 = {"proc/self/cgroup": "5:cpu,cpuacct:/job\n3:memory:/job\n1:name=systemd:/x\n"}
TOP = "sys/fs/cgroup"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        (V2, 8),
        (V2 | {f"{TOP}/user/job/memory.max": "max\n", f"{TOP}/user/job/memory.current": "5\n"}, 8),
        (
            V2
            | {
                f"{TOP}/user/job/memory.max": f"{4 * GIB}\n",
                f"{TOP}/user/job/memory.current": f"{3 * GIB}\n",
                f"{TOP}/user/job/memory.stat": f"anon 5\ninactive_file {GIB}\nactive_file 1\n",
            },
            2,
        ),
        (
            V2
            | {
                f"{TOP}/user/job/memory.max": f"{6 * GIB}\n",
                f"{TOP}/user/job/memory.current": f"{GIB}\n",
                f"{TOP}/user/memory.max": f"{4 * GIB}\n",
                f"{TOP}/user/memory.current": f"{3 * GIB}\n",
            },
            1,
        ),
        (
            # In a container the path is the host's.
            V2 | {f"{TOP}/memory.max": f"{3 * GIB}\n", f"{TOP}/memory.current": "0\n"},
            3,
        ),
        (
            V1
            | {
                f"{TOP}/memory/job/memory.limit_in_bytes": f"{5 * GIB}\n",
                f"{TOP}/memory/job/memory.usage_in_bytes": f"{3 * GIB}\n",
                f"{TOP}/memory/job/memory.stat": f"cache 9\ntotal_inactive_file {2 * GIB}\n",
                f"{TOP}/memory/memory.limit_in_bytes": "9223372036854771712\n",
                f"{TOP}/memory/memory.usage_in_bytes": "5\n",
            },
            4,
        ),
        (
            V2
            | {
                f"{TOP}/user/job/memory.max": f"{GIB}\n",
                f"{TOP}/user/job/memory.current": f"{2 * GIB}\n",
            },
            0,
        ),
    ],
)
def test_memory_is_what_host_and_groups_leave(
    tmp_path: Path, files: dict[str, str], expected: int
) -> None:
    assert free_host_memory(machine(tmp_path, files)) == expected * GIB


@pytest.mark.parametrize("missing", ["meminfo", "everything"])
def test_memory_without_linux(tmp_path: Path, missing: str) -> None:
    """As on macOS, where nothing lies under /proc."""
    if missing == "meminfo":
        machine(tmp_path, {"proc/meminfo": "damaged\n"})
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < free_host_memory(tmp_path) <= physical


def test_memory_where_even_the_free_pages_are_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {k: v for k, v in os.sysconf_names.items() if k != "SC_AVPHYS_PAGES"}
    monkeypatch.setattr(os, "sysconf_names", names)
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert free_host_memory(tmp_path) == physical // 2


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 6),
        (V2 | {f"{TOP}/user/job/cpu.max": "max 100000\n"}, 6),
        (V2 | {f"{TOP}/user/job/cpu.max": "200000 100000\n"}, 2),
        (V2 | {f"{TOP}/user/job/cpu.max": "250000 100000\n"}, 3),
        (V2 | {f"{TOP}/user/cpu.max": "1000 100000\n"}, 1),
        (V2 | {f"{TOP}/user/cpu.max": "damaged\n"}, 6),
        (
            V1
            | {
                f"{TOP}/cpu/job/cpu.cfs_quota_us": "400000\n",
                f"{TOP}/cpu/job/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
        (
            V1
            | {
                f"{TOP}/cpu/job/cpu.cfs_quota_us": "-1\n",
                f"{TOP}/cpu/job/cpu.cfs_period_us": "100000\n",
            },
            6,
        ),
    ],
)
def test_cpus_are_what_affinity_and_groups_leave(
    tmp_path: Path, files: dict[str, str], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert num_cpus(machine(tmp_path, files)) == expected
    # macOS has no affinity.
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert num_cpus(machine(tmp_path, files)) == expected


# --- git ---------------------------------------------------------------------------------------

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def git(folder: Path, *arguments: str) -> str:
    names = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    done = subprocess.run(
        ["git", "-C", str(folder), *names, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def repository(folder: Path, package: str) -> Path:
    """Make a repository in which the package lies at a path; return that."""
    path = folder / package
    path.mkdir(parents=True)
    shutil.copy(PACKAGE / "errors.py", path / "errors.py")
    git(folder, "init", "--quiet")
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "--quiet", "--message", "x")
    return path


@needs_git
@pytest.mark.parametrize("name", ["ours", "unsere, mit Umläuten"])
def test_our_own_repository_has_our_commit(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The bytes are UTF-8 whatever the locale is.
    folder = tmp_path / os.fsdecode(name.encode())
    path = repository(folder, "src/wsdino")
    commit = git(folder, "rev-parse", "HEAD")
    assert len(commit) == 40
    assert git_commit(path) == commit
    # A hook of another repository may have started the run.
    other = repository(tmp_path / "other", "src/wsdino")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    assert git_commit(path) == commit
    assert other.is_dir()


@needs_git
@pytest.mark.parametrize(
    "place", [".venv/lib/python3.11/site-packages/wsdino", "vendor/src/wsdino", "wsdino"]
)
def test_somebody_else_s_commit_is_not_ours(tmp_path: Path, place: str) -> None:
    assert git_commit(repository(tmp_path / "theirs", place)) is None


def test_no_repository(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "src" / "wsdino", ignore=shutil.ignore_patterns("*.pyc"))
    assert git_commit(tmp_path / "src" / "wsdino") is None


@needs_git
def test_no_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = repository(tmp_path / "ours", "src/wsdino")
    assert git_commit(path)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert git_commit(path) is None
    assert environment(seed=0, device="cpu")["git_commit"] is None


# --- an installation that can't be written to ----------------------------------------------------


def test_kernels_compile_where_nothing_can_be_kept(tmp_path: Path) -> None:
    """As in a container image, read-only and without a home."""
    nowhere = tmp_path / "file"
    nowhere.touch()
    package = shutil.copytree(
        PACKAGE, tmp_path / "site" / "wsdino", ignore=shutil.ignore_patterns("__pycache__")
    )
    (package / "simulate").chmod(0o755)  # a copy of what may not be changed can't be, either
    (package / "simulate" / "__pycache__").touch()
    code = "from wsdino.simulate import raster; print(raster.__file__, raster.clamp(1.5))"
    cache = {"HOME": str(nowhere), "XDG_CACHE_HOME": str(nowhere / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | cache | {"PYTHONPATH": str(tmp_path / "site"), "NUMBA_CACHE_DIR": ""},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [str(package / "simulate" / "raster.py"), "1.0"], done.stderr


def test_what_will_not_fit_is_refused_with_the_estimate() -> None:
    require_memory("a byte", 1, advice="none")
    said = r"a lot takes about 1000000000\.0 GB of memory, and [\d.]+ GB are free; take less"
    with pytest.raises(InputError, match=said):
        require_memory("a lot", 10**18, advice="take less")


def test_large_sites_are_converted_by_fewer_threads() -> None:
    assert threads_for(10_000, 7) == 7
    assert threads_for(GIB // 4, 7) == 4
    assert threads_for(GIB, 7) == threads_for(GIB + 1, 7) == 1
    with pytest.raises(InputError, match=r"--channel"):
        threads_for(10**18, 7)
