"""Damaged bytes for every parser: `python benchmarks/fuzz.py --inputs 1000`.

Each input is valid input with one to three damages: flipped bits, other bytes, pieces cut out,
doubled, moved or cut off; in JSON, XML, YAML and CSV also other values in place of words, numbers
and nodes (huge, negative, NaN, empty, nested thousands deep, of another type); in gzip and zip also
damage of what is packed, packed again with right checksums. An input is determined by the seed, the
parser and its number: `--only PARSER --first NUMBER --inputs 1` makes it again, and shows what it
raises. Parsers take turns. With `--state` counts are kept in `benchmarks/results/fuzz.json`, or the
file named, beside the commits of the code that was fuzzed: a call goes on with the numbers that
come next of its `--seed` and `--first`, after those of them that failed before. The file is made to
be committed: several days add up, and several machines, each with a seed of its own.

Counted are inputs that were read, that were refused by a wsdino error, and failures: any other
exception, a process that died, reading that took more than 10 s or more than 2 GB. Exits with 1 if
there are any. `--write` writes `benchmarks/results/fuzz.md`, after every turn of a parser.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import gzip
import importlib
import io
import json
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import yaml

from fuzz_parsers import PARSERS, Parser
from wsdino.atomic import writing
from wsdino.lock import one_writer_of_file

if TYPE_CHECKING:
    from collections.abc import Callable

RESULT = Path(__file__).parent / "results" / "fuzz.md"
STATE = RESULT.with_suffix(".json")
KINDS = ("read", "refused", "failures")
LIMIT_S, LIMIT_KIB = 10.0, 2 * 2**20
TURN = 1_000  # inputs of a parser before the next one's turn
TEXT = {".json", ".jsonl", ".yaml", ".csv", ".txt", ".tsv", ".xml", ".htd", ".jdce", ".mlf", ".ome"}
TEXT |= {".mrf", ".mes", ".zattrs", ".zarray", ".zgroup"}
WORDS = (
    *(
        "",
        "-1",
        "0",
        "1e308",
        "-1e308",
        "NaN",
        "inf",
        "99999999999999999999",
        "0.5",
        "null",
        "true",
    ),
    *("\0", "\x1b[31m", "\u202e", "../../../etc/passwd", "/dev/zero", "=1+1", "<b>", '"', "'", ","),
    *("[" * 3000, "{" * 3000, "a" * 100_000, "[1, 2]", "{}", "\ud800", "\r", ";", "2019-01-01"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, [], {}, "", -1, 0, 2**63, 1e308, float("nan"), "x" * 10_000, [[]], [None], "a"),
    *({"a": {}}, [{}], -0.5, "\x1b[2J", 10**9, [1, 2, 3]),
)


def damaged_text(content: bytes, rng: random.Random) -> bytes:
    """Put something else in place of a word or number."""
    text = content.decode("utf-8", errors="surrogateescape")
    words = list(re.finditer(r"[\w.+-]+", text))
    if not words:
        return damaged_bytes(content, rng)
    word, other = rng.choice(words), rng.choice([*WORDS, rng.choice(words)[0]])
    changed = text[: word.start()] + other + text[word.end() :]
    return changed.encode("utf-8", errors="surrogatepass")


def damaged_json(content: bytes, rng: random.Random) -> bytes:
    """Put another value in place of a node, or leave one out."""
    try:
        root = json.loads(content)
    except (ValueError, RecursionError):
        return damaged_text(content, rng)
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        inside = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in inside:
            places.append((node, key))
            if isinstance(value, (dict, list)):
                walk(value)

    if isinstance(root, (dict, list)):
        walk(root)
    if not places or rng.random() < 0.02:
        return json.dumps(rng.choice(VALUES)).encode()
    node, key = rng.choice(places)
    if rng.random() < 0.2:
        del node[key]
    elif rng.random() < 0.02:
        node[key] = "HERE"
        return json.dumps(root).replace('"HERE"', "[" * 3000 + "]" * 3000).encode()
    else:
        node[key] = rng.choice([*VALUES, rng.choice(places)[1]])
    return json.dumps(root).encode()


def damaged_yaml(content: bytes, rng: random.Random) -> bytes:
    """Put another value in place of a node; what is written is JSON, which is YAML, too."""
    try:
        return damaged_json(json.dumps(yaml.safe_load(content)).encode(), rng)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return damaged_text(content, rng)


def damaged_line(content: bytes, rng: random.Random) -> bytes:
    """Damage one of the lines, each of which is JSON."""
    lines = content.split(b"\n")
    row = rng.randrange(len(lines))
    lines[row] = damaged_json(lines[row], rng)
    return b"\n".join(lines)


def damaged_bytes(content: bytes, rng: random.Random) -> bytes:
    """Flip, replace, cut, double or move bytes."""
    data = bytearray(content)
    if not data:
        return rng.randbytes(rng.randrange(1, 50))
    # Headers at both ends are a small part of the bytes and most of the parsing.
    size = len(data)
    at = rng.choice(
        [
            rng.randrange(size),
            rng.randrange(min(size, 200)),
            size - 1 - rng.randrange(min(size, 200)),
        ]
    )
    span = rng.choice([1, 2, 4, 8, rng.randrange(1, size + 1)])
    match rng.randrange(8):
        case 0 | 1:
            data[at] ^= 1 << rng.randrange(8)
        case 2:
            data[at] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
        case 3:
            data[at : at + min(span, 8)] = rng.choice(
                [b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7]
            )[: min(span, 8)]
        case 4:
            del data[at:]
        case 5:
            del data[at : at + span]
        case 6:
            data[at:at] = data[at : at + span]
        case 7:
            other = rng.randrange(size)
            data[at : at + span] = data[other : other + span]
    return bytes(data)


def damaged_zip(content: bytes, rng: random.Random) -> bytes:
    """Damage a member, and pack it with a right checksum; or add one that grows."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(one, archive.read(one)) for one in archive.infolist()]
    except Exception:  # noqa: BLE001 it is damaged already
        return damaged_bytes(content, rng)
    chosen = rng.randrange(len(members)) if members else -1
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", members[0][0].compress_type if members else 0) as archive:
        for number, (one, data) in enumerate(members):
            archive.writestr(one.filename, damaged_bytes(data, rng) if number == chosen else data)
    return packed.getvalue()


