"""Whitening by weak label as a normalisation of tables; its numerics know nothing of columns."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsdino.errors import TableError
from wsdino.profile.base import Fit, Needs
from wsdino.profile.labels import label_names
from wsdino.profile.rows import control_rows
from wsdino.profile.shrinkage import Choice, factorised
from wsdino.profile.stored import require_entries, require_numbers, require_positions
from wsdino.profile.weak_label import WeakLabelWhitening, fit_weak_label
from wsdino.profile.whitening import channel_groups
from wsdino.tables.columns import PLATE
from wsdino.tables.features import feature_columns, features_of, plate_keys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from wsdino.profile.base import State

_CENTRING = Needs(controls_per_plate=1)
# With more rows that have a label it is fitted on some labels, drawn with this seed.
MAX_LABELLED, SEED = 50_000, 0


class WeakLabel:
    """Whiten by the scatter within weak labels.

    Options: `label`, see :func:`wsdino.profile.labels.label_columns`; `regularisation`, a number or
    `auto`, is the ridge of :func:`wsdino.profile.weak_label.fit_weak_label`; `per_channel`: whiten
    the features `emb_<channel>_<index>` of each channel alone.
    """

    def fit(self, table: pd.DataFrame, options: Mapping[str, Any]) -> Fit:
        """Fit on the rows with a label and the controls; see the protocol `Method`."""
        rows, sample = _some_labels(table, options["label"])
        if sample:
            table = table.iloc[rows]
        blocks = None
        if options["per_channel"]:
            blocks = list(channel_groups(feature_columns(table)).values())
        lacking = _CENTRING.unmet(table)
        whitening = fit_weak_label(
            features_of(table),
            label_names(table, options["label"]),
            controls=control_rows(table),
            plates=_plates(table),
            ridge=options["regularisation"],
            centre=not lacking,
            blocks=blocks,
        )
        notes = [*([sample] if sample else []), whitening.describe()]
        if lacking:
            notes.append(f"plates not centred on their controls: that {lacking}")
        state = dict(vars(whitening)) | {
            "choice": whitening.choice.as_dict(),
            "notes": list(whitening.notes),
        }
        return Fit(
            state,
            "rows with a label, and controls",
            whitening.num_fitted,
            "; ".join(notes),
            num_components=len(whitening.kept),
        )

    def transform(self, table: pd.DataFrame, state: State) -> pd.DataFrame:
        """Centre each plate on its own controls and whiten; see the protocol `Method`."""
        whitening = _whitening(state)
        lacking = _CENTRING.unmet(table)
        if whitening.centred and lacking:
            raise TableError(
                f"normalisation weak_label {lacking}, as the table that it was fitted on did"
            )
        white = whitening.transform(
            features_of(table, dtype=None), plates=_plates(table), controls=control_rows(table)
        )
        # The whitening is the symmetric one: a column still belongs to its feature.
        names = feature_columns(table)
        columns = [names[position] for position in whitening.kept]
        return pd.DataFrame(white, columns=columns, index=table.index, copy=False)

    def check(self, state: State, features: Sequence[str]) -> None:
        """Require what :func:`fit_weak_label` makes; see the protocol `Method`."""
        require_entries(state, [each.name for each in fields(WeakLabelWhitening)])
        require_entries(state["choice"], [each.name for each in fields(Choice)])
        require_positions(state["kept"], len(features), "kept features")
        num = len(state["kept"])
        require_numbers(state, "scale", (num,), positive=True)
        require_numbers(state, "location", (num,))
        require_numbers(state, "origin", (num,))
        require_numbers(state, "remainder", (num,))
        require_numbers(state, "projection", (num, num))
        softening = state["softening"]
        if softening is not None and not 0 < softening < np.inf:
            raise ValueError(f"its softening is {softening}; expected a number above 0")
        bools = [isinstance(state[name], bool) for name in ("centred", "centred_last")]
        if not all(bools) or state["num_features"] != len(features):
            raise ValueError(
                f"it was fitted on {state['num_features']!s:.60} features, centred: "
                f"{state['centred']!s:.60}, last: {state['centred_last']!s:.60}; expected "
                f"{len(features)}, and two bools"
            )
        _whitening(state).describe()


def _whitening(state: State) -> WeakLabelWhitening:
    found = state["choice"]
    choice = Choice(**found | {name: tuple(found[name]) for name in ("candidates", "scores")})
    return WeakLabelWhitening(**state | {"choice": choice, "notes": tuple(state["notes"])})


def _some_labels(table: pd.DataFrame, label: str) -> tuple[NDArray[np.intp], str]:
    """Choose the rows to fit on: all, or those of labels drawn at random, and every control.

    Returns
    -------
    rows : ndarray
        Ascending.
    sample : str
        Which, in words; empty where all are.
    """
    control = control_rows(table)
    codes = np.where(control, -1, factorised(label_names(table, label)))
    sizes = np.bincount(codes[codes >= 0])
    if sizes.sum() <= MAX_LABELLED:
        return np.arange(len(table)), ""
    present = np.flatnonzero(sizes)
    order = np.random.default_rng(SEED).permutation(present)
    # Two labels at least; of so many rows the first ones can be more than there is room for.
    num = max(2, int(np.searchsorted(np.cumsum(sizes[order]), MAX_LABELLED, side="right")))
    rows = np.flatnonzero(control | np.isin(codes, order[:num]))
    return rows, (
        f"fitted on {num:,} of {len(present):,} labels, {sizes[order[:num]].sum():,} of "
        f"{sizes.sum():,} rows, drawn with seed {SEED}, and on all controls"
    )


def _plates(table: pd.DataFrame) -> NDArray[np.integer[Any]] | None:
    """Return a number for each row's plate; None unless every row has one."""
    if PLATE not in table or table[PLATE].isna().any():
        return None
    groups = table.groupby(plate_keys(table), sort=False, dropna=False)
    codes: NDArray[np.int64] = groups.ngroup().to_numpy().astype(np.int64)
    return codes
