"""How often intervals hold the truth, for the tests of estimators."""

import numpy as np

from artlib.ope import intervals
from artlib.ope.estimators import terms, value_of_sums

# With these, the regularised estimators are unbiased too, so their intervals can be held to the truth.
UNREGULARISED = {"clipped-ips": np.inf, "sgips": 0.0}


def sums_of(feedback, estimator, parameter=None):
    return intervals.cluster_sums(terms(feedback, estimator, parameter), feedback)


def share_covered(logs, truth, names, n_bootstrap):
    """The same for any logs of a policy whose value is the truth."""
    hits = {}
    for seed, feedback in enumerate(logs):
        sizes = intervals.cluster_sizes(feedback)
        sums = {e: sums_of(feedback, e, UNREGULARISED.get(e)) for e in names}
        drawn = intervals.replicate_sums(np.column_stack([sizes, *sums.values()]), n_bootstrap, seed)
        start = 1
        for name, block in sums.items():
            replicates = value_of_sums(drawn[:, start : start + block.shape[1]], drawn[:, 0])
            start += block.shape[1]
            value = float(value_of_sums(block.sum(axis=0), sizes.sum()))
            error = intervals.standard_error(intervals.influence(block, sizes))
            found = {
                "percentile": intervals.percentile_interval(replicates, 0.05),
                "bca": intervals.bca_interval(replicates, value, intervals.leave_one_out(block, sizes), 0.05),
                "normal": intervals.normal_interval(value, error, len(sizes), 0.05),
            }
            for method, (lower, upper) in found.items():
                hits.setdefault((name, method), []).append(lower <= truth <= upper)
    return {key: float(np.mean(hit)) for key, hit in hits.items()}
