"""The record of a run: ``metrics.jsonl`` and TensorBoard events."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from wsdino.atomic import write_text
from wsdino.runfolder import RunPaths

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType


Record = dict[str, float | None]


class Journal:
    """Keeps the records of a run: in memory for checkpoints, in its folder for users.

    The given records replace those in the folder, so that a resumed run drops what was logged after
    its checkpoint, and a deleted file is restored.

    Parameters
    ----------
    folder
        Run folder.
    records
        Records up to the step that the run resumes from.
    """

    def __init__(self, folder: Path, records: list[Record]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.records = list(records)
        path, events = RunPaths(folder).metrics, RunPaths(folder).events
        write_text(path, "".join(json.dumps(record) + "\n" for record in self.records))
        self._file = path.open("a")
        is_new = not events.is_dir()
        last = int(self.records[-1]["step"] or 0) if self.records else 0
        self._writer = SummaryWriter(str(events), purge_step=None if is_new else last + 1)
        for record in self.records if is_new else ():
            self._draw(record)

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
        """Append one record, which must have a ``step``. Non-finite values become null."""
        finite: Record = {
            key: value if math.isfinite(value) else None for key, value in record.items()
        }
        self.records.append(finite)
        self._file.write(json.dumps(finite) + "\n")
        self._file.flush()
        self._draw(finite)

    def _draw(self, record: Record) -> None:
        for key, value in record.items():
            if key != "step":
                shown = math.nan if value is None else value
                self._writer.add_scalar(key, shown, int(record["step"] or 0))


# Entries of a record in the progress line, in this order.
_SHOWN = {
    "loss": "loss {:.3f}",
    "kl": "KL {:.3f}",
    "teacher_entropy": "teacher entropy {:.2f}",
    "assignment_entropy": "assignments {:.2f}",
    "accuracy": "accuracy {:.0%}",
    "embedding_std": "spread {:.2f}",
    "embedding_rank": "rank {:.1f}",
    "plate_clustering": "by plate {:+.2f}",
    "grad_norm": "gradient {:.2g}",
    "samples_per_s": "{:.0f} samples/s",
    "data_wait": "data wait {:.0%}",
}


def note_of(record: Mapping[str, float]) -> str:
    """Format a record for the progress line."""
    return ", ".join(text.format(record[key]) for key, text in _SHOWN.items() if key in record)


def summary_of(record: Record) -> str | None:
    """Summarise how a teacher used its prototypes at the end, if it has any."""
    entropy, spread = record.get("teacher_entropy"), record.get("assignment_entropy")
    highest = record.get("teacher_entropy_max")
    if entropy is None or spread is None or highest is None:
        return None
    return (
        f"teacher entropy {entropy:.2f} of at most {highest:.2f} nats; assignments spread over "
        f"{math.exp(spread):.0f} of {math.exp(highest):.0f} prototypes"
    )
