"""When not to believe an off-policy estimate: overlap, weights, propensities, and a verdict in words."""

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from artlib.ope.estimators import UNREGULARISED
from artlib.ope.feedback import Feedback
from artlib.ope.intervals import cluster_sizes, influence, normal_p_value, standard_error
from artlib.ope.sums import MODEL_ERROR, WEIGHT, Sums

# Alarms. Judgement, not theory: benchmarks/ope.py shows the coverage of intervals on either side of them.
MIN_ESS = 100.0
MAX_LEVERAGE = 0.2
MIN_REWARD_ESS = 10.0
MIN_CLUSTERS = 30
MAX_UNSUPPORTED = 0.01
MEAN_WEIGHT_P = 0.001
UNIFORM_TOLERANCE = 0.01


@dataclass(frozen=True)
class Diagnostics:
    """What the trust in an estimate rests on. Weights are those of plain importance sampling.

    Attributes:
        n: impressions.
        n_clusters: independent units G.
        ess: effective sample size (sum w)^2 / sum w^2; Kish 1965.
        match_rate: mean of pi_e(a_i | x_i), the share of impressions that replay would keep; for a
            deterministic target the share in which it chooses what was shown.
        max_weight: largest weight.
        max_weight_share: its share of the sum of weights.
        max_leverage: its square's share of the sum of squares. Intervals lean on this being near 0
            (Lindeberg's condition); near 1, one impression decides.
        reward_ess: (sum w |r|)^2 / sum (w r)^2, the effective number of rewarded impressions.
        unsupported_mass: mean mass of the target on candidates that the log could not show. Exact when
            Feedback.logging is given, otherwise estimated by the shortfall max(0, 1 - mean w).
        support_known: whether it is exact.
        mean_weight: mean of w, whose expectation is 1 when propensities are right and support is full.
        mean_weight_p: p-value of the cluster-robust t test of mean w = 1; small when propensities are wrong.
        model_bias: mean of w (r - q), the correction of the reward model that DR makes; NaN without q_hat.
        model_bias_error: its cluster-robust standard error.
        uniform_logging: whether propensities are 1 / candidates with as many candidates everywhere, on
            which replay relies.
        propensities: "logged", "estimated" or "none". Without any, all that rests on weights is NaN.
    """

    n: int
    n_clusters: int
    ess: float
    match_rate: float
    max_weight: float
    max_weight_share: float
    max_leverage: float
    reward_ess: float
    unsupported_mass: float
    support_known: bool
    mean_weight: float
    mean_weight_p: float
    model_bias: float
    model_bias_error: float
    uniform_logging: bool
    propensities: str = "logged"


def diagnose(feedback: Feedback | Sums) -> Diagnostics:
    """Diagnostics of a target policy on a log; they do not depend on the estimator."""
    if isinstance(feedback, Feedback):
        codes = None if feedback.cluster is None else feedback.cluster_codes
        feedback = Sums.of(feedback, {}, codes, cluster_sizes(feedback))
    if feedback.propensities == "none":
        return _without_propensities(feedback)
    rows, weight = feedback.rows, feedback.rows.weight
    mean_weight, weight_error = _mean_and_error(feedback.block(WEIGHT), feedback.sizes)
    model_bias, model_bias_error = float("nan"), float("nan")
    if MODEL_ERROR in feedback.at:
        model_bias, model_bias_error = _mean_and_error(feedback.block(MODEL_ERROR), feedback.sizes)
    positive = weight.largest > 0
    return Diagnostics(
        n=feedback.n,
        n_clusters=feedback.n_clusters,
        ess=weight.effective_size,
        match_rate=rows.match / rows.n,
        max_weight=weight.largest,
        max_weight_share=1 / weight.total if positive else float("nan"),
        max_leverage=1 / weight.squares if positive else float("nan"),
        reward_ess=rows.rewarded.effective_size,
        unsupported_mass=rows.unsupported / rows.n if feedback.support_known else max(0.0, 1.0 - mean_weight),
        support_known=feedback.support_known,
        mean_weight=mean_weight,
        mean_weight_p=_p_value(mean_weight - 1, weight_error, feedback.n_clusters),
        model_bias=model_bias,
        model_bias_error=model_bias_error,
        uniform_logging=rows.fewest == rows.most and rows.uneven < UNIFORM_TOLERANCE,
        propensities=feedback.propensities,
    )


