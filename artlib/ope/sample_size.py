"""How many impressions until a lift shows: the power of a paired off-policy comparison."""

import numpy as np
import pandas as pd
from scipy import stats

from artlib.ope import intervals
from artlib.ope.estimators import terms
from artlib.ope.feedback import Feedback


def power(
    target: Feedback,
    baseline: Feedback | None = None,
    *,
    lift: float = 0.03,
    n: int | None = None,
    estimators=("ips", "snips"),
    alpha: float = 0.05,
    power: float = 0.8,
) -> pd.DataFrame:
    """Impressions needed to detect a relative lift, per estimator, with this log's propensities and rewards.

    The lift V(target) / V(baseline) - 1 has standard error s / sqrt(n), s estimated from the log with the
    influence functions summed per cluster, so that pairing and clustering count. A two-sided level-alpha
    test of lift = 0 detects a true lift with the stated power at

        n = ((z_{1 - alpha / 2} + z_{power}) s / lift)^2.

    Args:
        target: the log with the policy to be evaluated, or one expected to differ as much from the log.
        baseline: the same log with the baseline policy. Default: the logging policy itself, valued by its
            on-policy mean.
        lift: relative lift that should be detected.
        n: impressions of the planned evaluation, for `power` and `detectable_lift`. Default: the log's.
        estimators: names in ESTIMATORS.
        alpha: level of the test.
        power: wanted probability of detecting the lift.

    Returns:
        DataFrame, a row per estimator: estimator, lift, sd (s, per impression), impressions (needed), n,
        detectable_lift (at n, with the wanted power), power (of detecting `lift` at n); NaN where nothing that was
        logged is ever shown by a policy.

    Raises:
        ValueError: when lift is 0, a probability is outside (0, 1), or the baseline's value is not positive.
    """
    _check_plan(lift, alpha, power)
    n = target.n if n is None else n
    return pd.DataFrame([_plan(target, baseline, name, lift, n, alpha, power) for name in estimators])


def _plan(target, baseline, name, lift, n, alpha, wanted) -> dict:
    sd = lift_deviation(target, baseline, name)
    z_alpha, z_power = stats.norm.ppf(1 - alpha / 2), stats.norm.ppf(wanted)
    needed = ((z_alpha + z_power) * sd / lift) ** 2
    shift = np.inf if sd == 0 else abs(lift) * np.sqrt(n) / sd
    return {
        "estimator": name,
        "lift": lift,
        "sd": sd,
        "impressions": int(np.ceil(needed)) if np.isfinite(needed) else np.nan,
        "n": n,
        "detectable_lift": (z_alpha + z_power) * sd / np.sqrt(n),
        "power": stats.norm.cdf(shift - z_alpha) + stats.norm.cdf(-shift - z_alpha),
    }


def lift_deviation(target: Feedback, baseline: Feedback | None, estimator: str) -> float:
    """s of one impression: sqrt(n) times the cluster-robust standard error of the paired lift, at lift 0.

    At lift 0 the two values are alike, so s = sqrt(n) se(IF_target - IF_baseline) / V(baseline). The target's rewards
    are taken as logged: a target with a large lift of its own is played more than one with a small lift would be, and
    s is larger by up to the square root of the ratio of their values.
    """
    ours = terms(target, estimator)
    theirs = terms(target, "on-policy") if baseline is None else terms(baseline, estimator)
    if not theirs.value > 0:
        raise ValueError(
            f"the baseline's value is {theirs.value}: a relative lift needs a positive one; take a log "
            "with rewards, and a baseline that overlaps with it"
        )
    if not (ours.defined and theirs.defined):
        return float("nan")
    sizes = intervals.cluster_sizes(target)
    difference = intervals.influence(intervals.cluster_sums(ours, target), sizes) - intervals.influence(
        intervals.cluster_sums(theirs, baseline or target), sizes
    )
    return float(np.sqrt(target.n) * intervals.standard_error(difference) / theirs.value)


def _check_plan(lift: float, alpha: float, wanted: float) -> None:
    if lift == 0 or not np.isfinite(lift):
        raise ValueError(f"lift is {lift}: give the relative lift to detect, e.g. 0.03 for 3 %")
    for name, value in (("alpha", alpha), ("power", wanted)):
        if not 0 < value < 1:
            raise ValueError(f"{name} is {value}: it must be between 0 and 1")
