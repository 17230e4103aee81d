"""Commands killed, crowded, starved and lied to: `python benchmarks/crash.py --trials 100`.

Each trial runs a command of :data:`~crash_commands.COMMANDS` in a process of its own under one
fault, then runs it once more to its end, and compares every file bit by bit with that of an
uninterrupted run (checkpoints too). The process is forked from one that has imported everything, as
starting Python takes longer than what is killed. Faults, drawn from the seed, the command and the
trial's number:

- *kill*: SIGKILL, SIGTERM or SIGINT at a random moment, up to three times in a row;
- *two*: a second process of the same command; one of the two may be refused, naming the other;
- *full*: files may grow to a random size only, as on a disk that fills up;
- *flip*: a bit of a finished product is flipped, but not of an image that was drawn or downloaded;
- *clock*: the times of all files are set to 1990, 2031, or to each other's.

After a flipped bit the command may also refuse, in one line with status 2, and a table may keep
other bytes if it is read as before. A failure is any other status, a traceback, another product, a
partial file, lock or process that is left. What differs between two uninterrupted runs is not
compared, and listed: values in JSON (such as times), else whole files. Exits with 1 if there are
failures. `--write` writes `benchmarks/results/crash.md`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crash_commands import COMMANDS, Command, prepare, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

RESULT = Path(__file__).parent / "results" / "crash.md"
FAULTS = ("kill", "two", "full", "flip", "clock")
WEIGHTS = (80, 5, 5, 5, 5)
LONGEST_S = 600.0
EARLY, LATE = 631_152_000, 1_924_992_000  # 1990 and 2031
PATIENCE_S = 5.0
TICK_S = 1.0
MODULES_FILE = "modules.txt"
MODULES = (
    *("torch", "zarr", "anndata", "sklearn", "tensorboard", "wsdino.cli.main", "wsdino.pipeline"),
    *("wsdino.screen.download_gallery", "wsdino.simulate", "wsdino.exchange", "wsdino.report.html"),
)
# Sessions of the processes of a trial.
_STARTED: set[int] = set()


def load(folder: Path) -> None:
    """Import whatever the commands import, so that processes that are forked need not."""
    names = folder / MODULES_FILE
    pid = 0 if names.is_file() else os.fork()
    if not pid and not names.is_file():
        os.chdir(folder)
        sys.argv = ["wsdino", "report", "run", "--out", "report.html"]
        with contextlib.suppress(SystemExit):
            importlib.import_module("wsdino.cli.main").main()
        names.write_text("\n".join(sys.modules))
        os._exit(0)
    if pid:
        os.waitpid(pid, 0)
    for name in names.read_text().split():
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    for name in MODULES:
        importlib.import_module(name)


def start(
    folder: Path, arguments: tuple[str, ...], *, limit: int | None = None
) -> tuple[int, Path]:
    """Start a command in a folder, in a session of its own; return its number and what it says."""
    talk = Path(tempfile.mkstemp(prefix="crash-")[1])
    pid = os.fork()
    if pid:
        _STARTED.add(pid)
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


def _finish(folder: Path, *arguments: str) -> None:
    status, said, _ = wait(start(folder, arguments))
    if status:
        raise RuntimeError(said)


def wait(
    process: tuple[int, Path], *, kill_after: tuple[float, int] | None = None
) -> tuple[int, str, bool]:
    """Wait for a command, or send it a signal after some seconds.

    Returns
    -------
    status : int
    said : str
    is_killed : bool
        Whether it still ran then.
    """
    pid, talk = process
    begin, status, wanted = time.monotonic(), None, kill_after
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
    return status, said, wanted is not None and kill_after is None


def contents(folder: Path) -> dict[str, str]:
    """Return what each file holds: the digest of its bytes; of JSON and checkpoints values too."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name, data = _stable(path.relative_to(folder).as_posix()), path.read_bytes()
            found[name] = hashlib.sha256(data).hexdigest()
            lines = {".json": [data], ".jsonl": data.splitlines()}.get(path.suffix, [])
            for number, line in enumerate(lines):
                with contextlib.suppress(ValueError):
                    found |= _values(f"{name} line {number}", json.loads(line))
            # Its records have times, so that no two are equal byte by byte.
            if path.suffix == ".parquet":
                found[f"{name} as read"] = _as_read(path)
            if path.suffix == ".pt":
                state = sys.modules["torch"].load(path, weights_only=True, map_location="cpu")
                found |= _values(f"{name} value", state)
    return found


