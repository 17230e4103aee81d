"""train, run and embed as jobs of several processes, as torchrun starts them."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file
from torch.distributed import TCPStore

from helpers_job import start_job
from helpers_run import TINY, finish, start, write_tiny_config
from helpers_screen import write_bbbc021_folder
from wsdino.embed.embed import embed_store
from wsdino.model.model import load_model
from wsdino.screen.ingest import ingest
from wsdino.screen.store import open_store

if TYPE_CHECKING:
    from collections.abc import Sequence

DOCS = Path(__file__).resolve().parents[1] / "docs" / "distributed.md"
LONG = {"epochs": 60, "checkpoint_minutes": 1e-4}
RESUMES = ("--standalone", "--nproc-per-node", "2", "--max-restarts", "1")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a screen, its store, and two configs without baselines."""
    folder = tmp_path_factory.mktemp("jobs")
    ingest(write_bbbc021_folder(folder / "screen", num_sites=1), folder / "store")
    where = {"store": str(folder / "store")}
    write_tiny_config(folder / "tiny.yaml", screen=where, baselines={"names": []})
    write_tiny_config(
        folder / "long.yaml",
        screen=where,
        baselines={"names": []},
        train={**TINY["train"], **LONG},  # type: ignore[dict-item]
    )
    return folder


def weights(run: Path) -> dict[str, np.ndarray]:
    return load_file(run / "model" / "model.safetensors")


