"""Evidently's numerical drift on windows, by the method that its `ValueDrift` chooses for the reference.

That is the normed Wasserstein distance, or the Jensen-Shannon distance for a reference of five values or fewer. The
report takes 70 ms a window, nearly all of it not the distance, so windows go through the function that it calls; one
window of every run goes through both, and they must agree. A setting is the distance that counts as drift (0.1).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from contract import by_windows, serve
from evidently import Report
from evidently.legacy.calculations.stattests import jensenshannon_stat_test, wasserstein_stat_test
from evidently.legacy.core import ColumnType
from evidently.metrics import ValueDrift

METHODS = {
    "Wasserstein distance (normed)": (wasserstein_stat_test, ColumnType.Numerical),
    "Jensen-Shannon distance": (jensenshannon_stat_test, ColumnType.Numerical),
}
_chosen = {}


def reported(reference, window):
    """Give method and distance as a report has them."""
    frames = [pd.DataFrame({"score": values}) for values in (window, reference)]
    metric = Report([ValueDrift(column="score")]).run(*frames).dict()["metrics"][0]
    return metric["config"]["method"], metric["value"]


def windowed(size):
    """Give the runner for windows of one size."""

    def statistics(reference, live):
        accepted = pd.Series(reference)
        pieces = [pd.Series(live[at : at + size]) for at in range(0, len(live), size)]
        few = accepted.nunique() <= 5
        if few not in _chosen:
            method, value = reported(accepted, pieces[-1])
            test, kind = METHODS[method]
            again = test(accepted, pieces[-1], kind, 0.1).drift_score
            if not np.isclose(value, again):
                raise RuntimeError(f"the report says {value} by {method}, the function {again}")
            _chosen[few] = test, kind
        test, kind = _chosen[few]
        return [test(accepted, piece, kind, 0.1).drift_score for piece in pieces]

    return by_windows(size, statistics)


if __name__ == "__main__":
    serve("evidently", {f"window {size}": windowed(size) for size in (500, 2000)})
