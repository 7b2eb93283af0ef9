"""One policy's value: the estimate, its interval, its diagnostics and a verdict."""

import warnings
from dataclasses import asdict, dataclass

import numpy as np

from artlib.ope import intervals, sequences
from artlib.ope.diagnostics import Diagnostics, Shift, diagnose, regularisation_shift, verdict
from artlib.ope.estimators import PARAMETER, value_of_sums
from artlib.ope.feedback import Feedback
from artlib.ope.selection import summed
from artlib.ope.sums import Sums

METHODS = ("percentile", "bca", "normal", "bernstein", "sequence", "asymptotic-sequence")
BOOTSTRAPS = ("percentile", "bca")


class EvaluationWarning(UserWarning):
    """An estimate or its interval is undefined (NaN), and why."""


@dataclass(frozen=True)
class Estimate:
    """The value of a target policy.

    Attributes:
        estimator: its name in ESTIMATORS.
        value: estimated mean reward per impression under the target policy; NaN when undefined.
        lower, upper: interval of the stated method; NaN when undefined, upper = inf when one-sided.
        std_error: cluster-robust asymptotic standard error.
        ess, match_rate: as in `diagnostics`, repeated because they are looked at first.
        method: of the interval.
        alpha: one minus its confidence level.
        parameters: the hyper-parameter used, e.g. {"clip": 10.0}; empty without one.
        rule: how it was chosen: "given", "default", "slope" or "mse"; None without one.
        shift: value and error, how far regularising the weights moved the value from that of IPS or DR.
        reward_shift: added to all rewards before "bernstein" or "sequence" computed the bounds, which need rewards
            >= 0, and taken off the bounds again; 0 for other methods, which take negative rewards as they are.
        diagnostics: see Diagnostics.
        verdict: "ok", or why the number should not be trusted.
    """

    estimator: str
    value: float
    lower: float
    upper: float
    std_error: float
    ess: float
    match_rate: float
    method: str
    alpha: float
    parameters: dict[str, float]
    rule: str | None
    shift: Shift
    reward_shift: float
    diagnostics: Diagnostics
    verdict: str

    @property
    def trusted(self) -> bool:
        return self.verdict == "ok"

    def __str__(self) -> str:
        shifted = f", rewards shifted by {self.reward_shift:+g} and back" if self.reward_shift else ""
        return (
            f"{self.estimator} {self.value:.4g} [{self.lower:.4g}, {self.upper:.4g}] "
            f"({1 - self.alpha:.0%}, {self.method}{shifted}), effective sample size {self.ess:.0f} of "
            f"{self.diagnostics.n}: {self.verdict}"
        )

    def as_dict(self) -> dict:
        """Every field in one flat dictionary, the diagnostics under their own names: a row of a table."""
        fields = asdict(self)
        return {**fields.pop("diagnostics"), **fields}


