"""A bucket of Amazon S3 on this machine, which misbehaves as a test asks for; what is in it."""

from __future__ import annotations

import gzip
import hashlib
import threading
import time
from collections import Counter
from contextlib import contextmanager
from email.utils import formatdate
from functools import partial
from http.server import (
    BaseHTTPRequestHandler,
    SimpleHTTPRequestHandler,
    ThreadingHTTPServer,
)
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import numpy as np
import pandas as pd
import pytest
import tifffile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NEEDS_REMOTE = "needs the extra remote"
PROJECT, BATCH = "cpg0000-jump-pilot", "2020_11_04_CPJUMP1"
PLATES = ("BR00116991", "BR00117035")
CHANNELS = ("DNA", "ER")
WELLS = ("A01", "A02", "B01")


def write_gallery(top: Path) -> None:
    """Write the Gallery's tree: two plates of three wells and two sites, and more."""
    source = top / PROJECT / "source_4"
    rng = np.random.default_rng(0)
    address = f"s3://cellpainting-gallery/{PROJECT}/source_4/images/{BATCH}"
    for plate in PLATES:
        full = f"{plate}__2020-11-05T19_51_35-Measurement1"
        images = source / "images" / BATCH / "images" / full / "Images"
        illum = source / "images" / BATCH / "illum" / plate
        tables = source / "workspace" / "load_data_csv" / BATCH / plate
        for folder in (images, illum, tables):
            folder.mkdir(parents=True)
        rows = []
        for well in WELLS:
            for site in (1, 2):
                row = {"Metadata_Plate": plate, "Metadata_Well": well, "Metadata_Site": site}
                for number, channel in enumerate(CHANNELS):
                    name = f"r{well}f{site:02d}p01-ch{number + 1}sk1fk1fl1.tiff"
                    tifffile.imwrite(images / name, rng.poisson(500, (16, 16)).astype(np.uint16))
                    row |= {f"FileName_Orig{channel}": name}
                    row |= {f"PathName_Orig{channel}": f"{address}/images/{full}/Images/"}
                    row |= {f"FileName_Illum{channel}": f"{plate}_Illum{channel}.npy"}
                    row |= {f"PathName_Illum{channel}": f"{address}/illum/{plate}"}
                rows.append(row)
        for channel in CHANNELS:
            np.save(illum / f"{plate}_Illum{channel}.npy", np.full((16, 16), 2.0))
        (images / "Index.idx.xml").write_text("nobody asks for it", encoding="utf-8")
        text = pd.DataFrame(rows).to_csv(index=False)
        (tables / "load_data_with_illum.csv.gz").write_bytes(gzip.compress(text.encode()))
        (tables / "load_data.csv").write_text(text, encoding="utf-8")
    metadata = source / "workspace" / "metadata"
    maps = metadata / "platemaps" / BATCH
    (maps / "platemap").mkdir(parents=True)
    (metadata / "external_metadata").mkdir()
    rows = [f"{plate},map" for plate in PLATES]
    (maps / "barcode_platemap.csv").write_text(
        "\n".join(["Assay_Plate_Barcode,Plate_Map_Name", *rows]), encoding="utf-8"
    )
    wells = [f"map\t{well}\tBRD-{well}\t0.005\tDMSO" for well in WELLS]
    names = "plate_map_name\twell_position\tbroad_sample\tmmoles_per_liter\tsolvent"
    (maps / "platemap" / "map.txt").write_text("\n".join([names, *wells]), encoding="utf-8")
    (metadata / "external_metadata" / "huge_pictures.zip").write_bytes(bytes(100_000))


