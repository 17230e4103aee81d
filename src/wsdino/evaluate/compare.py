"""Two results on the same treatments, compared in pairs.

Both tables are cut down to the treatments that both have, so that queries and galleries are the
same. Of NSC and NSCB the difference is that of right queries, its p value McNemar's exact one; of
mAP it is the mean difference of average precisions. Intervals are at 95 %, from a bootstrap over
compounds, whose doses stay together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from wsdino.errors import TableError
from wsdino.evaluate.gallery import make_gallery, why_unmatched
from wsdino.evaluate.intervals import clustered_interval, precisions_of
from wsdino.evaluate.matching import match_gallery
from wsdino.evaluate.plain import plain_values
from wsdino.tables.columns import BATCH, COMPOUND, CONCENTRATION, CONTROL, MOA, TREATMENT
from wsdino.tables.doses import merge_equal_doses
from wsdino.tables.features import require_columns, require_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

_KEYS = ["compound", "concentration"]


def mcnemar(gained: int, lost: int) -> float:
    """McNemar's exact p value of paired right and wrong answers.

    Parameters
    ----------
    gained, lost
        Pairs of which only the second, only the first is right.

    Returns
    -------
    float
        Two-sided, from the binomial distribution; 1 where no pair differs.
    """
    num = gained + lost
    return float(stats.binomtest(gained, num, 0.5).pvalue) if num else 1.0


def compare(
    first: pd.DataFrame,
    second: pd.DataFrame,
    *,
    multi_batch: str = "strict",
    seed: int = 0,
) -> dict[str, Any]:
    """Compare two tables of treatment profiles by how well they match mechanisms.

    Parameters
    ----------
    first, second
        One row per treatment, see :func:`wsdino.evaluate.matching.match_moa`. Differences are those
        of the second over the first.
    multi_batch
        See :mod:`wsdino.evaluate.matching`.
    seed
        Of the bootstrap.

    Returns
    -------
    dict
        Plain and ready for JSON. `num_treatments` that both have, `only_first`, `only_second`; for
        `nsc` and `nscb` (None without batches or queries) `first`, `second` (shares),
        `difference`, its `ci`, `p_value`, `total` (queries), `gained` and `lost` (lists of
        `compound` and `concentration`); for `map` `first`, `second`, `difference`, `ci`, `total`.

    Raises
    ------
    TableError
        If the tables have no treatment in common or give one several mechanisms, no two compounds
        have an MoA, or as in :func:`wsdino.evaluate.gallery.make_gallery`.

    Examples
    --------
    >>> import wsdino
    >>> table = wsdino.read_table("sites.csv")
    >>> first = wsdino.make_profiles(table, normalisation="tvn")
    >>> second = wsdino.make_profiles(table, normalisation="weak_label")
    >>> wsdino.compare_profiles(first, second)["num_treatments"]
    13
    """
    require_table(first, name="first")
    require_table(second, name="second")
    for profiles in (first, second):
        require_columns(profiles, [COMPOUND, MOA], purpose="comparing")
    one, two, num = _in_common(first, second)
    problem = why_unmatched(one)
    if problem:
        raise TableError(f"of the {num} treatments in common, {problem}; there is nothing to match")
    found: dict[str, Any] = {
        "num_treatments": num,
        "only_first": len(first) - num,
        "only_second": len(second) - num,
    }
    batches = [BATCH in each and bool(each[BATCH].notna().any()) for each in (one, two)]
    for name in ("nsc", "nscb"):
        if name == "nscb" and not all(batches):
            found[name] = None
            continue
        galleries = [
            make_gallery(each, exclude_shared_batch=name == "nscb", multi_batch=multi_batch)
            for each in (one, two)
        ]
        answers = [match_gallery(each).neighbours for each in galleries]
        found[name] = _paired_answers(*answers, seed=seed)
        if name == "nsc":
            found["map"] = _paired_precisions(*map(precisions_of, galleries), seed=seed)
    plain: dict[str, Any] = plain_values(found)
    return plain


def compare_activity(
    first: pd.DataFrame, second: pd.DataFrame, *, seed: int = 0
) -> dict[str, Any] | None:
    """Compare which treatments two results call active.

    Parameters
    ----------
    first, second
        Rows of `activity.csv`, or `treatments` of :func:`wsdino.evaluate.evidence.activity`.
    seed
        Of the bootstrap.

    Returns
    -------
    dict or None
        As :func:`compare` has for `nsc`, of the treatments tested in both; `map`, the difference of
        mean average precisions as there. None where no treatment was tested in both.

    Examples
    --------
    >>> import wsdino
    >>> table = wsdino.read_table("sites.csv")
    >>> first = wsdino.activity_of(table, normalisation="plate", null_size=100)
    >>> second = wsdino.activity_of(table, normalisation="weak_label", null_size=100)
    >>> import pandas as pd
    >>> found = wsdino.compare_activity(*(pd.DataFrame(x["treatments"]) for x in (first, second)))
    >>> found["total"]
    12
    """
    require_table(first, name="first")
    require_table(second, name="second")
    columns = {COMPOUND: "compound", CONCENTRATION: "concentration"}
    tables = []
    for table in (first, second):
        renamed = table.rename(columns=columns)
        renamed["average_precision"] = renamed["mean_average_precision"]
        # A file has doses as text.
        renamed["concentration"] = pd.to_numeric(renamed["concentration"])
        tested = renamed["p_value"].notna()
        renamed["correct"] = renamed["is_active"].astype(bool)
        tables.append(renamed[tested])
    found = _paired_answers(*tables, seed=seed)
    if found is None:
        return None
    back = {value: key for key, value in columns.items()}
    named_back = [table.rename(columns=back) for table in tables]
    found["map"] = _paired_precisions(*named_back, seed=seed)
    plain: dict[str, Any] = plain_values(found)
    return plain


def _in_common(first: pd.DataFrame, second: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """Cut both tables down to the treatments in common, which must have the same MoA."""
    tables = [
        each if CONCENTRATION in each else each.assign(**{CONCENTRATION: np.nan})
        for each in (first, second)
    ]
    # One of the tools may have kept 32 bits of a dose.
    doses = [each[list(TREATMENT)].astype({CONCENTRATION: np.float64}) for each in tables]
    merged = merge_equal_doses(pd.concat(doses, ignore_index=True), origin="the tables")
    parts = np.split(merged[CONCENTRATION].to_numpy(), [len(first)])
    tables = [each.assign(**{CONCENTRATION: own}) for each, own in zip(tables, parts, strict=True)]
    names = [*TREATMENT, *([CONTROL] if all(CONTROL in each for each in tables) else [])]
    keys = [pd.MultiIndex.from_frame(each[names]) for each in tables]
    for key in keys:
        if key.has_duplicates:
            name = key[key.duplicated()][0][0]
            raise TableError(
                f"{name} has several rows at one concentration; expected one row for each treatment"
            )
    shared = keys[0][keys[0].isin(keys[1])]
    if not len(shared):
        raise TableError("the tables have no treatment (compound and concentration) in common")
    one, two = (
        table.iloc[key.get_indexer(shared)].reset_index(drop=True)
        for table, key in zip(tables, keys, strict=True)
    )
    moas = [each[MOA].astype(object).where(each[MOA].notna(), None) for each in (one, two)]
    differs = moas[0].ne(moas[1]) & ~(moas[0].isna() & moas[1].isna())
    if differs.any():
        row = int(np.flatnonzero(differs)[0])
        raise TableError(
            f"{one[COMPOUND].iloc[row]} has the MoA {moas[0].iloc[row]!r} in the first and "
            f"{moas[1].iloc[row]!r} in the second; tables to compare must agree"
        )
    for made, table in zip((one, two), tables, strict=True):
        made.attrs = table.attrs
    return one, two, len(shared)


def _paired_answers(
    first: pd.DataFrame, second: pd.DataFrame, *, seed: int
) -> dict[str, Any] | None:
    """Compare right and wrong answers of the same queries; None where there are none."""
    both = first.merge(second, on=_KEYS, suffixes=("", "_second"), validate="1:1")
    if both.empty:
        return None
    before, after = both["correct"].to_numpy(bool), both["correct_second"].to_numpy(bool)
    gained, lost = after & ~before, before & ~after
    return {
        "first": before.mean(),
        "second": after.mean(),
        "difference": after.mean() - before.mean(),
        "ci": _interval(after.astype(float) - before, both["compound"], seed),
        "p_value": mcnemar(int(gained.sum()), int(lost.sum())),
        "total": len(both),
        "gained": both.loc[gained, _KEYS].to_dict("records"),
        "lost": both.loc[lost, _KEYS].to_dict("records"),
    }


def _paired_precisions(
    first: pd.DataFrame, second: pd.DataFrame, *, seed: int
) -> dict[str, Any] | None:
    """Compare average precisions of the same queries; None where there are none."""
    both = first.merge(second, on=list(TREATMENT), suffixes=("", "_second"), validate="1:1")
    if both.empty:
        return None
    before, after = both["average_precision"], both["average_precision_second"]
    return {
        "first": before.mean(),
        "second": after.mean(),
        "difference": after.mean() - before.mean(),
        "ci": _interval((after - before).to_numpy(), both[COMPOUND], seed),
        "total": len(both),
    }


def _interval(
    values: NDArray[np.float64], compounds: pd.Series, seed: int
) -> tuple[float, float] | None:
    clusters = compounds.to_numpy(str)
    if len(np.unique(clusters)) < 2:
        return None
    return clustered_interval(values, clusters, seed=seed)
