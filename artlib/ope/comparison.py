"""Many policies on the same log: paired lifts over a baseline, with multiplicity-adjusted p-values."""

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from artlib.ope import intervals, sequences
from artlib.ope.diagnostics import Diagnostics, Shift, diagnose, regularisation_shift, verdict
from artlib.ope.estimators import value_of_sums
from artlib.ope.feedback import Feedback
from artlib.ope.result import (
    BOOTSTRAPS,
    EvaluationWarning,
    check_interval_arguments,
    is_estimable,
)
from artlib.ope.selection import summed
from artlib.ope.sums import Sums

NAN = float("nan")
METHODS = ("percentile", "bca", "normal", "asymptotic-sequence")
LIFT_COLUMNS = ("lift", "lift_lower", "lift_upper", "p_value")
COLUMNS = [
    "policy",
    "estimator",
    "n",
    "value",
    "lower",
    "upper",
    "std_error",
    "lift",
    "lift_lower",
    "lift_upper",
    "p_value",
    "p_holm",
    "ess",
    "match_rate",
    "max_weight",
    "max_weight_share",
    "mean_weight",
    "mean_weight_p",
    "unsupported_mass",
    "parameter",
    "verdict",
]


def compare(
    feedbacks: dict[str, Feedback] | dict[str, Sums],
    baseline: str,
    estimator: str | list[str] = "snips",
    *,
    method: str = "percentile",
    n_bootstrap: int = 1000,
    alpha: float = 0.05,
    seed: int = 0,
    parameter: float | str | None = None,
) -> pd.DataFrame:
    """Value of every policy and its lift over a baseline, paired over the same impressions.

    lift = V(policy) / V(baseline) - 1. Every replicate draws the same clusters for all policies, so what the
    policies share cancels. p_value tests lift = 0 and agrees with the interval: it is below alpha where the
    interval leaves out 0, to within the resolution of the replicates. p_holm adjusts it over the other
    policies, per estimator (Holm 1979, "A simple sequentially rejective multiple test procedure").

    Relative to nothing there is no lift: it is NaN, with a warning, where the baseline's value is not positive or,
    some rewards being negative, its interval reaches 0.

    Args:
        feedbacks: policy name -> Feedback. All must have the same reward, action, propensity and cluster. Or what
            `read_sums` gives, in which the parameter is.
        baseline: the name of the policy that the others are compared with.
        estimator: a name in ESTIMATORS, or several.
        method: of the intervals: percentile, bca, normal (delta method) or asymptotic-sequence.
        n_bootstrap, alpha, seed, parameter: as in `estimate`.

    Returns:
        DataFrame, a row per estimator and policy in the given order: policy, estimator, n, value, lower,
        upper, std_error, lift, lift_lower, lift_upper, p_value, p_holm, diagnostics, parameter, verdict. The
        baseline's lift is 0 and its p-values are NaN.

    Raises:
        ValueError: when the baseline is missing or the policies were not evaluated on the same impressions.
    """
    check_interval_arguments(method, n_bootstrap, alpha, METHODS)
    _check_same_log(feedbacks, baseline)
    names = [estimator] if isinstance(estimator, str) else list(estimator)
    sums = summed(feedbacks, names, parameter)
    resampled = _resample(sums, names, n_bootstrap if method in BOOTSTRAPS else 0, seed)
    signed = sums[baseline].rows.lowest_reward < 0
    obstacles = {e: _obstacle(resampled[e, baseline], method, alpha, signed) for e in names}
    diagnostics = {policy: diagnose(each) for policy, each in sums.items()}
    rows = []
    for (name, policy), own in resampled.items():
        usable = is_estimable(own.defined, len(own.sizes), f"{policy}, {name}")
        used = sums[policy].parameters[name].value
        rows.append(
            _diagnosis(diagnostics[policy], name, regularisation_shift(sums[policy], name), own)
            | {"policy": policy, "estimator": name, "parameter": NAN if used is None else float(used)}
            | {"std_error": own.std_error}
            | _value(own, method, alpha, usable)
            | _lift(own, resampled[name, baseline], obstacles[name], method, alpha, usable)
        )
    frame = pd.DataFrame(rows)
    frame["p_holm"] = frame.groupby("estimator")["p_value"].transform(holm)
    return frame[COLUMNS]


