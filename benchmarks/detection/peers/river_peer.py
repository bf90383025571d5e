"""River's detectors; each setting is the one number that its users tune."""

from __future__ import annotations

from contract import one_by_one, serve
from river.drift import ADWIN, KSWIN, PageHinkley


def feed(detector, score):
    """Take a score in and say whether the detector alarms."""
    detector.update(score)
    return detector.drift_detected


# A setting is -log10 of delta or alpha, so that larger is quieter everywhere; None is the library's default.
MAKERS = {
    "ADWIN": lambda setting: ADWIN() if setting is None else ADWIN(delta=10.0**-setting),
    "KSWIN": lambda setting: KSWIN(seed=1) if setting is None else KSWIN(alpha=10.0**-setting, seed=1),
    "Page-Hinkley": lambda setting: PageHinkley() if setting is None else PageHinkley(threshold=setting, mode="down"),
}

# KSWIN looks at its last 100 values only and takes as long as all the others together.
REMEMBERS = {"KSWIN": 300}

if __name__ == "__main__":
    serve("river", {name: one_by_one(make, feed, REMEMBERS.get(name)) for name, make in MAKERS.items()}, MAKERS, feed)
