"""The measures of an evaluation: what each is called, and how it is written for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

NOTHING = "-"


@dataclass(frozen=True)
class Measure:
    """A measure; its numbers stand in the results under `key`, `key_total`, `key_ci`, `key_null`.

    Attributes
    ----------
    key
        In the results.
    name, long_name
        For people.
    is_share
        Whether it is the share of right queries, with `key_correct`; else a mean over the queries.
    interval
        What its interval at 95 % is.
    """

    key: str
    name: str
    long_name: str
    is_share: bool
    interval: str

    def value_text(self, results: Mapping[str, Any]) -> str:
        """Write value and interval: `101/103 = 98.1 % [93.2, 99.5]` or `0.837 [0.76, 0.91]`."""
        value = results.get(self.key)
        if value is None:
            return NOTHING
        interval = results.get(f"{self.key}_ci")
        if not self.is_share:
            return f"{value:.3f}" + (" [{:.2f}, {:.2f}]".format(*interval) if interval else "")
        counts = f"{results[f'{self.key}_correct']}/{results[f'{self.key}_total']}"
        percents = " [{:.1f}, {:.1f}]".format(*(100 * x for x in interval)) if interval else ""
        return f"{counts} = {100 * value:.1f} %{percents}"

    def chance_text(self, results: Mapping[str, Any]) -> str:
        """Write what shuffled MoAs reach, and how rarely they reach the value."""
        null = results.get(f"{self.key}_null")
        if not null:
            return NOTHING
        mean = f"{100 * null['mean']:.0f} %" if self.is_share else f"{null['mean']:.3f}"
        return f"{mean} (p = {null['p_value']:.2g})" if "p_value" in null else mean


_WILSON = "Wilson's score interval"
MEASURES = (
    Measure("nsc", "NSC", "not same compound", is_share=True, interval=_WILSON),
    Measure("nscb", "NSCB", "not same compound and batch", is_share=True, interval=_WILSON),
    Measure(
        "map",
        "mAP",
        "mean average precision",
        is_share=False,
        interval="bootstrap over compounds",
    ),
)
BY_KEY = {measure.key: measure for measure in MEASURES}
