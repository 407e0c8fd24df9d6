"""From rounds to rows: medians, quartiles, ratios."""

from collections.abc import Mapping
from statistics import median
from typing import Any

import numpy as np

from quantsr.bench.engines import OURS
from quantsr.bench.measure import Measured

Row = dict[str, Any]


def row(measured: Mapping[str, Measured], engine: str, macs: int, layers: int) -> Row:
    """What was measured of an engine; times are of one of `layers` equal layers.

    Ratios are to ours, the median of the rounds' own ratios, above 1: slower; None where ours did not run. gmacs:
    10^9 multiply-adds per second of CPU time, `macs` being those of a run, counted as in direct convolutions.
    """
    own, ours = measured[engine], measured.get(OURS)
    found: Row = {"engine": engine}
    for kind in ("cpu", "wall"):
        seconds = np.array(getattr(own, kind))
        low, middle, high = np.percentile(seconds / layers * 1e3, [25, 50, 75]).tolist()
        ratios = [] if ours is None else (seconds / getattr(ours, kind)).tolist()
        found |= {f"{kind}_ms": middle, f"{kind}_ms_quartiles": [low, high]}
        found[f"{kind}_ratio"] = median(ratios) if ratios else None
    gmacs = macs / median(own.cpu) / 1e9
    return found | {"gmacs": gmacs, "peak_mib": own.peak_mib, "kernels": dict(own.kernels)}