def estimate(
    feedback: Feedback | Sums,
    estimator: str = "snips",
    *,
    method: str = "percentile",
    n_bootstrap: int = 1000,
    alpha: float = 0.05,
    seed: int = 0,
    parameter: float | str | None = None,
    reward_max: float | None = None,
    weight_max: float | None = None,
    reward_min: float = 0.0,
) -> Estimate:
    """Estimate a target policy's value from a log, with an interval over independent clusters.

    Args:
        feedback: the log and the target policy, or their sums (see `read_sums`), in which the parameter is.
        estimator: a name in ESTIMATORS.
        method: of the interval: "percentile" or "bca" (cluster bootstrap), "normal" (influence function),
            "bernstein" (lower bound for any n, one-sided), "sequence" (anytime-valid IPS bounds for any n,
            the last of `confidence_sequence`), "asymptotic-sequence" (anytime-valid for large n, for every
            estimator).
        n_bootstrap: replicates of the bootstrap.
        alpha: one minus the confidence level.
        seed: of the bootstrap or of the split in "bernstein".
        parameter: the estimator's hyper-parameter: a number, "slope" or "mse" to choose it from the log, None
            for its default. The interval does not account for the choosing.
        reward_max, weight_max: largest possible reward and weight; only "sequence" reads them.
        reward_min: smallest possible reward, to be given when it is negative; only "bernstein" and "sequence" read it.

    Raises:
        ValueError: naming the argument, its value and what would be right.

    Warns:
        EvaluationWarning: when the value or the interval is undefined and hence NaN.
    """
    check_interval_arguments(method, n_bootstrap, alpha)
    sums = summed({"": feedback}, [estimator], parameter)[""]
    diagnostics = diagnose(sums)
    value, defined, block = sums.value(estimator), sums.defined[estimator], sums.block(estimator)
    std_error = intervals.standard_error(intervals.influence(block, sums.sizes)) if defined else float("nan")
    shift = regularisation_shift(sums, estimator)
    bounds, finite_sample = (float("nan"), float("nan")), method in ("bernstein", "sequence")
    if finite_sample and isinstance(feedback, Sums):
        raise ValueError(
            f"method is {method!r}, which needs the rows, and these are their sums: it must be percentile, bca, normal "
            "or asymptotic-sequence"
        )
    if is_estimable(defined, sums.n_clusters, estimator):
        if finite_sample:
            bounds = _finite_sample_bounds(
                feedback,
                estimator,
                method,
                alpha,
                seed,
                parameter,
                reward_max,
                weight_max,
                reward_min,
            )
        else:
            bounds = _large_sample_bounds(value, block, sums.sizes, std_error, method, n_bootstrap, alpha, seed)
    used = sums.parameters[estimator]
    return Estimate(
        estimator=estimator,
        value=value,
        lower=bounds[0],
        upper=bounds[1],
        std_error=std_error,
        ess=diagnostics.ess,
        match_rate=diagnostics.match_rate,
        method=method,
        alpha=alpha,
        parameters={} if used.value is None else {PARAMETER[estimator]: float(used.value)},
        rule=used.rule,
        shift=shift,
        reward_shift=-float(reward_min) if finite_sample and reward_min else 0.0,
        diagnostics=diagnostics,
        verdict=verdict(diagnostics, estimator, shift, std_error),
    )


def check_interval_arguments(method: str, n_bootstrap: int, alpha: float, methods: tuple[str, ...] = METHODS) -> None:
    """Raise a ValueError for an unknown method, a level outside (0, 1), or too few replicates."""
    if method not in methods:
        raise ValueError(f"method is {method!r}: it must be one of {', '.join(methods)}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}: it must be between 0 and 1, e.g. 0.05 for 95 % intervals")
    if method in BOOTSTRAPS and not n_bootstrap >= 2 / alpha:
        raise ValueError(
            f"n_bootstrap is {n_bootstrap}: the tails of a {1 - alpha:.0%} interval need at least "
            f"{int(np.ceil(2 / alpha))} replicates, better 1000"
        )


def is_estimable(defined: bool, n_clusters: int, name: str) -> bool:
    """Whether there is a value and an interval; warns when there is not."""
    if not defined:
        reason = (
            "the target never chooses what was shown, so the log says nothing about it and the value is NaN; "
            "evaluate a policy that overlaps with the log"
        )
    elif n_clusters < 2:
        reason = (
            "all impressions belong to one cluster, so the interval is NaN; an interval needs several independent users"
        )
    else:
        return True
    warnings.warn(f"{name}: {reason}", EvaluationWarning, stacklevel=3)
    return False


def _large_sample_bounds(value, sums, sizes, std_error, method, n_bootstrap, alpha, seed) -> tuple[float, float]:
    if method == "normal":
        return intervals.normal_interval(value, std_error, len(sums), alpha)
    if method == "asymptotic-sequence":
        margin = sequences.asymptotic_sequence_margin(std_error, len(sums), alpha)
        return value - margin, value + margin
    drawn = intervals.replicate_sums([sums, sizes], n_bootstrap, seed)
    replicates = value_of_sums(drawn[:, :-1], drawn[:, -1])
    if method == "bca":
        return intervals.bca_interval(replicates, value, intervals.leave_one_out(sums, sizes), alpha)
    return intervals.percentile_interval(replicates, alpha)


def _finite_sample_bounds(
    feedback, estimator, method, alpha, seed, parameter, reward_max, weight_max, reward_min
) -> tuple[float, float]:
    if method == "bernstein":
        lower = sequences.bernstein_lower_bound(feedback, estimator, alpha, seed, parameter, reward_min)
        return lower, float("inf")
    if estimator != "ips":
        raise ValueError(
            f"method is 'sequence' but estimator is {estimator!r}: its bounds are for 'ips'; for other "
            "estimators use 'asymptotic-sequence'"
        )
    last = sequences.confidence_sequence(feedback, alpha, reward_max, weight_max, reward_min).iloc[-1]
    return float(last["lower"]), float(last["upper"]) if reward_max is not None else float("inf")
