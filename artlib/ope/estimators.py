"""The estimators: each turns a Feedback into per-row terms whose sums give the value.

Symbols: r_i reward, a_i shown candidate, w_i = pi_e(a_i | x_i) / pi_b(a_i | x_i) importance weight,
q(x, a) reward model, q_i(pi_e) = sum_a pi_e(a | x_i) q(x_i, a); all means are over the n impressions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from artlib.ope.feedback import Feedback

# Defaults of the hyper-parameters. None suits every log: choose with parameter="slope".
CLIP = 10.0
THRESHOLD = 10.0
SHRINKAGE = 100.0


@dataclass(frozen=True, eq=False)
class Terms:
    """Per-row terms of an estimator: V = mean(mean) + sum(numerator) / sum(denominator).

    An absent part is None and contributes nothing. No term depends on other rows, so an estimator is a
    smooth function of at most three sums; intervals resample the sums of whole clusters, numerator and
    denominator together.

    Args:
        mean: (n,) terms that are averaged.
        numerator, denominator: (n,) terms of the ratio; both or neither.
        defined: False when nothing that was logged is ever shown by the target policy.
    """

    mean: np.ndarray | None = None
    numerator: np.ndarray | None = None
    denominator: np.ndarray | None = None
    defined: bool = True

    @property
    def columns(self) -> list[np.ndarray]:
        return [column for column in (self.mean, self.numerator, self.denominator) if column is not None]

    @property
    def value(self) -> float:
        """The estimate; NaN when it is undefined."""
        if not self.defined:
            return float("nan")
        columns = self.columns
        return float(value_of_sums(np.array([c.sum() for c in columns]), len(columns[0])))

    def __float__(self) -> float:
        return self.value


def value_of_sums(sums: np.ndarray, size) -> np.ndarray:
    """Value from the sums of the terms: 1 column is a mean, 2 a ratio, 3 a mean plus a ratio.

    Args:
        sums: (..., m) sums over rows of `Terms.columns`.
        size: (...) number of rows in each sum.

    Returns:
        (...) values; NaN where a denominator is not positive.
    """
    parts = sums.shape[-1]
    mean = sums[..., 0] / size if parts != 2 else np.zeros(())
    if parts == 1:
        return mean
    denominator = sums[..., -1]
    safe = np.where(denominator > 0, denominator, np.nan)
    return mean + sums[..., -2] / safe


def on_policy(feedback: Feedback) -> Terms:
    """On-policy mean, V = mean(r_i): the value of the logging policy, whatever the target."""
    return Terms(mean=feedback.reward)


def ips(feedback: Feedback) -> Terms:
    """Inverse propensity score, V = mean(w_i r_i). Unbiased when pi_b > 0 wherever pi_e > 0.

    Horvitz and Thompson 1952; Strehl et al. 2010, "Learning from logged implicit exploration data".
    """
    return Terms(mean=feedback.weighted_reward, defined=_overlaps(feedback))


def clipped_ips(feedback: Feedback, clip: float = CLIP) -> Terms:
    """Clipped IPS, V = mean(min(w_i, clip) r_i): less variance, biased towards 0.

    Ionides 2008, "Truncated importance sampling"; Bottou et al. 2013.
    """
    return Terms(
        mean=np.minimum(feedback.weight, _not_negative("clip", clip)) * feedback.reward,
        defined=_overlaps(feedback),
    )


def snips(feedback: Feedback) -> Terms:
    """Self-normalised IPS, V = sum(w_i r_i) / sum(w_i): equivariant to shifts of the reward, bounded by it.

    Swaminathan and Joachims 2015, "The self-normalized estimator for counterfactual learning".
    """
    return Terms(numerator=feedback.weighted_reward, denominator=feedback.weight, defined=_overlaps(feedback))


def dm(feedback: Feedback) -> Terms:
    """Direct method, V = mean(q_i(pi_e)): only as good as the reward model. Beygelzimer and Langford 2009."""
    return Terms(mean=feedback.q_target)


def dr(feedback: Feedback) -> Terms:
    """Doubly robust, V = mean(q_i(pi_e) + w_i (r_i - q(x_i, a_i))).

    Dudik, Erhan, Langford and Li 2014, "Doubly robust policy evaluation and optimization".
    """
    return _reweighted_dr(feedback, feedback.weight)


def sndr(feedback: Feedback) -> Terms:
    """Self-normalised DR, V = mean(q_i(pi_e)) + sum(w_i (r_i - q(x_i, a_i))) / sum(w_i).

    Thomas and Brunskill 2016 (weighted doubly robust); Kallus and Uehara 2019.
    """
    return Terms(
        feedback.q_target,
        feedback.weight * (feedback.reward - feedback.q_shown),
        feedback.weight,
        _overlaps(feedback),
    )


def switch_dr(feedback: Feedback, threshold: float = THRESHOLD) -> Terms:
    """Switch-DR: DR with the weights above the threshold set to 0, where it falls back to the model.

    V = mean(q_i(pi_e) + w_i 1[w_i <= threshold] (r_i - q(x_i, a_i))).
    Wang, Agarwal and Dudik 2017, "Optimal and adaptive off-policy evaluation in contextual bandits".
    """
    return _reweighted_dr(
        feedback, np.where(feedback.weight <= _not_negative("threshold", threshold), feedback.weight, 0.0)
    )


def dros(feedback: Feedback, shrinkage: float = SHRINKAGE) -> Terms:
    """DR with optimistic shrinkage: weight s w / (w^2 + s), from DM (s = 0) to DR (s -> infinity).

    A weight of sqrt(s) is halved, so the default halves a weight of 10.
    Su, Dimakopoulou, Krishnamurthy and Dudik 2020, "Doubly robust off-policy evaluation with shrinkage".
    """
    shrinkage = _not_negative("shrinkage", shrinkage)
    if np.isinf(shrinkage):
        return dr(feedback)
    return _reweighted_dr(feedback, shrinkage * feedback.weight / (feedback.weight**2 + shrinkage))


def sgips(feedback: Feedback, lam: float | None = None) -> Terms:
    """Sub-Gaussian IPS, V = mean(u_i r_i) with u = w / (1 - lam + lam w), at most 1 / lam.

    lam = 0 is IPS. Default: the minimiser of the error bound, see `subgaussian_lam`.
    Metelli, Russo and Restelli 2021, "Subgaussian and differentiable importance sampling".
    """
    return Terms(mean=_subgaussian_weight(feedback, lam) * feedback.reward, defined=_overlaps(feedback))


def sgdr(feedback: Feedback, lam: float | None = None) -> Terms:
    """Sub-Gaussian DR: DR with the weights of `sgips`. Metelli, Russo and Restelli 2021."""
    return _reweighted_dr(feedback, _subgaussian_weight(feedback, lam))


def replay(feedback: Feedback) -> Terms:
    """Replay, or take fraction: the mean reward of the impressions where the target shows the same.

    V = sum(pi_e(a_i | x_i) r_i) / sum(pi_e(a_i | x_i)): with a deterministic target the matched rows
    count 1 and the others 0; with a stochastic one this is the expectation over drawing its choice.
    Consistent only when the logging policy is uniform over equally many candidates.
    Li, Chu, Langford and Wang 2011, "Unbiased offline evaluation of contextual-bandit-based news article
    recommendation algorithms".
    """
    match = feedback.target_propensity
    return Terms(numerator=match * feedback.reward, denominator=match, defined=_overlaps(feedback))


def subgaussian_lam(feedback: Feedback, delta: float = 0.05) -> float:
    """lam = sqrt(2 log(1/delta) / (3 mean(w^2) n)), at most 1; Metelli, Russo and Restelli 2021."""
    second_moment = float(np.mean(feedback.weight**2))
    if second_moment == 0:
        return 0.0
    return float(min(1.0, np.sqrt(2 * np.log(1 / delta) / (3 * second_moment * feedback.n))))


def _subgaussian_weight(feedback: Feedback, lam: float | None) -> np.ndarray:
    lam = subgaussian_lam(feedback) if lam is None else lam
    if not 0 <= lam <= 1:
        raise ValueError(f"lam is {lam}: it must be in [0, 1], 0 for plain importance weights")
    w = feedback.weight
    # At lam = 1 a weight of 0 would be 0 / 0.
    return np.divide(w, 1 - lam + lam * w, out=np.zeros_like(w), where=w > 0)


def _reweighted_dr(feedback: Feedback, weight: np.ndarray) -> Terms:
    return Terms(mean=feedback.q_target + weight * (feedback.reward - feedback.q_shown), defined=_overlaps(feedback))


def _overlaps(feedback: Feedback) -> bool:
    return bool(feedback.weight.any())


def _not_negative(name: str, value: float) -> float:
    if not value >= 0:
        raise ValueError(f"{name} is {value}: it must be >= 0 (infinity switches it off)")
    return value


ESTIMATORS: dict[str, Callable[..., Terms]] = {
    "on-policy": on_policy,
    "ips": ips,
    "clipped-ips": clipped_ips,
    "snips": snips,
    "dm": dm,
    "dr": dr,
    "sndr": sndr,
    "switch-dr": switch_dr,
    "dros": dros,
    "sgips": sgips,
    "sgdr": sgdr,
    "replay": replay,
}

# The one hyper-parameter of each estimator that has one.
PARAMETER = {
    "clipped-ips": "clip",
    "switch-dr": "threshold",
    "dros": "shrinkage",
    "sgips": "lam",
    "sgdr": "lam",
}

# What an estimator is without its regularisation.
UNREGULARISED = {"clipped-ips": "ips", "sgips": "ips", "switch-dr": "dr", "dros": "dr", "sgdr": "dr"}


def terms(feedback: Feedback, estimator: str, parameter: float | None = None) -> Terms:
    """Terms of a named estimator, with its hyper-parameter when one is given.

    Raises:
        ValueError: for an unknown estimator, or a parameter for an estimator that has none.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator is {estimator!r}: it must be one of {', '.join(ESTIMATORS)}")
    if parameter is None:
        return ESTIMATORS[estimator](feedback)
    if estimator not in PARAMETER:
        raise ValueError(
            f"parameter is {parameter!r} but {estimator} has none: leave it out, or choose one of "
            f"{', '.join(PARAMETER)}"
        )
    return ESTIMATORS[estimator](feedback, **{PARAMETER[estimator]: parameter})


def default_parameter(feedback: Feedback, estimator: str) -> float:
    """The hyper-parameter that an estimator uses when none is given."""
    fixed = {"clip": CLIP, "threshold": THRESHOLD, "shrinkage": SHRINKAGE}
    name = PARAMETER[estimator]
    return fixed[name] if name in fixed else subgaussian_lam(feedback)