def damaged(path: Path, content: bytes, rng: random.Random) -> bytes:
    """Damage the content of a file once, in a way that suits it."""
    suffix = (path.suffix or path.name).lower()
    if rng.random() < 0.4:
        return damaged_bytes(content, rng)
    if suffix in {".json", ".zattrs", ".zarray", ".zgroup", ".jdce"}:
        return damaged_json(content, rng)
    if suffix in {".yaml", ".jsonl"} and rng.random() < 0.7:
        return (damaged_yaml if suffix == ".yaml" else damaged_line)(content, rng)
    if content[:2] == b"PK":
        return damaged_zip(content, rng)
    if content[:2] == b"\x1f\x8b":
        with contextlib.suppress(OSError, EOFError, ValueError, zlib.error):
            return gzip.compress(damaged_text(gzip.decompress(content), rng), 1)
    return damaged_text(content, rng) if suffix in TEXT else damaged_bytes(content, rng)


def damage_one(parser: Parser, folder: Path, seed: int, number: int) -> str:
    """Damage one file of valid input in place; return its name."""
    rng = random.Random(f"{seed} {parser.name} {number}")  # noqa: S311 nothing is secret
    files = sorted({f for pattern in parser.files for f in folder.glob(pattern) if f.is_file()})
    files = [file for file in files if file.suffix != ".tif" or "tif" in parser.name]
    path = rng.choice(files)
    content = path.read_bytes()
    for _ in range(rng.choice([1, 1, 2, 3])):
        plain = parser.checks_sums
        content = damaged_bytes(content, rng) if plain else damaged(path, content, rng)
    path.write_bytes(content)
    if rng.random() < 0.01:
        path.unlink()
    return path.relative_to(folder).as_posix()


