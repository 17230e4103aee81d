"""Commands killed, crowded, starved and lied to: `python benchmarks/crash.py --trials 100`.

Each trial runs a command of :data:`COMMANDS` in a process of its own under one fault, then runs it
once more to its end, and compares every file bit by bit with that of an uninterrupted run
(checkpoints too). Faults, drawn from the seed, the command and the trial's number:

- *kill*: SIGKILL, SIGTERM or SIGINT at a random moment, up to three times in a row;
- *two*: a second process of the same command; one of the two may be refused, naming the other;
- *full*: files may grow to a random size only, as on a disk that fills up;
- *flip*: a bit of a finished product is flipped;
- *clock*: the times of all files are set to 1990, 2031, or to each other's.

After a flipped bit the command may also refuse, in one line with status 2. A failure is any other
status, a traceback, another product, a partial file, lock or process that is left. What differs
between two uninterrupted runs (such as times in records) is not compared, and listed. Exits with 1
if there are failures. `--write` writes `benchmarks/results/crash.md`.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

RESULT = Path(__file__).parent / "results" / "crash.md"
FAULTS = ("kill", "two", "full", "flip", "clock")
WEIGHTS = (80, 5, 5, 5, 5)
LONGEST_S = 600.0
EARLY, LATE = 631_152_000, 1_924_992_000  # 1990 and 2031


@dataclass(frozen=True)
class Command:
    """A command.

    Parameters
    ----------
    name
        Name, for `--only`.
    arguments
        Of the command line, run in the folder `work`; what others made lies in `../given`.
    given
        Copied from `given` into `work` first.
    """

    name: str
    arguments: tuple[str, ...]
    given: tuple[str, ...] = ()


_RUN = ("../given/tiny.yaml", "--set", "screen.source=../given/screen")
COMMANDS = (
    Command(
        "simulate", ("simulate", "--out", "out", "--size", "32", "--sites", "1", "--workers", "2")
    ),
    Command("download", ("download", "bbbc021", "--out", "out", "--source", "SOURCE")),
    Command("ingest", ("ingest", "../given/screen", "--out", "out", "--workers", "2")),
    Command("train", ("train", *_RUN, "--out", "out")),
    Command("run", ("run", *_RUN, "--out", "out")),
    Command("embed", ("embed", "../given/run", "../given/run/store", "--out", "out.parquet")),
    Command("embed-csv", ("embed", "../given/run", "../given/run/store", "--out", "out.csv.gz")),
    Command("profile", ("profile", "../given/run/embeddings.parquet", "--out", "out.parquet")),
    Command("evaluate", ("evaluate", "../given/run/profiles.parquet", "--json", "out.json")),
    Command("activity", ("activity", "../given/run/embeddings.parquet", "--out", "out.csv")),
    Command("report", ("report", "run"), ("run",)),
    Command("export", ("export", "../given/run", "--out", "out")),
)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def prepare(given: Path) -> None:
    """Make what the commands work on."""
    from fuzz_parsers import write_archive_source
    from helpers_run import write_tiny_config
    from helpers_screen import write_bbbc021_folder

    given.mkdir(parents=True)
    write_bbbc021_folder(given / "screen", num_sites=1)
    train = {"epochs": 4, "batch_size": 16, "warmup_epochs": 0, "checkpoint_minutes": 1e-4}
    write_tiny_config(given / "tiny.yaml", train=train)
    write_archive_source(given / "source")
    status, said = wait(
        start(given, ("run", "tiny.yaml", "--set", "screen.source=screen", "--out", "run"))
    )
    if status:
        raise RuntimeError(said)


def start(
    folder: Path, arguments: tuple[str, ...], *, limit: int | None = None
) -> tuple[int, Path]:
    """Start a command in a folder, in a session of its own; return its number and what it says."""
    talk = Path(tempfile.mkstemp(prefix="crash-")[1])
    pid = os.fork()
    if pid:
        return pid, talk
    status = 1
    try:
        os.setsid()
        os.chdir(folder)
        file = os.open(talk, os.O_WRONLY)
        os.dup2(file, 1)
        os.dup2(file, 2)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        sys.argv = ["wsdino", *arguments]
        importlib.import_module("wsdino.cli.main").main()
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    finally:
        os._exit(status)


def wait(
    process: tuple[int, Path], *, kill_after: tuple[float, int] | None = None
) -> tuple[int, str]:
    """Wait for a command, or send it a signal after some seconds; return its status and words."""
    pid, talk = process
    begin, status = time.monotonic(), None
    while status is None:
        found, code = os.waitpid(pid, os.WNOHANG)
        if found:
            status = os.waitstatus_to_exitcode(code)
            break
        now = time.monotonic() - begin
        if kill_after is not None and now >= kill_after[0]:
            os.kill(pid, kill_after[1])
            kill_after = None
        elif now > LONGEST_S:
            os.killpg(pid, signal.SIGKILL)
        time.sleep(0.002)
    said = talk.read_text(errors="replace")
    talk.unlink()
    return status, said


def digests(folder: Path) -> dict[str, str]:
    """Return what each file holds."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@dataclass
