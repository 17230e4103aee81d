"""What `benchmarks/crash.py` kills, crowds, starves and lies to: every command that writes."""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

# In the arguments of a command: the address of a server.
ARCHIVES, GALLERY = "ARCHIVES", "GALLERY"


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
    every
        Of how many rounds of trials it takes part in one.
    images
        Suffix of the images that it makes, if it makes any: whatever an instrument writes has no
        checksum, and these are no better.
    """

    name: str
    arguments: tuple[str, ...]
    given: tuple[str, ...] = ()
    every: int = 1
    images: str = ""


_RUN = ("../given/tiny.yaml", "--set", "screen.source=../given/screen")
_STORE = ("../given/run", "../given/run/store")
_SITES, _PROFILES = "../given/run/embeddings.parquet", "../given/run/profiles.parquet"
COMMANDS = (
    Command(
        "simulate",
        ("simulate", "--out", "out", "--size", "32", "--sites", "1", "--workers", "2"),
        images=".tif",
    ),
    Command("download", ("download", "bbbc021", "--out", "out", "--source", ARCHIVES)),
    Command(
        "download of the Gallery",
        (
            *("download", "cpg0000-jump-pilot", "--plate", "BR00116991", "--sites", "1"),
            *("--out", "out", "--source", GALLERY),
        ),
        images=".tiff",
    ),
    Command("ingest", ("ingest", "../given/screen", "--out", "out", "--workers", "2")),
    Command(
        "ingest, sites in shared files",
        ("ingest", "../given/screen", "--out", "out", "--sites-per-file", "8"),
    ),
    Command("ingest of more sites", ("ingest", "../given/all.csv", "--out", "half"), ("half",)),
    Command("ingest of other labels", ("ingest", "../given/other.csv", "--out", "all"), ("all",)),
    Command("train", ("train", *_RUN, "--out", "out"), every=2),
    Command("run", ("run", *_RUN, "--out", "out"), every=12),
    Command("embed", ("embed", *_STORE, "--out", "out.parquet")),
    Command("embed, CSV", ("embed", *_STORE, "--out", "out.csv.gz")),
    Command("embed, classical", ("embed", "classical", _STORE[1], "--out", "out.parquet")),
    Command("attention", ("attention", *_STORE, "--site", "0", "--site", "5", "--out", "out")),
    Command("profile", ("profile", _SITES, "--out", "out.parquet")),
    Command("profile, AnnData", ("profile", _SITES, "--to", "anndata", "--out", "out.h5ad")),
    Command(
        "profile, Gallery",
        ("profile", _SITES, "--to", "gallery", "--network", "wsdino_1a2b3c4d", "--out", "out"),
    ),
    Command("evaluate", ("evaluate", _PROFILES, "--json", "out.json")),
    Command(
        "evaluate, from sites",
        ("evaluate", _SITES, "--from-sites", "--json", "out.json"),
    ),
    Command("activity", ("activity", _SITES, "--out", "out.csv", "--json", "out.json")),
    Command("neighbours", ("neighbours", _PROFILES, "compound D1", "--json", "out.json")),
    Command("compare", ("compare", "../given/run", "../given/run", "--json", "out.json")),
    Command("report", ("report", "run"), ("run",), every=8),
    Command("export", ("export", "../given/run", "--out", "out")),
    Command(
        "import",
        (
            *("import", "../given/weights.pth", "--like", "../given/tiny.yaml"),
            *("--set", "model.mode=shared", "--channel", "DAPI", "--channel", "Actin"),
            *("--out", "out"),
        ),
    ),
)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def serve(given: Path) -> dict[str, str]:
    """Serve BBBC021's archives and the Gallery from threads; return the address of each."""
    from helpers_bucket import Bucket

    handler = partial(_Quiet, directory=str(given / "source"))
    servers = {
        ARCHIVES: ThreadingHTTPServer(("127.0.0.1", 0), handler),
        GALLERY: Bucket(given / "gallery"),
    }
    for server in servers.values():
        threading.Thread(target=server.serve_forever, daemon=True).start()
    return {name: f"http://127.0.0.1:{server.server_port}" for name, server in servers.items()}


def prepare(given: Path, go: Callable[..., None]) -> None:
    """Make what the commands work on.

    Parameters
    ----------
    given
        New folder.
    go
        Runs a command in it, from its arguments.
    """
    import pandas as pd
    import torch

    from fuzz_parsers import write_archive_source
    from helpers_bucket import write_gallery
    from helpers_run import TINY, write_tiny_config
    from helpers_screen import write_bbbc021_folder
    from wsdino.config import load_config
    from wsdino.model.building import build_networks
    from wsdino.model.spec import Architecture, ModelSpec

    given.mkdir(parents=True)
    write_bbbc021_folder(given / "screen", num_plates=1, num_sites=1)
    train = {"epochs": 2, "batch_size": 4, "warmup_epochs": 0, "checkpoint_minutes": 1e-4}
    write_tiny_config(given / "tiny.yaml", train=train, baselines={"names": ["classical", "dino"]})
    write_archive_source(given / "source")
    write_gallery(given / "gallery")
    go("run", "tiny.yaml", "--set", "screen.source=screen", "--out", "run")
    table = pd.read_parquet(given / "run" / "store" / "manifest.parquet")
    table.to_csv(given / "all.csv", index=False)
    table.iloc[: len(table) // 2].to_csv(given / "half.csv", index=False)
    table["Metadata_Compound"] = table["Metadata_Compound"].str.replace("compound", "other")
    table.to_csv(given / "other.csv", index=False)
    go("ingest", "half.csv", "--out", "half")
    go("ingest", "all.csv", "--out", "all")
    torch.manual_seed(0)
    shape = Architecture(**TINY["architecture"])
    stem = load_config(given / "tiny.yaml").architecture
    assert (stem.dim, stem.depth) == (shape.dim, shape.depth)
    (network,) = build_networks(ModelSpec(("DAPI",), mode="shared", architecture=shape)).networks
    torch.save({"teacher": network.state_dict()}, given / "weights.pth")