class Restored:
    """A copy of valid input that is made whole again; only what was changed is written."""

    def __init__(self, valid: Path, copy: Path) -> None:
        shutil.copytree(valid, copy)
        self.valid, self.copy = valid, copy
        self.seen = self._found()

    def _found(self) -> dict[str, tuple[int, int, int]]:
        """Inode, size and time of change of each file and folder; a reader may write, too."""
        found = {}
        for folder, folders, files in os.walk(self.copy):
            for name in (*folders, *files):
                path = os.path.join(folder, name)  # noqa: PTH118 many of them, each time
                status = os.lstat(path)
                # A folder's own size and time follow from what is in it.
                own = (status.st_size, status.st_ctime_ns) if name in files else (0, 0)
                found[path] = (status.st_ino, *own)
        return found

    def restore(self) -> None:
        """Make the copy what the valid input is."""
        found = self._found()
        if found == self.seen:
            return
        for name in sorted(found.keys() - self.seen.keys(), reverse=True):
            path = Path(name)
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        for name in sorted(self.seen):
            if found.get(name) != self.seen[name]:
                valid, path = self.valid / Path(name).relative_to(self.copy), Path(name)
                path.mkdir(exist_ok=True) if valid.is_dir() else shutil.copy2(valid, path)
        self.seen = self._found()


def outcome(parser: Parser, path: Path) -> str:
    """Read input; return `read`, `refused`, or what is wrong."""
    from wsdino.errors import WsdinoError
    from wsdino.runrecord import Omitted

    try:
        parser.read(path)
    except (WsdinoError, Omitted):
        return "refused"
    except Exception as error:  # noqa: BLE001 this is what is looked for
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "wsdino/" in f.filename]
        where = f"{frames[-1].filename.split('wsdino/')[-1]}:{frames[-1].lineno}" if frames else "?"
        return f"{type(error).__name__} at {where}"
    return "read"


def _peak_kib() -> int:
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+)", status.read_text()) if status.is_file() else None
    return int(found[1]) if found else 0


def child(parser: Parser, seed: int, first: int, num: int, replies: TextIO | None) -> None:
    """Read inputs one after another; reply before and after each, or show what is raised."""
    from wsdino.progress import set_quiet

    set_quiet(True)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        valid, input_ = Path(temporary, "valid"), Path(temporary, "input")
        valid.mkdir()
        relative = parser.make(valid).relative_to(valid)
        copy = Restored(valid, input_)
        parser.read(input_ / relative)  # Valid input is read without an error.
        gc.collect()
        gc.freeze()  # What has been imported is not looked through again and again.
        if replies is not None:
            nobody = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nobody, 1)
            os.dup2(nobody, 2)
        for number in range(first, first + num):
            copy.restore()
            name = damage_one(parser, input_, seed, number)
            if replies is None:
                print(name)
                parser.read(input_ / relative)
                continue
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # The peak starts anew.
            before = _peak_kib()
            print(f"start {number} {name}", file=replies, flush=True)
            found = outcome(parser, input_ / relative)
            grown = _peak_kib() - before
            found = found if grown < LIMIT_KIB else f"{grown / 2**20:.1f} GiB of memory"
            print(f"end {found}", file=replies, flush=True)


def forked(parser: Parser, seed: int, first: int, num: int) -> tuple[int, int]:
    """Start a process that reads inputs; return its number, and where it replies."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid:
        os.close(theirs)
        return pid, ours
    os.close(ours)
    with os.fdopen(theirs, "w") as replies:
        try:
            child(parser, seed, first, num, replies)
        except BaseException:  # noqa: BLE001 the process ends here
            print(f"broken {traceback.format_exc()!r}", file=replies, flush=True)
            os._exit(1)
    os._exit(0)


@dataclass
class Tally:
    """What became of the inputs of a parser."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: dict[str, list[int]] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, number: int, found: str) -> None:
        """Count an input."""
        if found in {"read", "refused"}:
            self.counts[found] += 1
        else:
            self.counts["failures"] += 1
            self.failures.setdefault(found, []).append(number)

    def join(self, other: Tally) -> None:
        """Count what another has counted, too."""
        self.counts += other.counts
        for what, numbers in other.failures.items():
            self.failures.setdefault(what, []).extend(numbers)
        self.seconds += other.seconds

    def failed(self) -> list[int]:
        """Return the numbers of the inputs that failed."""
        return sorted(number for numbers in self.failures.values() for number in numbers)

    def forget(self, number: int) -> None:
        """Take an input that failed back."""
        for what, numbers in list(self.failures.items()):
            if number in numbers:
                numbers.remove(number)
                self.counts["failures"] -= 1
            if not numbers:
                del self.failures[what]