class Campaign:
    """A command, and what its uninterrupted run made.

    Attributes
    ----------
    wanted
        Digest of each file.
    volatile
        Files that differ between two such runs.
    seconds
        What it took.
    """

    command: Command
    root: Path
    arguments: tuple[str, ...]
    wanted: dict[str, str] = field(default_factory=dict)
    volatile: set[str] = field(default_factory=set)
    seconds: float = 0.0

    @property
    def work(self) -> Path:
        """Where the command runs: the same path each time, as some files name it."""
        return self.root / "work"

    def begin(self) -> None:
        """Empty the folder."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        for name in self.command.given:
            shutil.copytree(
                self.root / "given" / name, self.work / name, copy_function=shutil.copy2
            )

    def go(self, **options: Any) -> tuple[int, str]:
        """Run to the end."""
        return wait(start(self.work, self.arguments, **options))

    def refer(self) -> None:
        """Run without a fault, twice."""
        found = []
        for _ in range(2):
            self.begin()
            begin = time.monotonic()
            status, said = self.go()
            self.seconds = time.monotonic() - begin
            if status:
                raise RuntimeError(f"{self.command.name}: {said}")
            found.append(digests(self.work))
        self.wanted, other = found
        names = self.wanted.keys() | other.keys()
        self.volatile = {n for n in names if self.wanted.get(n) != other.get(n)}
        self.volatile = {_stable(name) for name in self.volatile}

    def differences(self) -> list[str]:
        """Return what is not as an uninterrupted run leaves it."""
        found = digests(self.work)
        names = {n for n in self.wanted.keys() | found if _stable(n) not in self.volatile}
        # Which older checkpoint is kept depends on the minutes between them.
        steps = sorted(n for n in names if "/checkpoints/" in n)
        names -= set(steps[:-1])
        return sorted(n for n in names if self.wanted.get(n) != found.get(n))


def killed(campaign: Campaign, rng: random.Random) -> list[str]:
    """Send up to three signals."""
    for _ in range(rng.choice([1, 1, 2, 3])):
        number = rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        moment = rng.uniform(0, campaign.seconds * 1.05)
        status, said = wait(start(campaign.work, campaign.arguments), kill_after=(moment, number))
        if number == signal.SIGKILL and status == -signal.SIGKILL:
            continue
        # Before the command has set up its handlers, the signal itself ends the process.
        if status not in (0, 1, -number) or "Traceback" in said:
            return [f"status {status} after {number.name}: {said[-300:]}"]
    return []


def two(campaign: Campaign, rng: random.Random) -> list[str]:
    """Start a second process of the same command."""
    first = start(campaign.work, campaign.arguments)
    time.sleep(rng.uniform(0, campaign.seconds))
    second = start(campaign.work, campaign.arguments)
    found = [wait(second), wait(first)]
    bad = [(s, said) for s, said in found if s and not (s == 2 and "is writing there" in said)]
    if bad or all(status for status, _ in found):
        return [f"status {status}: {said[-300:]}" for status, said in bad or found]
    return []


def full(campaign: Campaign, rng: random.Random) -> list[str]:
    """Let files grow to a random size only."""
    sizes = [path.stat().st_size for path in campaign.root.joinpath("given").rglob("*.parquet")]
    limit = int(max(sizes) * rng.random() ** 3)
    status, said = campaign.go(limit=limit)
    if status not in (0, 1, 2) or "Traceback" in said:
        return [f"status {status} with files of at most {limit} bytes: {said[-300:]}"]
    return (
        [] if status == 0 or "can't be written" in said else [f"says nothing of it: {said[-300:]}"]
    )


def flip(campaign: Campaign, rng: random.Random) -> list[str]:
    """Flip a bit of a product."""
    campaign.go()
    files = [
        path for path in sorted(campaign.work.rglob("*")) if path.is_file() and path.stat().st_size
    ]
    path = rng.choice(files)
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    status, said = campaign.go()
    if status == 2 and "Traceback" not in said:
        # Refused: the user decides. The trial goes on with the file as it was.
        campaign.begin()
        return []
    return [f"status {status} after a bit of {path.name}: {said[-300:]}"] if status else []


def clock(campaign: Campaign, rng: random.Random) -> list[str]:
    """Set times, before and after a run."""
    campaign.go()
    for path in campaign.work.rglob("*"):
        now = rng.choice([EARLY, LATE, rng.randrange(EARLY, LATE)])
        os.utime(path, (now, now))
    return []


def _stable(name: str) -> str:
    """Return a file's name, or its folder's where TensorBoard puts the time into the name."""
    return name.rpartition("/")[0] if "/tensorboard/" in name else name


def left_behind(folder: Path) -> list[str]:
    """Return the partial files, locks and parts that are left."""
    names = [path.name for path in folder.rglob("*")]
    return [n for n in names if n.startswith(".partial-") or n.endswith((".lock", ".parts"))]


def trial(campaign: Campaign, fault: str, rng: random.Random) -> list[str]:
    """Run under a fault, and then to the end; return what is wrong."""
    campaign.begin()
    faults: dict[str, Callable[[Campaign, random.Random], list[str]]]
    faults = {"kill": killed, "two": two, "full": full, "flip": flip, "clock": clock}
    if problems := faults[fault](campaign, rng):
        return problems
    status, said = campaign.go()
    if status:
        return [f"then status {status}: {said[-300:]}"]
    problems = [f"differs: {name}" for name in campaign.differences()]
    return problems + [f"left behind: {name}" for name in left_behind(campaign.work)]


def table(
    counts: dict[str, Counter[str]], volatile: dict[str, set[str]], failures: list[str], seed: int
) -> str:
    """Write down the counts."""
    lines = [
        "# Commands that are killed, crowded, starved and lied to",
        "",
        f"`python benchmarks/crash.py --seed {seed}`; see there for what is done and compared.",
        "A trial of *kill* has up to three kills.",
        "",
        f"| command | {' | '.join(FAULTS)} | failures |",
        "|---|" + "---|" * (len(FAULTS) + 1),
    ]
    total: Counter[str] = Counter()
    for name, found in counts.items():
        total += found
        lines.append(f"| {name} | {' | '.join(str(found[f]) for f in (*FAULTS, 'failures'))} |")
    lines.append(f"| all | {' | '.join(str(total[f]) for f in (*FAULTS, 'failures'))} |")
    lines += ["", "Not compared, as two uninterrupted runs differ in them, too:", ""]
    lines += [f"- {name}: {', '.join(sorted(found))}" for name, found in volatile.items() if found]
    lines += ["", *(f"- {failure}" for failure in failures)]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Run the trials, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10, help="of each command")
    parser.add_argument("--seconds", type=float, default=1e9, help="in all, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="commands")
    parser.add_argument("--fault", choices=FAULTS)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    # Processes that are forked need not import again.
    for module in (
        "torch",
        "zarr",
        "wsdino.cli.main",
        "wsdino.pipeline",
        "wsdino.model.model",
        "wsdino.report.html",
    ):
        importlib.import_module(module)
    counts: dict[str, Counter[str]] = {}
    volatile: dict[str, set[str]] = {}
    failures: list[str] = []
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        prepare(root / "given")
        handler = partial(_Quiet, directory=str(root / "given" / "source"))
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        source = f"http://127.0.0.1:{server.server_port}"
        campaigns = []
        for command in COMMANDS:
            if not options.only or command.name in options.only:
                arguments = tuple(source if a == "SOURCE" else a for a in command.arguments)
                campaigns.append(Campaign(command, root, arguments))
                campaigns[-1].refer()
                counts[command.name] = Counter()
                volatile[command.name] = campaigns[-1].volatile
        for number in range(options.trials):
            for campaign in campaigns:
                if time.monotonic() - begin > options.seconds:
                    break
                name = campaign.command.name
                rng = random.Random(f"{options.seed} {name} {number}")  # noqa: S311 no secrets
                fault = rng.choices(FAULTS, WEIGHTS)[0]
                fault = options.fault or fault
                counts[name][fault] += 1
                for problem in trial(campaign, fault, rng):
                    counts[name]["failures"] += 1
                    failures.append(f"{name}, trial {number}, {fault}: {' '.join(problem.split())}")
                    print(failures[-1], file=sys.stderr, flush=True)
        server.shutdown()
    text = table(counts, volatile, failures, options.seed)
    print(text)
    if options.write:
        RESULT.write_text(text)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