class Bucket(ThreadingHTTPServer):
    """Answers for a folder as Amazon S3 does, a few keys a page, and errs as a test asks for.

    Attributes
    ----------
    asked, fetched
        How often each key was asked for, and how often for more than what it is.
    bucket
        Its name, where addresses begin with it, as those of an endpoint do.
    errs
        Suffix of keys -> what goes wrong with the answer, and how many times.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.bucket = ""
        self.asked: Counter[str] = Counter()
        self.fetched: Counter[str] = Counter()
        self.errs: dict[str, tuple[str, int]] = {}
        self.pause_s = 0.0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def error_of(self, key: str) -> str:
        for suffix, (what, times) in self.errs.items():
            if key.endswith(suffix) and times:
                self.errs[suffix] = what, times - 1
                return what
        return ""


class Handler(BaseHTTPRequestHandler):
    server: Bucket
    about: ClassVar[dict[str, str]] = {}

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        key = unquote(parts.path).lstrip("/")
        if self.server.bucket:
            key = key.removeprefix(self.server.bucket).lstrip("/")
        time.sleep(self.server.pause_s)
        if not key:
            self.send(200, self.listing({k: v[0] for k, v in parse_qs(parts.query).items()}))
            return
        self.server.asked[key] += 1
        self.server.fetched[key] += self.command == "GET"
        path, error = self.server.folder / key, ""
        if self.command == "GET":
            error = self.server.error_of(key)
        if not path.is_file():
            self.send(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        content = path.read_bytes()
        wanted = self.headers.get("Range")
        begin, _, end = (wanted or "bytes=0-").removeprefix("bytes=").partition("-")
        first = int(begin)
        rest = content[first : int(end) + 1 if end else None]
        self.about = {
            "ETag": f'"{hashlib.md5(content).hexdigest()}"',
            "Last-Modified": formatdate(path.stat().st_mtime, usegmt=True),
        }
        if error == "500":
            self.send(503, b"<Error><Code>SlowDown</Code></Error>")
        elif wanted and first >= len(content):
            self.send(416, b"")
        elif error == "longer":
            self.send(200, content + b"more than there is")
        elif error == "shorter":
            self.send(200, content[:-7])
        elif error == "other":
            self.send(200, bytes(len(content)))
        else:
            self.send(206 if wanted else 200, rest, cut=error == "cut")

    def do_HEAD(self) -> None:
        self.do_GET()

    def send(self, status: int, content: bytes, *, cut: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in self.about.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(content[: len(content) // 2] if cut else content)

    def listing(self, question: dict[str, str]) -> bytes:
        """Answer ListObjectsV2, four entries a page."""
        assert question["list-type"] == "2"
        prefix, delimiter = question.get("prefix", ""), question.get("delimiter", "")
        entries: dict[str, str] = {}
        for path in sorted(p for p in self.server.folder.rglob("*") if p.is_file()):
            key = path.relative_to(self.server.folder).as_posix()
            if not key.startswith(prefix):
                continue
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                folder = prefix + rest.split(delimiter)[0] + delimiter
                entries[folder] = (
                    f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>"
                )
                continue
            tag = hashlib.md5(path.read_bytes()).hexdigest()
            entries[key] = (
                f"<Contents><Key>{escape(key)}</Key><Size>{path.stat().st_size}</Size>"
                f"<ETag>&quot;{tag}&quot;</ETag></Contents>"
            )
        after = question.get("continuation-token", "")
        page = [key for key in sorted(entries) if key > after][:4]
        more = bool(page) and page[-1] != max(entries)
        token = f"<IsTruncated>{str(more).lower()}</IsTruncated>"
        if more:
            token += f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>"
        content = "".join(entries[key] for key in page)
        space = "http://s3.amazonaws.com/doc/2006-03-01/"
        return f'<ListBucketResult xmlns="{space}">{content}{token}</ListBucketResult>'.encode()


class Quiet(SimpleHTTPRequestHandler):
    """A server that lists its folders as pages of links."""

    def log_message(self, *_: Any) -> None:
        pass


def as_at(manifest: pd.DataFrame, here: Path, address: str) -> pd.DataFrame:
    """Return a manifest of a tree on disk as it is where the tree lies at an address."""
    moved = manifest.copy()
    for name in (column for column in manifest if column.startswith("PathName_")):
        moved[name] = manifest[name].str.replace(str(here), address, regex=False)
    return moved


@contextmanager
def served_bucket(name: str, folder: Path) -> Iterator[Bucket]:
    """Serve a folder as a bucket, for several tests."""
    s3fs = pytest.importorskip("s3fs", reason=NEEDS_REMOTE)
    # Made elsewhere, a file system keeps another endpoint.
    s3fs.S3FileSystem.clear_instance_cache()
    with Bucket(folder) as server:
        server.bucket = name
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
    s3fs.S3FileSystem.clear_instance_cache()


def without_account(server: Bucket, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """Make a bucket, of another folder from now on, that of s3:// without an account."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
    server.folder = folder
    server.asked.clear()
    server.fetched.clear()
    return server


@contextmanager
def served_pages(folder: Path) -> Iterator[str]:
    """Serve a folder as pages of links; yield the address."""
    pytest.importorskip("aiohttp", reason=NEEDS_REMOTE)
    handler = partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