def _as_read(path: Path) -> str:
    """Return a digest of what a table says."""
    with contextlib.suppress(Exception):
        table = sys.modules["pandas"].read_parquet(path)
        text = table.dtypes.to_csv() + table.to_csv(index=False)
        return hashlib.sha256(text.encode()).hexdigest()
    return "nothing"


def _values(place: str, value: Any) -> dict[str, str]:
    """Return each value of JSON, or of a checkpoint, by its place; of tensors their digest."""
    if isinstance(value, dict):
        inside = [(f"{place} {key}", each) for key, each in value.items()]
        # The order of keys is part of the file.
        found = {f"{place} keys": json.dumps(list(value))}
    elif isinstance(value, list | tuple):
        inside = [(f"{place} {number}", each) for number, each in enumerate(value)]
        found = {f"{place} length": str(len(value))}
    elif hasattr(value, "numpy"):
        data = value.detach().contiguous().reshape(-1).numpy().tobytes()
        return {place: f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(data).hexdigest()}"}
    else:
        return {place: repr(value)}
    for where, each in inside:
        found |= _values(where, each)
    return found


@dataclass
class Campaign:
    """A command, and what its uninterrupted run made.

    Attributes
    ----------
    wanted
        See :func:`contents`.
    volatile
        What differs between two such runs.
    seconds
        What it took.
    trials, kills
        How many of each fault, and of each signal that came while the command ran.
    late
        How many came when it had ended, or that it ended in spite of.
    remnants
        What lay there after kills, for the next run to remove.
    failures
        Of all trials.
    """

    command: Command
    root: Path
    arguments: tuple[str, ...]
    wanted: dict[str, str] = field(default_factory=dict)
    volatile: set[str] = field(default_factory=set)
    seconds: float = 0.0
    trials: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    late: int = 0
    remnants: Counter[str] = field(default_factory=Counter)
    failures: int = 0

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
        """Run to the end; return its status and words."""
        return wait(start(self.work, self.arguments, **options))[:2]

    def refer(self) -> None:
        """Run without a fault, twice."""
        found = []
        for _ in range(2):
            self.begin()
            # Times that are written down to the second must differ between the two.
            time.sleep(TICK_S - time.time() % TICK_S)
            begin = time.monotonic()
            status, said = self.go()
            self.seconds = time.monotonic() - begin
            if status:
                raise RuntimeError(f"{self.command.name}: {said}")
            found.append(contents(self.work))
        self.wanted, other = found
        names = self.wanted.keys() | other.keys()
        self.volatile = {n for n in names if self.wanted.get(n) != other.get(n)}

    def differences(self, *, flipped: bool = False) -> list[str]:
        """Return what is not as an uninterrupted run leaves it, or isn't read as it."""
        found = contents(self.work)
        names = self.wanted.keys() | found
        # Size and times of a file that was settled when it was looked at, or null.
        names = {n for n in names if not (".stages.json" in n and " state" in n)}
        # Which older checkpoint is kept depends on the minutes between them.
        for older in superseded(names):
            names = {n for n in names if not n.startswith(older)}
        names -= self.volatile
        differ = {n for n in names if self.wanted.get(n) != found.get(n)}
        unread = {n for n in differ if n.endswith(".parquet") and f"{n} as read" not in differ}
        if flipped and unread:
            # What was found by looking at the table has a digest of its bytes.
            made_from = {n for n in differ if n.endswith(" made_from")}
            unread |= made_from | {n.partition(" line ")[0] for n in made_from}
            differ -= unread
        return sorted(differ)


