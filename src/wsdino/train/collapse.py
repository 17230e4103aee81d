"""Detecting collapse, or clustering by plate, during training."""

from __future__ import annotations

POINT_STD = 0.02
UNIFORM_MARGIN = 0.01
FEW_PROTOTYPES = 0.25
# Three of four triplets: see wsdino.train.watch.plate_clustering.
PLATES_WIN = 0.5


def name_collapse(record: dict[str, float]) -> str | None:
    """Describe the collapse or the clustering by plate; None if there is neither.

    Parameters
    ----------
    record
        Diagnostics of a step: ``embedding_std`` (0 to 1), ``plate_clustering`` (-1 to 1),
        ``teacher_entropy``, ``assignment_entropy`` (of the mean assignment over the batch) and
        ``teacher_entropy_max`` in nats.
    """
    return _name_collapse(record) or _name_clustering(record)


def _name_collapse(record: dict[str, float]) -> str | None:
    if record.get("embedding_std", 1.0) < POINT_STD:
        return "collapse to one point: all embeddings are nearly the same"
    highest = record.get("teacher_entropy_max")
    if not highest:
        return None
    if record["teacher_entropy"] > (1 - UNIFORM_MARGIN) * highest:
        return "collapse to uniform: the teacher's targets no longer distinguish images"
    gained = record["assignment_entropy"] - record["teacher_entropy"]
    if (
        record["assignment_entropy"] < FEW_PROTOTYPES * highest
        and gained < UNIFORM_MARGIN * highest
    ):
        return "collapse to few prototypes: the teacher gives nearly all images the same target"
    return None


def _name_clustering(record: dict[str, float]) -> str | None:
    found = record.get("plate_clustering", 0.0)
    if found > PLATES_WIN:
        return (
            "clustering by plate: images of one plate lie closer together than images of one weak "
            f"label in {100 * (1 + found) / 2:.0f} % of comparisons (chance: 50 %)"
        )
    return None