def run(parser: Parser, *, seed: int, first: int, num: int, seconds: float) -> Tally:
    """Read inputs in a process that may hang or die, until their number or the time is up."""
    tally, number, start = Tally(), first, time.monotonic()
    while number < first + num and time.monotonic() - start < seconds:
        pid, replies = forked(parser, seed, number, first + num - number)
        pending, since, busy, line = False, 0.0, 0.0, b""
        while time.monotonic() - start < seconds or pending:
            ready, _, _ = select.select([replies], [], [], 0.5)
            if ready:
                line += (block := os.read(replies, 1 << 16))
                *lines, line = line.split(b"\n")
                for each in map(bytes.decode, lines):
                    if each.startswith("broken"):
                        print(f"{parser.name}, {number}: {each}", file=sys.stderr, flush=True)
                        tally.add(number, "valid input can't be read")
                        os.waitpid(pid, 0)
                        os.close(replies)
                        return tally
                    pending, since, busy = each.startswith("start"), time.monotonic(), _cpu_s(pid)
                    if not pending:
                        tally.add(number, each.removeprefix("end "))
                        number += 1
                if not block:
                    break
            # The machine may be busy with other things: the process's own time counts. One that
            # waits for ever has none, and is given six times as long.
            elif pending and _hangs(since, _cpu_s(pid) - busy):
                tally.add(number, f"hangs for more than {LIMIT_S:g} s")
                number += 1
                pending = False
                break
        os.kill(pid, signal.SIGKILL)
        _, ended, used = os.wait4(pid, 0)
        status = os.waitstatus_to_exitcode(ended)
        tally.seconds += used.ru_utime + used.ru_stime
        os.close(replies)
        if pending:
            tally.add(number, f"the process died with status {status}")
            number += 1
    return tally


def _hangs(since: float, cpu_s: float) -> bool:
    return cpu_s > LIMIT_S or time.monotonic() - since > 6 * LIMIT_S


def _cpu_s(pid: int) -> float:
    """Return how long a process has computed; where that is unknown, the time."""
    path = Path(f"/proc/{pid}/stat")
    if not path.is_file():
        return time.monotonic()
    # Its name, in brackets, may hold spaces.
    numbers = path.read_text().rpartition(")")[2].split()
    return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Campaign:
    """What became of the inputs of a seed, from a first number on."""

    seed: int
    first: int
    commits: dict[str, int] = field(default_factory=dict)
    parsers: dict[str, Tally] = field(default_factory=dict)


def table(campaigns: list[Campaign], names: list[str]) -> str:
    """Write down the counts of parsers, by their names."""
    seeds = ", ".join(f"`--seed {one.seed}`" for one in campaigns)
    commits: Counter[str] = Counter()
    for one in campaigns:
        commits.update(one.commits)
    code = ", ".join(f"{commit} ({num:,})" for commit, num in commits.items())
    lines = [
        "# Damaged bytes for every parser",
        "",
        f"`python benchmarks/fuzz.py`, {seeds}; see there for what is done to the inputs.",
        "Refused: one line of a wsdino error. Failures: any other exception, a process that died,",
        f"more than {LIMIT_S:g} s, or more than {LIMIT_KIB / 2**20:g} GiB of memory.",
        "",
        f"Commits of the code, and inputs read by each: {code}.",
        "",
        "| parser | inputs | read | refused | failures | CPU, s |",
        "|---|---|---|---|---|---|",
    ]
    total, failures = Counter[str](), []
    for name in names:
        whole = Tally()
        for one in campaigns:
            own = one.parsers.get(name, Tally())
            whole.join(own)
            for what, numbers in own.failures.items():
                some = ", ".join(map(str, numbers[:5]))
                times = f"{len(numbers)} times; seed {one.seed}, inputs {some}"
                failures.append(f"\n- {name}: {what} ({times})")
        total += whole.counts
        cells = [whole.counts.total(), *(whole.counts[key] for key in KINDS)]
        lines.append(f"| {name} | {' | '.join(f'{c:,}' for c in cells)} | {whole.seconds:.0f} |")
    cells = [total.total(), *(total[key] for key in KINDS)]
    lines.append(f"| all | {' | '.join(f'{c:,}' for c in cells)} | |")
    return "\n".join([*lines, *failures]) + "\n"