def superseded(names: Iterable[str]) -> list[str]:
    """Return the checkpoints that have a later one in their folder."""
    steps = sorted({n for n in names if "/checkpoints/" in n and n.endswith(".pt")})
    folders = [step.rpartition("/")[0] for step in steps]
    return [
        step
        for step, folder, after in zip(steps, folders, folders[1:], strict=False)
        if folder == after
    ]


def killed(campaign: Campaign, rng: random.Random) -> list[str]:
    """Send up to three signals."""
    for _ in range(rng.choice([1, 1, 2, 3])):
        number = rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        moment = rng.uniform(0, campaign.seconds * 1.05)
        process = start(campaign.work, campaign.arguments)
        status, said, is_killed = wait(process, kill_after=(moment, number))
        if is_killed and status:
            campaign.kills[number.name] += 1
            campaign.remnants.update(remnants(campaign.work))
        else:
            campaign.late += 1
        # Before the command has set up its handlers, the signal itself ends the process.
        right = (-number,) if number == signal.SIGKILL else (1, -number)
        if status not in (0, *right) or "Traceback" in said:
            return [f"status {status} after {number.name} at {moment:.2f} s: {said[-300:]}"]
    return []


def two(campaign: Campaign, rng: random.Random) -> list[str]:
    """Start a second process of the same command."""
    first = start(campaign.work, campaign.arguments)
    time.sleep(rng.uniform(0, campaign.seconds))
    second = start(campaign.work, campaign.arguments)
    found = [wait(second)[:2], wait(first)[:2]]
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
    # What it says goes into a file, too, and may have been cut off itself.
    if status == 0 or "can't be written" in said or len(said.encode()) >= limit:
        return []
    return [f"says nothing of it: {said[-300:]}"]