def _without_propensities(sums: Sums) -> Diagnostics:
    unknown = {field.name: float("nan") for field in fields(Diagnostics)}
    known: dict[str, Any] = {
        "n": sums.n,
        "n_clusters": sums.n_clusters,
        "match_rate": sums.rows.match / sums.n,
        "support_known": False,
        "uniform_logging": False,
        "propensities": "none",
    }
    return Diagnostics(**(unknown | known))


class Shift(NamedTuple):
    """How far regularising the weights moved a value from that of IPS or DR, and its standard error.

    The value is an estimate of the bias that was taken on; the error says how well it is known.
    """

    value: float = 0.0
    error: float = 0.0


NO_SHIFT = Shift()


def regularisation_shift(sums: Sums, estimator: str) -> Shift:
    """Shift of clipped-ips, sgips, switch-dr, dros and sgdr; 0 for the others.

    Args:
        sums: of a log, for this estimator.
        estimator: name in ESTIMATORS.
    """
    if estimator not in UNREGULARISED:
        return NO_SHIFT
    return Shift(*_mean_and_error(sums.block(estimator) - sums.block(UNREGULARISED[estimator]), sums.sizes))


def verdict(d: Diagnostics, estimator: str, shift: Shift = NO_SHIFT, std_error: float = float("nan")) -> str:
    """Say "ok", or the reasons in words for which this estimator's number should not be trusted.

    Args:
        d: diagnostics of the target policy.
        estimator: name in ESTIMATORS.
        shift: see `regularisation_shift`.
        std_error: of the value.

    Of estimated propensities it says so first: "estimated propensities: ok" is not "ok".
    """
    concerns = [(d.n_clusters < MIN_CLUSTERS, f"only {d.n_clusters} independent clusters")]
    if estimator == "dm":
        concerns.append((True, _model_concern(d)))
    elif estimator != "on-policy":
        concerns += _overlap_concerns(d)
        concerns += [
            (
                # The interval is too narrow for a bias that may be as large as its standard error.
                abs(shift.value) + shift.error > std_error,
                f"regularising the weights moves the value by {shift.value:+.2g} +- {2 * shift.error:.2g}, "
                f"which its standard error of {std_error:.2g} does not cover",
            ),
            (
                estimator == "replay" and not d.uniform_logging,
                "replay needs a uniform logging policy over equally many candidates, and this one is not",
            ),
        ]
    reasons = [text for applies, text in concerns if applies]
    said = "ok" if not reasons else "do not trust: " + "; ".join(reasons)
    return f"estimated propensities: {said}" if d.propensities == "estimated" else said


def _model_concern(d: Diagnostics) -> str:
    if d.propensities == "none":
        return "the interval leaves out the reward model's error, which a log without propensities cannot tell"
    return (
        "the interval leaves out the reward model's error, which the log puts at "
        f"{d.model_bias:+.2g} +- {2 * d.model_bias_error:.2g}"
    )


def _overlap_concerns(d: Diagnostics) -> list[tuple[bool, str]]:
    matches = d.ess > 0
    return [
        (not matches, "the target never chooses what was shown"),
        (
            matches and d.ess < MIN_ESS,
            f"effective sample size {d.ess:.0f} of {d.n} ({d.ess / d.n:.1%})",
        ),
        (
            matches and d.max_leverage > MAX_LEVERAGE,
            f"one impression, weight {_short(d.max_weight, 0)}, makes up {d.max_leverage:.0%} of squared weights",
        ),
        (
            matches and d.reward_ess < MIN_REWARD_ESS,
            f"the value rests on about {d.reward_ess:.1f} rewarded impressions",
        ),
        (
            d.support_known and d.unsupported_mass > MAX_UNSUPPORTED,
            f"{d.unsupported_mass:.1%} of the target lies on candidates that the log could never show",
        ),
        (
            d.mean_weight_p < MEAN_WEIGHT_P,
            f"mean weight {_short(d.mean_weight, 3)} instead of 1 (p = {d.mean_weight_p:.1g}): wrong propensities "
            "or missing support",
        ),
    ]


def _short(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}" if value < 1e6 else f"{value:.2g}"


def _mean_and_error(sums: np.ndarray, sizes: np.ndarray) -> tuple[float, float]:
    """Mean over rows of what has these (G, 1) sums, and its cluster-robust standard error."""
    return float(sums.sum() / sizes.sum()), standard_error(influence(sums, sizes))


def _p_value(difference: float, error: float, g: int) -> float:
    # Weights that are all 1 (target = logging policy) differ from 1 by rounding only.
    if error < 1e-12:
        return 1.0 if abs(difference) < 1e-9 else 0.0
    return normal_p_value(difference, error, g)