def records(run: Path) -> list[dict[str, float]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    clock = {"samples_per_s", "data_wait"}
    return [{k: v for k, v in json.loads(line).items() if k not in clock} for line in lines]


def assert_same_run(ours: Path, theirs: Path) -> None:
    assert weights(ours).keys() == weights(theirs).keys()
    for name, value in weights(theirs).items():
        np.testing.assert_array_equal(weights(ours)[name], value, err_msg=name)
    assert records(ours) == records(theirs)


def test_two_processes_do_every_stage_and_one_speaks(place: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = start_job(tmp_path / "log", "run", place / "tiny.yaml", "--out", run)
    assert job.finish() == 0, job.output
    for line in ("train: start", "run: embed: start", "report: start"):
        assert job.output.splitlines().count(line) == 1, job.output
    assert job.output.count("this run ") == 1
    assert job.said == []
    assert {path.name for path in run.iterdir() if not path.name.startswith(".")} >= {
        "config.yaml",
        "coverage.json",
        "embeddings.parquet",
        "results.json",
        "report.html",
    }
    assert not list(run.rglob("*.part*"))
    # One process embeds the same with the same model.
    one = embed_store(load_model(run / "model"), open_store(place / "store"), batch_size=5)
    pd.testing.assert_frame_equal(one, pd.read_parquet(run / "embeddings.parquet"), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            ["train", "tiny.yaml", "--set", "train.epoch=3", "--out", "x"],
            "did you mean epochs?",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["train", "tiny.yaml", "--outt", "x"], "No such option", marks=pytest.mark.slow
        ),
        pytest.param(
            ["train", "tiny.yaml", "--set", "train.batch_size=9", "--out", "x"],
            "train.batch_size 9: not a multiple of the 2 parts",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["option", "usage", "on all ranks"],
)
def test_a_mistake_is_one_line_and_status_2(
    place: Path, tmp_path: Path, arguments: Sequence[str], message: str
) -> None:
    names = {"tiny.yaml": place / "tiny.yaml", "x": tmp_path / "x"}
    job = start_job(tmp_path / "log", *(names.get(name, name) for name in arguments))
    # torchrun's own status is 1 whatever its processes'; it lists theirs.
    assert job.finish() == 1
    assert len(job.said) == 1, job.output
    assert message in job.said[0]
    assert "exitcode  : 2" in job.output
    assert not (tmp_path / "x" / "model").exists()


def test_a_mistake_on_both_ranks_is_said_once(place: Path, tmp_path: Path) -> None:
    """The ranks without torchrun, which hides their statuses; the test holds their store."""
    held = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    meeting = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(held.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    setting = "train.batch_size=9"
    ranks = [
        start(
            *("train", place / "tiny.yaml", "--set", setting, "--out", tmp_path / "x"),
            variables=meeting | {"RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in ("0", "1")
    ]
    ends = [finish(rank) for rank in ranks]
    assert [status for status, _, _ in ends] == [2, 2], ends
    lines = "".join(err for _, _, err in ends).splitlines()
    (said,) = (line for line in lines if line.startswith("wsdino: "))
    assert "train.batch_size 9: not a multiple of the 2 parts" in said
    assert not (tmp_path / "x" / "model").exists()


@pytest.mark.slow
def test_a_killed_process_ends_the_job_and_torchrun_resumes_it_to_the_same_end(
    place: Path, tmp_path: Path
) -> None:
    whole, ended, resumed = (tmp_path / name for name in ("whole", "ended", "resumed"))
    job = start_job(tmp_path / "whole.log", "train", place / "long.yaml", "--out", whole)
    assert job.finish() == 0, job.output

    job = start_job(tmp_path / "ended.log", "train", place / "long.yaml", "--out", ended)
    job.wait_for(ended, "checkpoints/*.pt", num=2)
    os.kill(job.worker(1), signal.SIGKILL)
    assert job.finish() == 1
    assert job.said == [
        "wsdino: another process of this job is gone; the same command resumes from what is saved"
    ]
    assert not (ended / "model").exists()
    job = start_job(tmp_path / "again.log", "train", place / "long.yaml", "--out", ended)
    assert job.finish() == 0, job.output
    assert "resuming from step " in job.output
    assert_same_run(ended, whole)

    job = start_job(
        tmp_path / "resumed.log", "train", place / "long.yaml", "--out", resumed, launch=RESUMES
    )
    job.wait_for(resumed, "checkpoints/*.pt", num=2)
    os.kill(job.worker(0), signal.SIGKILL)
    assert job.finish() == 0, job.output
    assert "resuming from step " in job.output
    assert_same_run(resumed, whole)


@pytest.mark.slow
def test_terminated_a_job_saves_and_stops(place: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = start_job(tmp_path / "log", "train", place / "long.yaml", "--out", run)
    job.wait_for(run, "checkpoints/*.pt")
    job.process.terminate()
    assert job.finish() != 0
    assert len(job.said) == 1, job.output
    found = re.match(r"wsdino: stopped by a signal after step (\d+) of 105; ", job.said[0])
    assert found, job.said
    newest = max(path.name for path in (run / "checkpoints").glob("*.pt"))
    assert newest == f"step_{int(found[1]):08d}.pt"


@pytest.mark.slow
def test_a_process_that_fails_alone_says_why_and_the_others_end(
    place: Path, tmp_path: Path
) -> None:
    """One rank meets a damaged image while the other waits for its gradients."""
    import shutil

    shutil.copytree(place / "store", tmp_path / "store")
    manifest = pd.read_parquet(tmp_path / "store" / "manifest.parquet")
    site = int(np.flatnonzero(~manifest["Metadata_Control"])[3])
    chunk = tmp_path / "store" / "images.zarr" / f"c.{site}.0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:40])
    settings = [f"screen.store={tmp_path / 'store'}", "train.residency=stream"]
    job = start_job(
        tmp_path / "log",
        *("train", place / "long.yaml", "--out", tmp_path / "run"),
        *(word for setting in settings for word in ("--set", setting)),
    )
    assert job.finish() == 1
    assert len(job.said) == 1, job.output
    assert f"{chunk}: the store is damaged" in job.said[0]


def documented(kind: str) -> list[str]:
    """The torchrun line that the docs have under a heading."""
    section = re.search(
        rf"^## {kind}\n(.*?)(?=^## |\Z)", DOCS.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert section
    line = re.search(r"^ *(?:srun )?torchrun (.*?[^\\])$", section[1], re.MULTILINE | re.DOTALL)
    assert line
    return shlex.split(line[1].replace("\\\n", " "))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Several hosts", "SLURM"])
def test_the_documented_lines_train_on_two_hosts(place: Path, tmp_path: Path, kind: str) -> None:
    """Two torchruns on this machine stand for two hosts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = documented(kind)
    replacements = {
        "head:29400": f"localhost:{port}",
        "$HEAD:29400": f"localhost:{port}",
        "$SLURM_NNODES": "2",
        "$SLURM_JOB_ID": "7",
        "default": str(place / "tiny.yaml"),
        "screen.store=store": f"screen.store={place / 'store'}",
    }
    words = [replacements.get(word, word) for word in words]
    words[words.index("--nproc-per-node") + 1] = "1"
    words[words.index("--out") + 1] = str(tmp_path / "run")
    cut = words.index("-m")
    assert words[cut : cut + 3] == ["-m", "wsdino", "run"]
    jobs = [
        start_job(tmp_path / f"{host}.log", "train", *words[cut + 3 :], launch=tuple(words[:cut]))
        for host in range(2)
    ]
    assert [job.finish() for job in jobs] == [0, 0], "\n".join(job.output for job in jobs)
    assert sum(job.output.count("train: start") for job in jobs) == 1
    one_host = start_job(
        tmp_path / "one.log", "train", place / "tiny.yaml", "--out", tmp_path / "one"
    )
    assert one_host.finish() == 0
    for name, value in weights(tmp_path / "one").items():
        np.testing.assert_allclose(weights(tmp_path / "run")[name], value, atol=1e-5)
