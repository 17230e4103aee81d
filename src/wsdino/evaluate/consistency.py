"""Phenotypic consistency: how alike treatments are that share a mechanism or a target.

Each treatment ranks those of other compounds by cosine similarity. For each of its labels, right
ones are those that have the label too, wrong ones those that share none of its labels. The mean
average precision of a label is that over its treatments, with a p value from random rankings and
Benjamini and Hochberg's q value over all labels: what copairs computes
(`map.multilabel.average_precision`, positive pairs with the same label and another compound,
negative ones without a label in common). `a|b` is the set of the labels a and b.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from wsdino.evaluate.activity import FDR, NULL_SIZE
from wsdino.evaluate.level import is_control
from wsdino.evaluate.precision import TIE, average_precision, false_discovery_rates, p_values
from wsdino.profile.rows import directions
from wsdino.tables.columns import COMPOUND, MOA, plain_name
from wsdino.tables.features import features_of, metadata_of, require_columns, require_table

if TYPE_CHECKING:
    import pandas as pd

SEPARATOR = "|"
_TARGETS = ("target", "targets", "target_list", "gene_target", "gene_targets")
_ROWS_AT_ONCE = 256


def labels_in(value: object) -> frozenset[str]:
    """Labels of a cell: `a|b` has two; a missing cell (None, NaN) has none."""
    if not isinstance(value, str):
        return frozenset()
    return frozenset(filter(None, (label.strip() for label in value.split(SEPARATOR))))


def consistency_columns(profiles: pd.DataFrame) -> list[str]:
    """Columns of a table whose consistency can be measured.

    Parameters
    ----------
    profiles
        With metadata.

    Returns
    -------
    list of str
        `Metadata_MoA` and those that are called targets, where they have a value.
    """
    names = [
        str(name)
        for name in metadata_of(profiles).columns
        if name == MOA or plain_name(str(name)) in _TARGETS
    ]
    return [name for name in names if profiles[name].map(labels_in).map(bool).any()]


def consistency(
    profiles: pd.DataFrame,
    column: str = MOA,
    *,
    null_size: int = NULL_SIZE,
    seed: int = 0,
    fdr: float = FDR,
) -> dict[str, Any]:
    """Measure how alike treatments with a label in common are.

    Parameters
    ----------
    profiles
        One row per treatment: `Metadata_Compound`, the column, features. Controls take no part.
    column
        Text; `a|b` is a set of labels.
    null_size, seed
        Random rankings behind the p values, and their seed.
    fdr
        A label is consistent if its q value is below.

    Returns
    -------
    dict
        `column`, `map` (mean over the labels, None without any), `num_labels` that two compounds
        have, `num_consistent`, `fdr`, `null_size`, `seed`, and `labels`, a row for each: `label`,
        `num_treatments`, `mean_average_precision`, `p_value`, `corrected_p_value`,
        `is_consistent`.

    Raises
    ------
    TableError
        If a column is missing, or as in :func:`wsdino.tables.features.features_of`.

    Examples
    --------
    >>> import wsdino
    >>> profiles = wsdino.make_profiles(wsdino.read_table("sites.csv"))
    >>> wsdino.consistency(profiles, "Metadata_MoA", null_size=100)["num_labels"]
    3
    """
    require_table(profiles, name="profiles")
    require_columns(profiles, [COMPOUND, column], purpose="consistency")
    found: dict[str, Any] = {"column": column, "map": None, "num_labels": 0, "num_consistent": 0}
    found |= {"fdr": fdr, "null_size": null_size, "seed": seed, "labels": []}
    sets = profiles[column].map(labels_in)
    known = sets.map(bool).to_numpy() & profiles[COMPOUND].notna().to_numpy()
    rows = profiles[known & ~is_control(profiles)].reset_index(drop=True)
    if rows.empty:
        return found
    sets = rows[column].map(labels_in)
    names = sorted(set().union(*sets))
    number = {name: i for i, name in enumerate(names)}
    has = np.zeros((len(rows), len(names)), dtype=np.float32)
    for row, own in enumerate(sets):
        has[row, [number[name] for name in own]] = 1
    features = features_of(rows)
    features = directions(features)
    compound = rows[COMPOUND].astype(str).to_numpy(dtype=object)
    asked: list[tuple[int, float, int, int]] = []
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        block = slice(start, start + _ROWS_AT_ONCE)
        similarity = features[block] @ features.T
        other = compound[block, None] != compound[None, :]
        shares = (has[block] @ has.T) > 0
        for i, similar in enumerate(similarity):
            wrong = similar[other[i] & ~shares[i]]
            for label in np.flatnonzero(has[start + i]):
                right = similar[other[i] & (has[:, label] > 0)]
                if len(right) and len(wrong):
                    # Only what is as similar as the least similar right one counts in the ranks.
                    near = np.sort(wrong[wrong >= right.min() - TIE])
                    score = average_precision(right, near)
                    asked.append((int(label), score, len(right), len(right) + len(wrong)))
    if not asked:
        return found
    of_label, precision, num_right, num_all = map(np.array, zip(*asked, strict=True))
    groups = [np.flatnonzero(of_label == each) for each in np.unique(of_label)]
    p = p_values(precision, num_right, num_all, groups, null_size=null_size, seed=seed)
    q = false_discovery_rates(p)
    found["labels"] = [
        {
            "label": names[of_label[own[0]]],
            "num_treatments": len(own),
            "mean_average_precision": float(precision[own].mean()),
            "p_value": float(p[i]),
            "corrected_p_value": float(q[i]),
            "is_consistent": bool(q[i] < fdr),
        }
        for i, own in enumerate(groups)
    ]
    means = [row["mean_average_precision"] for row in found["labels"]]
    found |= {"map": float(np.mean(means)), "num_labels": len(groups)}
    found["num_consistent"] = sum(row["is_consistent"] for row in found["labels"])
    return found
