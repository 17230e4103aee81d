"""Whitening by weak label as a normalisation of tables; its numerics know nothing of columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsdino.errors import TableError
from wsdino.profile.base import Fit, Needs
from wsdino.profile.labels import label_names
from wsdino.profile.rows import control_rows
from wsdino.profile.shrinkage import Choice
from wsdino.profile.weak_label import WeakLabelWhitening, fit_weak_label
from wsdino.profile.whitening import channel_groups
from wsdino.tables.columns import PLATE
from wsdino.tables.features import feature_columns, features_of, plate_keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from wsdino.profile.base import State

_CENTRING = Needs(controls_per_plate=1)


class WeakLabel:
    """Whiten by the scatter within weak labels.

    Options: `label`, see :func:`wsdino.profile.labels.label_columns`; `regularisation`, a number or
    `auto`, is the ridge of :func:`wsdino.profile.weak_label.fit_weak_label`; `per_channel`: whiten
    the features `emb_<channel>_<index>` of each channel alone.
    """

    def fit(self, table: pd.DataFrame, options: Mapping[str, Any]) -> Fit:
        """Fit on the rows with a label and the controls; see the protocol `Method`."""
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
        notes = [whitening.describe()]
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
        choice = Choice(
            **state["choice"]
            | {name: tuple(state["choice"][name]) for name in ("candidates", "scores")}
        )
        whitening = WeakLabelWhitening(**state | {"choice": choice, "notes": tuple(state["notes"])})
        lacking = _CENTRING.unmet(table)
        if whitening.centred and lacking:
            raise TableError(
                f"normalisation weak_label {lacking}, as the table that it was fitted on did"
            )
        white = whitening.transform(
            features_of(table), plates=_plates(table), controls=control_rows(table)
        )
        # The whitening is the symmetric one: a column still belongs to its feature.
        names = feature_columns(table)
        columns = [names[position] for position in whitening.kept]
        return pd.DataFrame(white, columns=columns, index=table.index)


def _plates(table: pd.DataFrame) -> NDArray[np.integer[Any]] | None:
    """Return a number for each row's plate; None unless every row has one."""
    if PLATE not in table or table[PLATE].isna().any():
        return None
    groups = table.groupby(plate_keys(table), sort=False, dropna=False)
    codes: NDArray[np.int64] = groups.ngroup().to_numpy().astype(np.int64)
    return codes
