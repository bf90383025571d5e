"""Frouros' detectors of a rising error; the error is 1 - overlap."""

from __future__ import annotations

from contract import one_by_one, serve
from frouros.detectors.concept_drift import CUSUM, HDDMA, CUSUMConfig, HDDMAConfig


def feed(detector, score):
    """Take a score in and say whether the detector alarms; it starts anew after an alarm."""
    detector.update(value=1.0 - score)
    if not detector.drift:
        return False
    detector.reset()
    return True


# A setting is -log10 of alpha for HDDM-A, lambda for CUSUM; None is the library's default. HDDM-A's level of warnings,
# which we do not use, must be the larger one.
MAKERS = {
    "HDDM-A": lambda setting: HDDMA(
        config=HDDMAConfig() if setting is None else HDDMAConfig(alpha_d=10.0**-setting, alpha_w=10.0 ** (-setting / 2))
    ),
    "CUSUM": lambda setting: CUSUM(config=CUSUMConfig() if setting is None else CUSUMConfig(lambda_=setting)),
}

if __name__ == "__main__":
    serve("frouros", {name: one_by_one(make, feed) for name, make in MAKERS.items()}, MAKERS, feed)
