"""NannyML on chunks: univariate drift (Jensen-Shannon) and the mean, each against the spread of reference chunks.

Both alert outside mean +- 3 standard deviations of the statistic over reference chunks (the default threshold). A
setting is that multiple; the statistic of a chunk is the multiple at which it alerts, read from one run.
"""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pandas as pd
from contract import by_windows, serve

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)

from nannyml import SummaryStatsAvgCalculator, UnivariateDriftCalculator  # noqa: E402


def _multiples(calculator, reference, live, column):
    """Give how many reference standard deviations each whole chunk of `live` lies away from the reference mean."""
    calculator.fit(pd.DataFrame({"score": reference}))
    result = calculator.calculate(pd.DataFrame({"score": live}))
    frame = result.to_df()
    period = (
        frame[("chunk", "chunk", "period")] if ("chunk", "chunk", "period") in frame else frame[("chunk", "period")]
    )
    values = frame[column].to_numpy(dtype=float)
    accepted, later = values[(period == "reference").to_numpy()], values[(period == "analysis").to_numpy()]
    return (later - accepted.mean()) / max(accepted.std(ddof=0), 1e-12)


def drift(size):
    """Give the runner of the univariate drift calculator, with the method it takes by itself."""

    def statistics(reference, live):
        calculator = UnivariateDriftCalculator(column_names=["score"], chunk_size=size)
        return _multiples(calculator, reference, live, ("score", "jensen_shannon", "value"))

    return by_windows(size, statistics)


def mean(size):
    """Give the runner of the summary statistic, in both directions as it ships."""

    def statistics(reference, live):
        calculator = SummaryStatsAvgCalculator(column_names=["score"], chunk_size=size)
        return np.abs(_multiples(calculator, reference, live, ("score", "value")))

    return by_windows(size, statistics)


if __name__ == "__main__":
    serve("nannyml", {"drift, chunk 500": drift(500), "mean, chunk 500": mean(500)})
