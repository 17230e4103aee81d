"""The normalisations as an estimator of scikit-learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from sklearn.base import BaseEstimator, TransformerMixin

from wsdino.profile.normalise import fit_normalisation

if TYPE_CHECKING:
    import pandas as pd


class Normaliser(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A normalisation with scikit-learn's interface: cloned, set and chained as its estimators.

    Tables are data frames, since controls, plates and labels are columns of them.

    Parameters
    ----------
    method
        Name of one of :data:`wsdino.profile.methods.NORMALISATIONS`.
    num_components, regularisation, per_channel, label
        See :func:`wsdino.profile.normalise.fit_normalisation`; None: the method's default.

    Attributes
    ----------
    fitted_
        The fitted normalisation, a :class:`wsdino.profile.fitted.Fitted`.

    Examples
    --------
    >>> import wsdino
    >>> table = wsdino.read_table("sites.csv")
    >>> normaliser = wsdino.Normaliser(method="weak_label", regularisation=0.1).fit(table)
    >>> normaliser.transform(table).shape == table.shape
    True
    """

    def __init__(
        self,
        method: str = "tvn",
        *,
        num_components: int | None = None,
        regularisation: float | str | None = None,
        per_channel: bool | None = None,
        label: str | None = None,
    ) -> None:
        self.method = method
        self.num_components = num_components
        self.regularisation = regularisation
        self.per_channel = per_channel
        self.label = label

    def fit(self, X: pd.DataFrame, y: object = None) -> Self:  # noqa: ARG002, N803 scikit-learn's
        """Fit on a table of sites or wells; `y` is ignored.

        Raises
        ------
        TableError
            See :func:`wsdino.profile.normalise.fit_normalisation`.
        """
        self.fitted_ = fit_normalisation(
            X,
            method=self.method,
            num_components=self.num_components,
            regularisation=self.regularisation,
            per_channel=self.per_channel,
            label=self.label,
        )
        return self

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:  # noqa: N803 scikit-learn's name
        """Normalise a table with the same features, see `Fitted.transform`.

        Raises
        ------
        TableError
            As there.
        """
        from sklearn.utils.validation import check_is_fitted

        check_is_fitted(self)
        return self.fitted_.transform(X)