def flip(campaign: Campaign, rng: random.Random) -> list[str]:
    """Flip a bit of a product."""
    campaign.go()
    files = [
        path
        for path in sorted(campaign.work.rglob("*"))
        if path.is_file() and path.stat().st_size and path.suffix != campaign.command.images
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


def remnants(folder: Path) -> list[str]:
    """Return the kind of each partial file, lock and part that is left."""
    kinds = []
    for path in folder.rglob("*"):
        if path.name.startswith(".partial-"):
            kinds.append("partial file")
        elif path.name.endswith((".lock", ".parts")):
            kinds.append(path.suffix[1:] or path.name[1:])
    return kinds


def processes(sessions: set[int]) -> list[int]:
    """Return the processes of sessions that still run (Linux; empty elsewhere)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(session) in sessions and state != "Z":
                found.append(int(stat.parent.name))
    return found


def trial(campaign: Campaign, fault: str, rng: random.Random) -> list[str]:
    """Run under a fault, and then to the end; return what is wrong."""
    campaign.begin()
    _STARTED.clear()
    faults: dict[str, Callable[[Campaign, random.Random], list[str]]]
    faults = {"kill": killed, "two": two, "full": full, "flip": flip, "clock": clock}
    if problems := faults[fault](campaign, rng):
        return problems
    status, said = campaign.go()
    if status:
        return [f"then status {status}: {said[-300:]}"]
    flipped = fault == "flip"
    problems = [f"differs: {name}" for name in campaign.differences(flipped=flipped)]
    problems += [f"left behind: {kind}" for kind in remnants(campaign.work)]
    # Workers look for their parent twice a second.
    deadline = time.monotonic() + PATIENCE_S
    while (left := processes(_STARTED)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return problems + [f"still running: {pid}" for pid in left]


def table(campaigns: list[Campaign], failures: list[str], seed: int) -> str:
    """Write down the counts."""
    signals = ("SIGKILL", "SIGTERM", "SIGINT")
    names = ("s", *FAULTS, *signals, "late", "failures")
    lines = [
        "# Commands that are killed, crowded, starved and lied to",
        "",
        f"`python benchmarks/crash.py --seed {seed}`; see there for what is done and compared.",
        "Columns: seconds of an uninterrupted run; trials of each fault; signals that ended the",
        "command, of which a trial of *kill* has up to three; those that came too late; failures.",
        "",
        f"| command | {' | '.join(names)} |",
        "|---|" + "---|" * len(names),
    ]
    total: Counter[str] = Counter()
    for one in campaigns:
        found = one.trials + one.kills + Counter({"late": one.late, "failures": one.failures})
        total += found
        cells = [f"{one.seconds:.1f}", *(str(found[name]) for name in names[1:])]
        lines.append(f"| {one.command.name} | {' | '.join(cells)} |")
    lines.append(f"| all | | {' | '.join(str(total[name]) for name in names[1:])} |")
    left = sum((one.remnants for one in campaigns), Counter())
    lines += [
        "",
        f"Kills that ended a command: {sum(total[name] for name in signals)}. What lay there after "
        f"them: {', '.join(f'{num} x {kind}' for kind, num in left.items()) or 'nothing'}; after "
        "the run that followed: "
        + ("nothing." if not any("left behind" in each for each in failures) else "see below."),
        "",
        "Not compared, as two uninterrupted runs differ in them, too:",
        "",
    ]
    lines += [f"- {one.command.name}: {_named(one.volatile)}" for one in campaigns if one.volatile]
    if idle := [one.command.name for one in campaigns if not one.trials]:
        lines += ["", f"Not tried in this time: {', '.join(idle)}."]
    lines += ["", *(f"- {failure}" for failure in failures)]
    return "\n".join(lines).rstrip() + "\n"


def _named(volatile: set[str]) -> str:
    """List places, with one number for several."""
    return ", ".join(sorted({re.sub(r"(?<= )\d+\b", "N", name) for name in volatile}))


def main() -> None:
    """Run the trials, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10, help="of each command")
    parser.add_argument("--seconds", type=float, default=1e9, help="in all, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="commands")
    parser.add_argument("--fault", choices=FAULTS)
    parser.add_argument("--root", type=Path, help="where to work; what is prepared is kept there")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    for name in MODULES:
        importlib.import_module(name)
    failures: list[str] = []
    begin = time.monotonic()
    with contextlib.ExitStack() as stack:
        # Tables name images by their absolute paths: what was prepared can't be moved.
        root = options.root and options.root.resolve()
        root = root or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if not (root / "given" / MODULES_FILE).is_file():
            prepare(root / "given", partial(_finish, root / "given"))
        load(root / "given")
        addresses = serve(root / "given")
        campaigns = [
            Campaign(one, root, tuple(addresses.get(each, each) for each in one.arguments))
            for one in COMMANDS
            if not options.only or one.name in options.only
        ]
        for number in range(options.trials):
            for campaign in campaigns:
                if number % campaign.command.every or time.monotonic() - begin > options.seconds:
                    continue
                if not campaign.wanted:
                    campaign.refer()
                name = campaign.command.name
                rng = random.Random(f"{options.seed} {name} {number}")  # noqa: S311 no secrets
                fault = rng.choices(FAULTS, WEIGHTS)[0]
                fault = options.fault or fault
                campaign.trials[fault] += 1
                problems = trial(campaign, fault, rng)
                campaign.failures += bool(problems)
                for problem in problems:
                    failures.append(f"{name}, trial {number}, {fault}: {' '.join(problem.split())}")
                    print(failures[-1], file=sys.stderr, flush=True)
                done = sum(sum(one.kills.values()) for one in campaigns)
                seconds = time.monotonic() - begin
                print(
                    f"{seconds:.0f} s: round {number}, {name} ({campaign.seconds:.1f} s), {fault}; "
                    f"{done} kills in all",
                    file=sys.stderr,
                    flush=True,
                )
    text = table(campaigns, failures, options.seed)
    print(text)
    if options.write:
        RESULT.write_text(text)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
