"""An exported folder goes to the Hugging Face Hub as it is, and comes back as the same model."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import yaml

from wsdino.exchange import export_model
from wsdino.model.building import build_networks
from wsdino.model.model import Model, load_model
from wsdino.model.spec import Architecture, ModelSpec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REPOSITORY, COMMIT = "someone/cells", "0123456789" * 4


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as takes in a folder: preupload, storage of large files, commits."""

    protocol_version = "HTTP/1.1"
    files: dict[str, bytes]
    stored: dict[str, bytes]
    asked: list[str]

    def log_message(self, *_: Any) -> None:
        pass

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, found: object, status: int = 200, **headers: str) -> None:
        content = found if isinstance(found, bytes) else json.dumps(found).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_POST(self) -> None:
        path, content = self.path.partition("?")[0], self.body()
        self.asked.append(path)
        where = f"http://{self.headers['Host']}"
        if path == "/api/repos/create":
            self.answer({"url": f"{where}/{REPOSITORY}", "id": REPOSITORY, "name": REPOSITORY})
        elif path == "/api/validate-yaml":
            self.validate(json.loads(content)["content"])
        elif path == f"/api/models/{REPOSITORY}/preupload/main":
            files = [self.planned(each) for each in json.loads(content)["files"]]
            self.answer({"files": files})
        elif path == f"/{REPOSITORY}.git/info/lfs/objects/batch":
            objects = json.loads(content)["objects"]
            for each in objects:
                each["actions"] = {"upload": {"href": f"{where}/storage/{each['oid']}"}}
            self.answer({"objects": objects, "transfer": "basic"})
        elif path == f"/api/models/{REPOSITORY}/commit/main":
            for line in map(json.loads, content.splitlines()):
                self.commit(line)
            self.answer({"commitUrl": f"{where}/{REPOSITORY}/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self.answer({"error": path}, 404)

    def planned(self, file: dict[str, Any]) -> dict[str, Any]:
        # The Hub looks into a file: what isn't text is stored apart.
        sample = base64.b64decode(file["sample"])
        mode = "lfs" if b"\0" in sample or file["size"] > 10**7 else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}

    def validate(self, card: str) -> None:
        """As strict as the Hub: a licence that it doesn't know needs a name and a link."""
        _, front, text = card.split("---\n", maxsplit=2)
        values, errors = yaml.safe_load(front), []
        if values.get("license") == "other" and not {"license_name", "license_link"} <= set(values):
            errors.append({"message": "a licence needs a name and a link"})
        if not text.lstrip().startswith("# "):
            errors.append({"message": "no title"})
        self.answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    def commit(self, line: dict[str, Any]) -> None:
        value = line["value"]
        if line["key"] == "file":
            assert value["encoding"] == "base64"
            self.files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            self.files[value["path"]] = self.stored[value["oid"]]

    def do_PUT(self) -> None:
        content, name = self.body(), self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == name
        self.stored[name] = content
        self.answer({})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        resolved = f"/{REPOSITORY}/resolve/{COMMIT}/"
        if path == f"/api/models/{REPOSITORY}/revision/main":
            siblings = [{"rfilename": name} for name in self.files]
            self.answer({"id": REPOSITORY, "sha": COMMIT, "siblings": siblings})
        elif path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": name}
                for name, content in self.files.items()
            ]
            self.answer(tree)
        elif path.startswith(resolved) and path.removeprefix(resolved) in self.files:
            content = self.files[path.removeprefix(resolved)]
            tag = hashlib.sha256(content).hexdigest()
            self.answer(content, ETag=f'"{tag}"', X_Repo_Commit=COMMIT)
        else:
            self.answer({"error": path}, 404)


@pytest.fixture
def hub() -> Iterator[type[Hub]]:
    handler = type("ThisHub", (Hub,), {"files": {}, "stored": {}, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    handler.address = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield handler
    server.shutdown()
    server.server_close()


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A model's folder, with a card."""
    torch.manual_seed(0)
    architecture = Architecture(
        image_size=16, patch_size=8, dim=16, depth=1, num_heads=2, stem="linear"
    )
    spec = ModelSpec(("DAPI", "Actin"), architecture=architecture, tile=16, origin="OpenPhenom")
    Model(spec, build_networks(spec)).save(tmp_path / "run")
    export_model(tmp_path / "run", tmp_path / "cells")
    return tmp_path / "cells"


PUSH = """
import sys
from huggingface_hub import HfApi, snapshot_download

api = HfApi()
api.create_repo(sys.argv[1], exist_ok=True)
api.upload_folder(repo_id=sys.argv[1], folder_path=sys.argv[2])
print(snapshot_download(sys.argv[1], local_dir=sys.argv[3]))
"""


def test_the_hub_takes_the_folder_as_it_is(exported: Path, tmp_path: Path, hub: Any) -> None:
    back = tmp_path / "back"
    environment = os.environ | {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(tmp_path / "home"),
        "HF_TOKEN": "hf_nobody",
        # Its own storage protocol isn't HTTP that a test could answer.
        "HF_HUB_DISABLE_XET": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", PUSH, REPOSITORY, exported, back],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    sent = {path.name: path.read_bytes() for path in exported.iterdir()}
    assert {name: hub.files[name] for name in sent} == sent
    assert "/api/validate-yaml" in hub.asked
    assert set(hub.stored) == {hashlib.sha256(sent["model.safetensors"]).hexdigest()}
    images = np.random.default_rng(0).integers(0, 9000, (1, 2, 16, 32), dtype=np.uint16)
    ours, theirs = load_model(exported), load_model(back)
    assert ours.spec == theirs.spec
    np.testing.assert_array_equal(ours.embed(images), theirs.embed(images))


def test_the_card_has_the_hub_s_front_matter(exported: Path) -> None:
    _, front, text = (exported / "README.md").read_text(encoding="utf-8").split("---\n", maxsplit=2)
    values = yaml.safe_load(front)
    assert values["library_name"] == "wsdino"
    assert values["license"] == "other"
    assert values["license_name"] == "recursion-noncommercial-end-user-license-agreement"
    assert values["license_link"].startswith("https://")
    assert "| weights | OpenPhenom (https://github.com/recursionpharma/maes_microscopy) |" in text


LOAD = """
import sys

def refuse(event, arguments):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.sendto"}:
        raise SystemExit(f"{event} {arguments}")

sys.addaudithook(refuse)
from wsdino.model.model import load_model

model = load_model(sys.argv[1])
print(model.channels, model.embed(__import__("numpy").zeros((1, 2, 16, 16), "uint8")).shape)
"""


def test_loading_a_folder_asks_nobody(exported: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOAD, exported], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "('DAPI', 'Actin') (1, 32)\n"
