"""What every normalisation has in common: a name, its needs and options, and two pure functions.

Nothing here imports NumPy or pandas, so that the command line can show its help at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from wsdino.errors import TableError
from wsdino.tables.columns import CONTROL, PLATE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd

    from wsdino.profile.fitted import Fitted

# Arrays and what JSON holds, nested in dicts and lists.
State = dict[str, Any]


@dataclass(frozen=True)
class Fit:
    """What a fit found.

    Attributes
    ----------
    state
        All that transforming takes.
    fitted_on
        Which rows were used, in words; empty if none.
    num_fitted
        How many.
    note
        What a reader of the results should know; may be empty.
    warning
        A sentence for what may have cost much of the score; may be empty.
    num_components
        Number of whitened features, or None where features are kept as they are.
    """

    state: State
    fitted_on: str
    num_fitted: int
    note: str = ""
    num_components: int | None = None
    warning: str = ""


class Method(Protocol):
    """The numerics of a normalisation: two pure functions, and what may stand between them.

    Both get a table whose features are finite and in the same order.
    """

    def fit(self, table: pd.DataFrame, options: Mapping[str, Any]) -> Fit:
        """Fit on a table, with a value for each option of the normalisation."""

    def transform(self, table: pd.DataFrame, state: State) -> pd.DataFrame:
        """Return the normalised features of a table, without its metadata."""

    def check(self, state: State, features: Sequence[str]) -> None:
        """Raise ValueError if no fit on these features makes this state; called when it is read."""


@dataclass(frozen=True)
class Needs:
    """What a table must have for a normalisation to be fitted on it.

    Attributes
    ----------
    rows
        Rows in all.
    controls
        Control rows in all.
    controls_per_plate
        Control rows on every plate.
    rows_per_plate
        Rows on every plate.
    label
        Whether a weak label is used, which the option `label` names. Results then say so, and give
        a second number with the query's compound left out of the fit.
    """

    rows: int = 1
    controls: int = 0
    controls_per_plate: int = 0
    rows_per_plate: int = 0
    label: bool = False

    def unmet(self, table: pd.DataFrame, *, label: str = "compound") -> str:
        """Say what a table lacks.

        Parameters
        ----------
        table
            Metadata of sites or wells: a manifest or a table of features.
        label
            Which weak label is used, see :func:`wsdino.profile.labels.label_columns`.

        Returns
        -------
        str
            Such as `needs at least 2 control rows (Metadata_Control true), found 0 in 36 rows`;
            empty where nothing is missing.
        """
        if len(table) < self.rows:
            return f"needs at least {self.rows} rows, found {len(table)}"
        num = int(table[CONTROL].astype(bool).sum()) if CONTROL in table else 0
        if num < self.controls:
            found = f"{num} in {len(table)} rows" if CONTROL in table else "no such column"
            return f"needs at least {self.controls} control rows ({CONTROL} true), found {found}"
        if self.label:
            from wsdino.profile.labels import label_problem

            problem = label_problem(table, label)
            if problem:
                return problem
        if not (self.controls_per_plate or self.rows_per_plate):
            return ""
        if PLATE not in table:
            return f"needs the column {PLATE}, which the table doesn't have"
        if table[PLATE].isna().any():
            num = int(table[PLATE].isna().sum())
            return f"needs a plate in every row: {PLATE} is missing in {num} of {len(table)}"
        from wsdino.profile.rows import control_rows, plate_rows

        controls = control_rows(table)
        for rows in plate_rows(table):
            for what, wanted, num in (
                ("row", self.rows_per_plate, len(rows)),
                ("control row", self.controls_per_plate, int(controls[rows].sum())),
            ):
                if num < wanted:
                    return (
                        f"needs at least {wanted} {what}{'s' * (wanted > 1)} on every plate, "
                        f"plate {table[PLATE].iloc[rows[0]]} has {num}"
                    )
        return ""


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """A way to normalise features, as one entry of `NORMALISATIONS`.

    Attributes
    ----------
    name
        What users call it.
    help
        What it does, in one line.
    method
        Makes the numerics; called when they are needed.
    needs
        What a table must have.
    options
        Default by name of the options that have an effect; others are refused.
    scales
        Whether features with units of their own become comparable, as those of several tables.
    """

    name: str
    help: str
    method: Callable[[], Method]
    needs: Needs = Needs()
    options: Mapping[str, Any] = field(default_factory=dict)
    scales: bool = True

    def __post_init__(self) -> None:
        assert not self.needs.label or "label" in self.options, f"{self.name}: which label?"

    def resolve(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Fill in the defaults of options; None stands for the default.

        Parameters
        ----------
        options
            Value by name.

        Returns
        -------
        dict
            A value for each option that the normalisation has.

        Raises
        ------
        TableError
            If an option is given that has no effect here, or as text where it has none.
        """
        given = {name: value for name, value in options.items() if value is not None}
        for name, value in given.items():
            if name not in self.options:
                raise TableError(
                    f"{name} {value!r} has no effect with normalisation {self.name}, which takes "
                    f"{', '.join(self.options) or 'no options'}; leave it out"
                )
            if isinstance(value, str) and not isinstance(self.options[name], str):
                raise TableError(
                    f"{name} {value!r} is unknown to normalisation {self.name}; give a number, or "
                    "leave it out"
                )
        return dict(self.options) | given

    def unmet(self, table: pd.DataFrame, options: Mapping[str, Any] | None = None) -> str:
        """Say what a table lacks for this normalisation; see :meth:`Needs.unmet`.

        Parameters
        ----------
        table
            Metadata of sites or wells.
        options
            Value by name, as for :meth:`fit`.

        Returns
        -------
        str
            Empty where nothing is missing.
        """
        resolved = self.resolve(options or {})
        label = {"label": resolved["label"]} if self.needs.label else {}
        return self.needs.unmet(table, **label)

    def fit(self, table: pd.DataFrame, **options: Any) -> Fitted:
        """Fit on a table of sites or wells.

        Parameters
        ----------
        table
            Metadata and features.
        **options
            Those in :attr:`options`; None stands for the default.

        Returns
        -------
        Fitted
            Transforms this table and others with the same features.

        Raises
        ------
        TableError
            If the table lacks something, an option has no effect or is out of range, or as in
            :func:`wsdino.tables.features.features_of`.
        """
        from wsdino.profile.fitted import fit

        return fit(self, table, options)
