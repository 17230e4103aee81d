"""BBBC021 from a real server on this machine: cut connections, damage, kills."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from helpers_run import finish, start
from helpers_screen import write_bbbc021_folder
from wsdino.errors import InputError, OutputError, WsdinoError
from wsdino.screen import download, fetch
from wsdino.screen.download import download_bbbc021
from wsdino.screen.manifest import read_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PLATES = ("Week1_10001", "Week1_10002", "Week2_20001", "Week2_20002")
ZIP = "BBBC021_v1_images_{}.zip"


class Server(ThreadingHTTPServer):
    """Serves a folder, and does what a test asks for with some of the answers.

    Attributes
    ----------
    asked
        Path and Range of each request.
    cut_after
        Bytes after which answers with this suffix break off, for so many times.
    ignores_ranges
        Whether it sends everything whatever was asked for.
    pause_s
        What it waits between two blocks.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.asked: list[tuple[str, str | None]] = []
        self.cut_after: tuple[str, int, int] = ("", 0, 0)
        self.ignores_ranges = False
        self.pause_s = 0.0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def asked_for(self, name: str) -> list[str | None]:
        return [wanted for path, wanted in self.asked if path == f"/{name}"]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        path = self.server.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        first = 0
        if wanted and not self.server.ignores_ranges:
            first = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if first >= len(content):
                self.send_error(416)
                return
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        suffix, limit, times = self.server.cut_after
        rest = content[first:]
        if times and suffix and self.path.endswith(suffix):
            self.server.cut_after = suffix, limit, times - 1
            rest = rest[:limit]
        for at in range(0, len(rest), 4096):
            self.wfile.write(rest[at : at + 4096])
            time.sleep(self.server.pause_s)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables and archives as they are published, and the screen they are made from."""
    folder = tmp_path_factory.mktemp("published")
    screen = write_bbbc021_folder(folder / "screen", num_sites=1)
    for table in screen.glob("*.csv"):
        shutil.copy(table, folder)
    for plate in PLATES:
        with zipfile.ZipFile(folder / ZIP.format(plate), "w", zipfile.ZIP_DEFLATED) as archive:
            for image in sorted((screen / plate.split("_")[0] / plate).iterdir()):
                archive.write(image, f"{plate}/{image.name}")
            archive.writestr(f"{plate}/thumbs/Thumbs.db", b"what nobody asked for")
    return folder


@pytest.fixture
def server(published: Path) -> Iterator[Server]:
    with Server(published) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(fetch, "BLOCK", 4096)


def assert_whole(out: Path, published: Path) -> None:
    ours, theirs = read_manifest(out), read_manifest(published / "screen")
    paths = [f"PathName_{channel}" for channel in ("DAPI", "Tubulin", "Actin")]
    pd.testing.assert_frame_equal(ours.drop(columns=paths), theirs.drop(columns=paths))
    for image in (published / "screen").rglob("*.tif"):
        copy = out / image.relative_to(published / "screen")
        assert copy.read_bytes() == image.read_bytes()
    assert not list(out.rglob("*.partial"))
    assert not list(out.rglob("*.zip"))
    assert not list(out.rglob("Thumbs.db"))


def test_the_whole_screen_arrives_and_can_be_ingested(
    server: Server, published: Path, tmp_path: Path
) -> None:
    download_bbbc021(tmp_path / "out", source=server.address)
    assert_whole(tmp_path / "out", published)
    num_asked = len(server.asked)
    download_bbbc021(tmp_path / "out", source=server.address)
    assert len(server.asked) == num_asked, "all is there"


def test_some_plates_are_a_screen_and_more_may_follow(
    server: Server, published: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    download_bbbc021(out, plates=PLATES[2:3], source=server.address)
    assert set(read_manifest(out)["Metadata_Plate"]) == {PLATES[2]}
    download_bbbc021(out, plates=PLATES[:1], source=server.address)
    assert set(read_manifest(out)["Metadata_Plate"]) == {PLATES[0], PLATES[2]}
    download_bbbc021(out, source=server.address)
    assert_whole(out, published)
    assert len(server.asked_for(ZIP.format(PLATES[0]))) == 1


def test_a_cut_connection_goes_on_where_it_broke(
    server: Server, published: Path, tmp_path: Path
) -> None:
    server.cut_after = ".zip", 20_000, 3
    download_bbbc021(tmp_path / "out", source=server.address)
    assert_whole(tmp_path / "out", published)
    assert server.asked_for(ZIP.format(PLATES[0]))[:3] == [None, "bytes=20000-", "bytes=40000-"]


def test_a_server_without_ranges_sends_all_again(
    server: Server, published: Path, tmp_path: Path
) -> None:
    server.cut_after, server.ignores_ranges = (".zip", 20_000, 2), True
    download_bbbc021(tmp_path / "out", source=server.address)
    assert_whole(tmp_path / "out", published)


def test_what_fails_over_and_over_is_given_up_and_goes_on_later(
    server: Server, published: Path, tmp_path: Path
) -> None:
    server.cut_after = ".zip", 1000, 5
    with pytest.raises(WsdinoError, match=r"cut off after .* tried 5 times") as caught:
        download_bbbc021(tmp_path / "out", source=server.address)
    assert not isinstance(caught.value, InputError)
    download_bbbc021(tmp_path / "out", source=server.address)
    assert_whole(tmp_path / "out", published)
    assert "bytes=5000-" in server.asked_for(ZIP.format(PLATES[0]))


def test_a_part_of_another_archive_is_not_trusted(
    server: Server, published: Path, tmp_path: Path
) -> None:
    """What was there is longer than the whole, or other bytes: it is fetched once more."""
    download_bbbc021(tmp_path / "out", plates=PLATES[1:2], source=server.address)
    hidden = tmp_path / "out" / download.UNFINISHED
    size = (published / ZIP.format(PLATES[0])).stat().st_size
    (hidden / f"{PLATES[0]}.zip.partial").write_bytes(b"x" * (size + 5))
    (hidden / f"{PLATES[2]}.zip.partial").write_bytes(b"x" * (size // 2))
    download_bbbc021(tmp_path / "out", source=server.address)
    assert_whole(tmp_path / "out", published)


@pytest.mark.parametrize("damage", ["flipped", "lacking", "torn", "encrypted", "elsewhere"])
def test_an_archive_that_is_damaged_where_it_is_published(
    published: Path, tmp_path: Path, damage: str
) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for path in [*published.glob("*.csv"), *published.glob("*.zip")]:
        shutil.copy(path, mirror)
    spoiled = mirror / ZIP.format(PLATES[1])
    content = bytearray(spoiled.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 255
        spoiled.write_bytes(content)
    elif damage == "encrypted":
        # Bit 0 of the flags of the first member, where it begins and in the list at the end.
        content[6] |= 1
        content[content.index(b"PK\x01\x02") + 8] |= 1
        spoiled.write_bytes(content)
    elif damage == "elsewhere":
        # Where the list of members begins, according to the last record.
        end = content.rindex(b"PK\x05\x06")
        content[end + 16 : end + 20] = (2**32 - 2).to_bytes(4, "little")
        spoiled.write_bytes(content)
    elif damage == "torn":
        spoiled.write_bytes(content[: len(content) // 2])
    else:
        with zipfile.ZipFile(spoiled, "w") as archive:
            archive.writestr(f"{PLATES[1]}/other.tif", b"II*")
    with Server(mirror) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(WsdinoError, match=r"10002.zip: the archive (is damaged|lacks).* twice"):
            download_bbbc021(tmp_path / "out", source=server.address)
        server.shutdown()
    assert set(read_manifest(tmp_path / "out")["Metadata_Plate"]) == {PLATES[0]}
    for image in (tmp_path / "out").rglob("*.tif"):
        whole = published / "screen" / image.relative_to(tmp_path / "out")
        assert image.read_bytes() == whole.read_bytes()


def test_a_killed_download_goes_on(server: Server, published: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for _ in range(3):
        server.pause_s = 0.01
        process = start("download", "bbbc021", "--out", out, "--source", server.address)
        deadline = time.monotonic() + 60
        num_asked = len(server.asked)
        while len(server.asked) < num_asked + 2:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        finish(process)
    server.pause_s = 0.0
    process = start("download", "bbbc021", "--out", out, "--source", server.address)
    assert finish(process)[:2] == (0, f"{out}\n")
    assert_whole(out, published)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"plates": ["Week9_1"]}, "--plate Week9_1: .* has no such plate; it has Week1_10001"),
        ({"source": "ftp://somewhere"}, "not an http or https address"),
        ({"source": "{}/absent"}, "the server answered 404 .*; --source must be"),
        ({"source": "{}/here and dört\u202e"}, "the server answered 404 .*; --source must be"),
    ],
)
def test_what_is_wrong_is_one_line(
    server: Server, tmp_path: Path, options: dict[str, Any], line: str
) -> None:
    given = {"source": server.address} | options
    given["source"] = given["source"].format(server.address)
    with pytest.raises(InputError, match=line) as caught:
        download_bbbc021(tmp_path / "out", **given)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.tif"))


def test_nobody_there_and_a_folder_in_the_way(tmp_path: Path, published: Path) -> None:
    with pytest.raises(WsdinoError, match=r"refused.*tried 5 times"):
        download_bbbc021(tmp_path / "out", source="http://127.0.0.1:9")
    with pytest.raises(OutputError, match="exists and is not a download"):
        download_bbbc021(published, source="http://127.0.0.1:9")


def test_a_table_that_names_places_outside_is_refused(published: Path, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    table = pd.read_csv(published / "BBBC021_v1_image.csv")
    paths = [name for name in table if name.startswith("Image_PathName_")]
    table[paths] = table[paths].apply(lambda row: row.str.replace("Week1/", "../../Week1/"))
    table.to_csv(mirror / "BBBC021_v1_image.csv", index=False)
    shutil.copy(published / "BBBC021_v1_moa.csv", mirror)
    with Server(mirror) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(InputError, match="lies outside the folder"):
            download_bbbc021(tmp_path / "out", source=server.address)
        server.shutdown()


@pytest.mark.parametrize("name", ["BBBC021_v1_moa.csv", "BBBC021_v1_image.csv"])
def test_a_table_that_is_damaged_later_is_fetched_again(
    server: Server,
    published: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    out, plates = tmp_path / "out", PLATES[:1]
    download_bbbc021(out, plates=plates, source=server.address)
    before = (out / name).read_bytes()
    for table in (out / ".download" / name, out / name):
        data = bytearray(table.read_bytes())
        data[data.index(b"compound")] ^= 1
        table.write_bytes(data)
    download_bbbc021(out, plates=plates, source=server.address)
    assert (out / name).read_bytes() == before
    assert (out / ".download" / name).read_bytes() == (published / name).read_bytes()
    assert f"{name}: differs from what was downloaded" in capsys.readouterr().err
    assert len(server.asked_for(name)) == 2
