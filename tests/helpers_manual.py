"""The manual's code blocks: reading them from the pages, and running a page in a folder.

A fenced block of `bash` or `python` is run; one of `text` is output, and is not. A comment on the
line above says otherwise:

- `<!-- needs: gpu -->` (or `network`, `slurm`, `hosts`, `data`, `time`): the block isn't run here,
  but its commands, options and imports are checked like all others;
- `<!-- file: mine.yaml -->`: the block is the content of that file.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
DOCS = REPO / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
NEEDS = ("gpu", "network", "slurm", "hosts", "data", "time")
_FENCE = re.compile(
    r"^(?:<!-- (?P<key>needs|file): (?P<value>[^\n]+?) -->\n)?```(?P<language>\w*)[^\n]*\n"
    r"(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


# How the script of a page begins; an error of a command ends it.
START = """
import pathlib, subprocess, sys
from wsdino.cli.main import main

def call(words):
    print(*words, flush=True)
    sys.argv = words
    try:
        main()
    except SystemExit as stop:
        if stop.code:
            raise
"""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes
    ----------
    where
        Page and line.
    language, text
        What the fence says, and what is between the fences.
    needs, file
        What the comment above it says; empty without one.
    """

    where: str
    language: str
    text: str
    needs: str = ""
    file: str = ""


def name_of(page: Path) -> str:
    """A page's path below docs/, without its suffix; the front page is `README`."""
    return page.relative_to(DOCS if DOCS in page.parents else REPO).with_suffix("").as_posix()


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    blocks = []
    for found in _FENCE.finditer(text):
        line = text.count("\n", 0, found.start("language")) + 1
        marker = {found["key"]: found["value"]} if found["key"] else {}
        where = f"{name_of(page)}.md:{line}"
        blocks.append(Block(where, found["language"], found["text"], **marker))
    return blocks


def lines_of(text: str) -> list[list[str]]:
    """The words of each line of a shell script; a line that is continued is one."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def commands_of(text: str) -> list[list[str]]:
    """The arguments of each `wsdino` command of a shell script, torchrun's among them."""
    found = []
    for words in lines_of(text):
        if words[:1] == ["wsdino"]:
            found.append(words[1:])
        elif "wsdino" in words and words[words.index("wsdino") - 1] == "-m":
            found.append(words[words.index("wsdino") + 1 :])
    return found


def run_page(page: Path, folder: Path) -> None:
    """Run a page's blocks in order, in one process that starts in a folder.

    Raises
    ------
    AssertionError
        With the output, if a block fails.
    """
    lines = []
    for block in blocks_of(page):
        if block.file:
            lines.append(f"pathlib.Path({block.file!r}).write_text({block.text!r})")
        elif block.needs:
            continue
        elif block.language == "bash" and all(w[0] == "wsdino" for w in lines_of(block.text)):
            # Without a process for each, which would import everything again.
            lines += [f"call({words!r})" for words in lines_of(block.text)]
        elif block.language == "bash":
            # The commands of this checkout, whatever else is installed.
            text = (
                '\nwsdino() { "$PYTHON" -m wsdino "$@"; }\n'
                'torchrun() { "$PYTHON" -m torch.distributed.run "$@"; }\n' + block.text
            )
            shell = ["bash", "-euo", "pipefail", "-c", text, block.where]
            lines.append(f"print({block.where!r}, flush=True)")
            lines.append(f"subprocess.run({shell!r}, check=True)")
        elif block.language == "python":
            lines.append(f"print({block.where!r}, flush=True)")
            lines.append(f"exec(compile({block.text!r}, {block.where!r}, 'exec'), globals())")
    script = folder / ".page.py"
    # Processes that simulate or read in parallel import the script, and must not run it.
    body = "".join(f"    {line}\n" for line in lines)
    script.write_text(f'{START}\n\nif __name__ == "__main__":\n{body}', encoding="utf-8")
    fixed = {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        env=os.environ | fixed,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]
