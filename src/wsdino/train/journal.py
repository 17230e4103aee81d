"""The record of a run: ``metrics.jsonl`` and TensorBoard events."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType


class Journal:
    """Appends records to a run folder; drops what was logged after the step a run resumes from.

    Parameters
    ----------
    folder
        Run folder.
    step
        Steps that were done before.
    """

    def __init__(self, folder: Path, *, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "metrics.jsonl"
        kept = [line for line in _complete_lines(path) if json.loads(line)["step"] <= step]
        partial = path.with_suffix(".partial")
        partial.write_text("".join(f"{line}\n" for line in kept))
        partial.replace(path)
        self._file = path.open("a")
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
        self._writer.close()

    def write(self, record: dict[str, float]) -> None:
        """Append one record; it must have a ``step``. What is not finite becomes null."""
        finite = {key: value if math.isfinite(value) else None for key, value in record.items()}
        self._file.write(json.dumps(finite) + "\n")
        self._file.flush()
        for key, value in record.items():
            if key != "step":
                self._writer.add_scalar(key, value, int(record["step"]))


def _complete_lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    lines = path.read_text().split("\n")
    # What follows the last newline was cut off by a kill.
    return [line for line in lines[:-1] if line]