def holm(p_values) -> np.ndarray:
    """Holm-adjusted p-values: the smallest times m, the next times m - 1, ..., made monotone and at most 1.

    Args:
        p_values: (m,) p-values; NaN is not a test and stays NaN.
    """
    p = np.asarray(p_values, dtype=float)
    adjusted = np.full(p.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    scaled = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted


@dataclass(frozen=True, eq=False)
class _Resampled:
    """An estimator's value of a policy with what its intervals are made of; replicates (B,), None without a bootstrap.

    Of clusters' numbers, which may be many, nothing is kept.
    """

    policy: Sums
    estimator: str
    replicates: np.ndarray | None

    @cached_property
    def value(self) -> float:
        return self.policy.value(self.estimator)

    @property
    def defined(self) -> bool:
        return self.policy.defined[self.estimator]

    @property
    def sizes(self) -> np.ndarray:
        return self.policy.sizes

    @property
    def influence(self) -> np.ndarray:
        if not self.defined:
            return np.full(len(self.sizes), np.nan)
        return intervals.influence(self.policy.block(self.estimator), self.sizes)

    @property
    def jackknife(self) -> np.ndarray:
        return intervals.leave_one_out(self.policy.block(self.estimator), self.sizes)

    @cached_property
    def std_error(self) -> float:
        return intervals.standard_error(self.influence)


def _resample(sums: dict[str, Sums], names: list[str], n_bootstrap: int, seed: int) -> dict:
    """Values of every estimator and policy, and replicates of all from one set of draws."""
    keys = [(name, policy) for name in names for policy in sums]
    if not n_bootstrap:
        return {key: _Resampled(sums[key[1]], key[0], None) for key in keys}
    sizes = next(iter(sums.values())).sizes
    # Of a table only what these estimators need, each column once.
    needed = {policy: sorted({i for name in names for i in each.at[name]}) for policy, each in sums.items()}
    columns = [sizes]
    for policy, each in sums.items():
        whole = len(needed[policy]) == each.table.shape[1]  # then a copy, which may be large, would be for nothing
        columns.append(each.table if whole else each.table[:, needed[policy]])
    drawn = intervals.replicate_sums(columns, n_bootstrap, seed)
    start = dict(zip(sums, 1 + np.cumsum([0, *map(len, needed.values())]), strict=False))
    found = {}
    for name, policy in keys:
        at = [start[policy] + needed[policy].index(i) for i in sums[policy].at[name]]
        found[name, policy] = _Resampled(sums[policy], name, value_of_sums(drawn[:, at], drawn[:, 0]))
    return found


def _diagnosis(diagnostics: Diagnostics, estimator: str, shift: Shift, own: _Resampled) -> dict:
    found = {key: value for key, value in asdict(diagnostics).items() if key in COLUMNS}
    return found | {"verdict": verdict(diagnostics, estimator, shift, own.std_error)}


def _value(own: _Resampled, method: str, alpha: float, usable: bool) -> dict:
    if not usable:
        lower, upper = NAN, NAN
    elif method == "percentile":
        lower, upper = intervals.percentile_interval(own.replicates, alpha)
    elif method == "bca":
        lower, upper = intervals.bca_interval(own.replicates, own.value, own.jackknife, alpha)
    else:
        lower, upper = _centred_interval(own.value, own.std_error, len(own.sizes), method, alpha)
    return {"value": own.value, "lower": lower, "upper": upper}


def _obstacle(base: _Resampled, method: str, alpha: float, signed: bool) -> str | None:
    """Why nothing has a lift relative to this baseline; None if there is no reason. `signed`: a reward is negative."""
    if not base.value > 0:
        return f"the baseline's value is {base.value}"
    if not signed or len(base.sizes) < 2:
        return None
    found = _value(base, method, alpha, True)
    if found["lower"] > 0:
        return None
    return "the baseline's value is {value:.3g} ({lower:.3g}, {upper:.3g}), perhaps 0 or less".format(**found)


def _lift(own: _Resampled, base: _Resampled, obstacle: str | None, method: str, alpha: float, usable: bool) -> dict:
    if own is base:
        zero = NAN if obstacle else 0.0
        return dict(zip(LIFT_COLUMNS, (zero, zero, zero, NAN), strict=True))
    if obstacle:
        if own.defined:
            warnings.warn(
                f"{obstacle}, so relative lifts are NaN; compare with a baseline whose value is positive, or the "
                "values themselves",
                EvaluationWarning,
                stacklevel=3,
            )
        return dict.fromkeys(LIFT_COLUMNS, NAN)
    lift = own.value / base.value - 1
    bounds = _lift_bounds(own, base, lift, method, alpha) if usable else (NAN, NAN, NAN)
    return dict(zip(LIFT_COLUMNS, (lift, *bounds), strict=True))


def _lift_bounds(own: _Resampled, base: _Resampled, lift: float, method: str, alpha: float):
    """Lower and upper bound of the lift, and the p-value of lift = 0."""
    if method in BOOTSTRAPS:
        positive = np.where(base.replicates > 0, base.replicates, np.nan)
        lifts = own.replicates / positive - 1
        if method == "percentile":
            return *intervals.percentile_interval(lifts, alpha), intervals.percentile_p_value(lifts)
        jackknife = own.jackknife / base.jackknife - 1
        bounds = intervals.bca_interval(lifts, lift, jackknife, alpha)
        return *bounds, intervals.bca_p_value(lifts, lift, jackknife)
    # Delta method: V_p / V_b - 1 moves by (IF_p - (V_p / V_b) IF_b) / V_b.
    error = intervals.standard_error((own.influence - (1 + lift) * base.influence) / base.value)
    g = len(own.sizes)
    return *_centred_interval(lift, error, g, method, alpha), _centred_p_value(lift, error, g, method)


def _centred_interval(value: float, error: float, g: int, method: str, alpha: float) -> tuple[float, float]:
    if method == "normal":
        return intervals.normal_interval(value, error, g, alpha)
    margin = sequences.asymptotic_sequence_margin(error, g, alpha)
    return value - margin, value + margin


def _centred_p_value(value: float, error: float, g: int, method: str) -> float:
    if method == "normal":
        return intervals.normal_p_value(value, error, g)
    return sequences.asymptotic_sequence_p_value(value, error, g)


def _check_same_log(feedbacks: Mapping[str, Feedback | Sums], baseline: str) -> None:
    if baseline not in feedbacks:
        raise ValueError(f"baseline is {baseline!r}: it must be one of the policies {', '.join(map(repr, feedbacks))}")
    reference = feedbacks[baseline]
    if all(isinstance(each, Sums) for each in feedbacks.values()):
        return
    for policy, feedback in feedbacks.items():
        if isinstance(feedback, Sums) or isinstance(reference, Sums):
            raise ValueError(f"policy {policy!r} and {baseline!r}: one is a Feedback, one Sums; give all alike")
        for name in ("reward", "action", "propensity", "cluster"):
            _check_same(name, policy, getattr(feedback, name), baseline, getattr(reference, name))


def _check_same(name: str, policy: str, ours, baseline: str, theirs) -> None:
    if ours is theirs:
        return
    remedy = "lifts are paired, so evaluate every policy on the same impressions in the same order"
    if ours is None or theirs is None or len(ours) != len(theirs):
        described = ["none" if x is None else f"{len(x)} rows" for x in (ours, theirs)]
        raise ValueError(
            f"{name} of policy {policy!r} has {described[0]}, that of {baseline!r} {described[1]}: {remedy}"
        )
    different = np.flatnonzero(ours != theirs)
    if len(different):
        row = different[0]
        raise ValueError(
            f"{name} of policy {policy!r} at row {row} is {ours[row]}, that of {baseline!r} is {theirs[row]}: {remedy}"
        )
