"""Normalise the features of a table by one of the named normalisations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsdino.profile.methods import find_normalisation
from wsdino.tables.features import require_table

if TYPE_CHECKING:
    import pandas as pd

    from wsdino.profile.fitted import Fitted


def fit_normalisation(table: pd.DataFrame, *, method: str = "tvn", **options: Any) -> Fitted:
    """Fit a normalisation on a table of sites or wells.

    Parameters
    ----------
    table
        Metadata and features.
    method
        Name of one of :data:`wsdino.profile.methods.NORMALISATIONS`.
    **options
        Those that the normalisation has; None stands for its default. The whitenings take
        `num_components`, `regularisation` (see :func:`wsdino.profile.whitening.fit_tvn`; by default
        0 for `tvn`, as published, and 0.1 for `whiten_all`, whose rows are the ones it was fitted
        on) and `per_channel` (see :class:`wsdino.profile.whitening.Whitening`).

    Returns
    -------
    Fitted
        `transform(table)` normalises this table and others with the same features; `save(path)`.

    Raises
    ------
    TableError
        If the method is unknown, an option has no effect on it or is out of range, the table lacks
        the controls, plates or rows that it needs, every feature is constant, or as in
        :func:`wsdino.tables.features.features_of`.

    Examples
    --------
    >>> import wsdino
    >>> table = wsdino.read_table("sites.csv")
    >>> fitted = wsdino.fit_normalisation(table, method="weak_label", label="compound")
    >>> fitted.transform(table).shape == table.shape
    True
    """
    require_table(table)
    return find_normalisation(method).fit(table, **options)


def normalise(
    table: pd.DataFrame, *, method: str = "tvn", **options: Any
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Normalise the features of a table of sites or wells: fit, then transform.

    Parameters
    ----------
    table
        Metadata and features.
    method, **options
        See :func:`fit_normalisation`.

    Returns
    -------
    normalised : DataFrame
        See :meth:`wsdino.profile.fitted.Fitted.transform`.
    info : dict
        See :class:`wsdino.profile.fitted.Fitted`.

    Raises
    ------
    TableError
        See :func:`fit_normalisation`.

    Examples
    --------
    >>> import wsdino
    >>> table = wsdino.read_table("sites.csv")
    >>> _, info = wsdino.normalise(table, method="tvn", regularisation=0.1)
    >>> info["method"], info["fitted_on"]
    ('tvn', 'controls')
    """
    require_table(table)
    fitted = fit_normalisation(table, method=method, **options)
    return fitted.transform(table), fitted.info