def take_turns(
    chosen: list[Parser],
    campaign: Campaign,
    *,
    num: int,
    seconds: float,
    keep: Callable[[], None],
) -> None:
    """Let the parsers take turns until each has read its number of inputs, or the time is up."""
    tallies, commit = campaign.parsers, commit_of_code()
    start = time.monotonic()

    def left() -> float:
        return seconds - (time.monotonic() - start)

    def turn(one: Parser, number: int, many: int, *, again: bool = False) -> None:
        tally = run(one, seed=campaign.seed, first=number, num=many, seconds=left())
        if again and tally.counts:
            tallies[one.name].forget(number)
        tallies[one.name].join(tally)
        if tally.failures:
            print(one.name, tally.failures, file=sys.stderr, flush=True)
        if read := tally.counts.total():
            campaign.commits[commit] = campaign.commits.get(commit, 0) + read
        keep()

    for one in chosen:
        for number in tallies.setdefault(one.name, Tally()).failed():
            if left() > 0:
                turn(one, number, 1, again=True)
    while left() > 0:
        one = min(chosen, key=lambda each: tallies[each.name].counts.total())
        done = tallies[one.name].counts.total()
        if done >= num:
            break
        turn(one, campaign.first + done, min(TURN, num - done))


def commit_of_code() -> str:
    """Return the commit of what is fuzzed, with a + where files differ from it."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            return ""

    differs = git("status", "--porcelain", "--", "../src", "../tests", "fuzz.py", "fuzz_parsers.py")
    return (git("rev-parse", "--short=10", "HEAD").strip() or "unknown") + "+" * bool(differs)


def read_state(path: Path) -> list[Campaign]:
    """Read what earlier calls have counted."""
    if not path.exists():
        return []
    return [
        Campaign(
            one["seed"],
            one["first"],
            one["commits"],
            {
                name: Tally(Counter(each["counts"]), each["failures"], each["seconds"])
                for name, each in one["parsers"].items()
            },
        )
        for one in json.loads(path.read_text())
    ]


def write_state(path: Path, campaigns: list[Campaign]) -> None:
    """Keep what has been counted, a parser on each line."""
    parts = []
    for one in campaigns:
        parsers = ",\n".join(
            f"  {json.dumps(name)}: {json.dumps(vars(tally) | {'seconds': round(tally.seconds)})}"
            for name, tally in one.parsers.items()
        )
        own = {"seed": one.seed, "first": one.first, "commits": one.commits}
        parts.append(f'{json.dumps(own)[:-1]}, "parsers": {{\n{parsers}\n}}}}')
    with writing(path) as part:
        part.write_text("[" + ",\n".join(parts) + "]\n")


def main() -> None:
    """Damage and read, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100, help="of each parser")
    parser.add_argument("--seconds", type=float, default=1e9, help="of all parsers, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="parsers")
    parser.add_argument(
        "--state",
        type=Path,
        nargs="?",
        const=STATE,
        help="keep counts in FILE (results/fuzz.json), and go on from there",
        metavar="FILE",
    )
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    chosen = [one for one in PARSERS if not options.only or one.name in options.only]
    if options.inputs == 1:
        (one,) = chosen
        child(one, options.seed, options.first, 1, None)
        return
    # Processes that are forked need not import again.
    for module in (
        "torch",
        "zarr",
        "tifffile",
        "yaml",
        "wsdino.model.model",
        "wsdino.screen.ingest",
        "wsdino.evaluate.results",
        "wsdino.report.html",
        "matplotlib.backends.backend_svg",
    ):
        importlib.import_module(module)
    # Two that keep their counts in one file would each write over what the other has counted.
    with one_writer_of_file(options.state) if options.state else contextlib.nullcontext():
        sys.exit(fuzz(chosen, options))


def fuzz(chosen: list[Parser], options: argparse.Namespace) -> bool:
    """Read inputs, and print or write the table; return whether any failed."""
    campaigns = read_state(options.state) if options.state else []
    asked = (options.seed, options.first)
    campaign = next((one for one in campaigns if (one.seed, one.first) == asked), None)
    if campaign is None:
        campaign = Campaign(*asked)
        campaigns.append(campaign)

    def written() -> str:
        names = [one.name for one in PARSERS if any(one.name in each.parsers for each in campaigns)]
        return table(campaigns, names)

    def keep() -> None:
        if options.state:
            write_state(options.state, campaigns)
        if options.write:
            RESULT.write_text(written())

    take_turns(chosen, campaign, num=options.inputs, seconds=options.seconds, keep=keep)
    print(written())
    return any(campaign.parsers[one.name].failures for one in chosen)


if __name__ == "__main__":
    main()
