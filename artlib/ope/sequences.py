"""Guarantees at finite n: an empirical Bernstein lower bound, and confidence sequences for growing logs.

They need rewards >= 0. Rewards that can be negative are taken above `reward_min`, and the bounds moved back: as
weights average to 1, E[w (r - reward_min)] = V - reward_min. A smallest reward that is seen and not known beforehand
would void the guarantee.
"""

from dataclasses import replace

import numpy as np
import pandas as pd

from artlib.ope.estimators import terms
from artlib.ope.feedback import Feedback
from artlib.ope.intervals import cluster_sizes, cluster_sums
from artlib.ope.validation import require

# These are means of terms that are never negative when rewards are not, which the Bernstein bound needs.
NON_NEGATIVE = ("on-policy", "ips", "clipped-ips", "sgips")
# Pseudo-observations with which a sequence's variance starts; it only affects how tight the bounds are.
PRIOR_COUNT = 100
# Clusters after which the asymptotic sequence is narrowest.
TIGHTEST_AT = 1000


def bernstein_lower_bound(
    feedback: Feedback,
    estimator: str = "ips",
    alpha: float = 0.05,
    seed: int = 0,
    parameter: float | None = None,
    reward_min: float = 0.0,
) -> float:
    """Lower bound on the value, true with probability 1 - alpha at any n and however large the weights.

    Cutting non-negative terms at a level c can only lower their mean, so the empirical Bernstein bound of
    the cut terms is a bound for the uncut ones. c is chosen on a random twentieth of the clusters, the bound
    is computed on the others. Clusters are the independent units; their sizes are taken as given.

    Args:
        feedback: n impressions in G clusters.
        estimator: one of NON_NEGATIVE.
        alpha: probability of error, one-sided.
        seed: of the split.
        parameter: the estimator's hyper-parameter, fixed without looking at this log.
        reward_min: the smallest possible reward, known in advance.

    Raises:
        ValueError: when a reward is below reward_min, for estimators whose terms can be negative or that are
            ratios, or whose hyper-parameter would be chosen from the log.

    Thomas, Theocharous and Ghavamzadeh 2015, "High confidence off-policy evaluation";
    Maurer and Pontil 2009, "Empirical Bernstein bounds and sample variance penalization".
    """
    if estimator not in NON_NEGATIVE:
        raise ValueError(
            f"method is 'bernstein' but estimator is {estimator!r}: the bound needs a mean of terms "
            f">= 0; use one of {', '.join(NON_NEGATIVE)}, or method 'bca'"
        )
    if isinstance(parameter, str) or (estimator == "sgips" and parameter is None):
        raise ValueError(
            f"parameter is {parameter!r}: the bound of 'bernstein' holds only for a hyper-parameter that was "
            "not chosen from the log; give a number"
        )
    above = _above(feedback, reward_min)
    sums = cluster_sums(terms(above, estimator, parameter), above)[:, 0]
    return _split_bound(sums, cluster_sizes(above), alpha, seed) + reward_min


def _split_bound(sums: np.ndarray, sizes: np.ndarray, alpha: float, seed: int) -> float:
    """Choose the cut on a twentieth of the clusters, bound on the rest."""
    g = len(sums)
    order = np.random.default_rng(seed).permutation(g)
    pilot, rest = order[: max(2, g // 20)], order[max(2, g // 20) :]
    if len(rest) < 2:
        return float("nan")
    scaled = sums[rest] * len(rest) / sizes[rest].sum()
    pilot_scaled = sums[pilot] * len(pilot) / sizes[pilot].sum()
    positive = pilot_scaled[pilot_scaled > 0]
    if not len(positive):
        return 0.0
    cuts = np.unique(np.quantile(positive, np.linspace(0.1, 1, 40)).tolist() + [2 * positive.max()])
    best = max(cuts, key=lambda cut: _bernstein(pilot_scaled, cut, alpha, len(rest)))
    return max(0.0, _bernstein(scaled, best, alpha, len(rest)))


def _bernstein(x: np.ndarray, cut: float, alpha: float, n: int) -> float:
    """Mean of min(x, cut) less the Maurer-Pontil margin that a sample of n such values would have."""
    cut_x, log_term = np.minimum(x, cut), np.log(2 / alpha)
    return float(cut_x.mean() - np.sqrt(2 * cut_x.var(ddof=1) * log_term / n) - 7 * cut * log_term / (3 * (n - 1)))


def confidence_sequence(
    feedback: Feedback,
    alpha: float = 0.05,
    reward_max: float | None = None,
    weight_max: float | None = None,
    reward_min: float = 0.0,
) -> pd.DataFrame:
    """IPS bounds after every impression that hold simultaneously for all of them: look as often as you like.

    Rows must be in the order in which they were logged, each candidate drawn with the logged propensity given
    all that came before. With probability 1 - alpha over the whole sequence the bounds cover the target's
    value when every impression's expected value given the past is the same. When these values drift, or
    users return, they cover a weighted mean of the values of the impressions at hand (early ones count
    more), not the value among new users: for that keep one impression per user, or use the
    "asymptotic-sequence" of `estimate`, which clusters.

    Args:
        feedback: n impressions.
        alpha: probability that any bound ever fails, both sides together.
        reward_max: the largest possible reward. Needed for the upper bound, which is NaN without it.
        weight_max: the largest possible weight, 1 / (smallest possible propensity), known in advance. With
            it (and reward_max) a running control variate narrows the bounds.
        reward_min: the smallest possible reward, known in advance.

    Returns:
        DataFrame of n rows: n (1 .. n), value (running IPS), lower, upper.

    Raises:
        ValueError: when a reward is below the given minimum, or a reward or weight exceeds the given maximum.

    Waudby-Smith, Wu, Ramdas, Karampatziakis and Mineiro 2024, "Anytime-valid off-policy inference for
    contextual bandits" (predictable plug-in empirical Bernstein).
    """
    _check_maximum("reward", feedback.reward, reward_max)
    _check_maximum("weight", feedback.weight, weight_max)
    w, n = feedback.weight, np.arange(1, feedback.n + 1)
    value = np.cumsum(w * feedback.reward) / n
    r = _above(feedback, reward_min).reward
    if reward_max is not None:
        reward_max -= reward_min
    if reward_max is None:
        lower, upper = lower_sequence(w * r, np.zeros(feedback.n), alpha), np.full(feedback.n, np.nan)
    elif weight_max is None:
        lower = lower_sequence(w * r, np.zeros(feedback.n), alpha / 2, reward_max / 2)
        upper = reward_max - lower_sequence(w * (reward_max - r), np.zeros(feedback.n), alpha / 2, reward_max / 2)
    else:
        baseline = np.minimum(_before(np.cumsum(w * r), n, reward_max / 2), reward_max)
        x = w * (r - baseline) + baseline
        top = np.maximum(baseline, weight_max * (reward_max - baseline) + baseline)
        lower = lower_sequence(x, np.minimum(baseline, baseline * (1 - weight_max)), alpha / 2, reward_max / 2)
        upper = -lower_sequence(-x, -top, alpha / 2, -reward_max / 2)
    return pd.DataFrame(
        {
            "n": n,
            "value": value,
            "lower": np.maximum(lower, 0.0) + reward_min,
            "upper": (upper if reward_max is None else np.minimum(upper, reward_max)) + reward_min,
        }
    )


def lower_sequence(x: np.ndarray, floor: np.ndarray, alpha: float, guess: float = 1.0) -> np.ndarray:
    """Time-uniform lower bounds on the mean of a process bounded below.

    With centre m_i, scale s_i = m_i - floor_i and bet g_i in [0, 1 / (2 s_i)] fixed before x_i is seen,
    prod exp(g_i (x_i - mu_i) - psi(g_i s_i) ((x_i - m_i) / s_i)^2), psi(u) = -log(1 - u) - u, is a
    supermartingale (Fan, Grama and Liu 2015, Lemma 4.1); Ville's inequality turns it into a bound on
    sum(g_i mu_i) / sum(g_i), mu_i the mean of x_i given the past.

    Args:
        x: (n,) observations, x_i >= floor_i.
        floor: (n,) lower limits, each known before its observation.
        alpha: probability that any bound fails.
        guess: mean expected before any data; it only affects how tight the first bounds are.

    Returns:
        (n,) lower bounds.
    """
    count = np.arange(1, len(x) + 1)
    centre = np.maximum(_before(np.cumsum(x), count, guess), floor)
    squared = (x - centre) ** 2
    scale = np.maximum(centre - floor, 1e-12)
    # Before the variance is known, one large weight would cost a bold bettor more than he ever regains.
    seen = count + PRIOR_COUNT
    variance = np.maximum((_before(np.cumsum(squared), 1, 4 * PRIOR_COUNT * guess**2)) / seen, 1e-12)
    bet = np.sqrt(2 * np.log(2 / alpha) / (variance * seen * np.log1p(seen)))
    bet = np.minimum(bet, 0.5 / scale)
    relative = bet * scale
    penalty = np.cumsum((-np.log1p(-relative) - relative) * squared / scale**2)
    return (np.cumsum(bet * x) - np.log(1 / alpha) - penalty) / np.cumsum(bet)


def _before(cumulative: np.ndarray, count: np.ndarray | int, guess: float) -> np.ndarray:
    """(n,) running mean before each observation, with the guess counted as one observation."""
    return (guess + np.concatenate([[0.0], cumulative[:-1]])) / count


def _above(feedback: Feedback, reward_min: float) -> Feedback:
    """The log with rewards counted from reward_min."""
    if not np.isfinite(reward_min):
        raise ValueError(f"reward_min is {reward_min}: it must be a finite number, the smallest possible reward")
    require(
        feedback.reward >= reward_min,
        "reward",
        feedback.reward,
        f"is below reward_min, {reward_min:g}; methods 'bernstein' and 'sequence' need rewards that are never below "
        "it: give the smallest that is possible, not the smallest seen, or use another method, e.g. 'bca'",
    )
    return feedback if reward_min == 0 else replace(feedback, reward=feedback.reward - reward_min)


def _check_maximum(name: str, values: np.ndarray, maximum: float | None) -> None:
    # Weights are quotients: a true maximum may be passed by rounding.
    if maximum is not None and values.max() > maximum + 1e-9 * abs(maximum):
        row = int(np.argmax(values))
        raise ValueError(
            f"{name}_max is {maximum} but the {name} at row {row} is {values[row]}: give the largest "
            f"{name} that is possible, not a typical one"
        )


def asymptotic_sequence_margin(std_error: float, g: int, alpha: float, tightest_at: int = TIGHTEST_AT) -> float:
    """Half-width, after g clusters, of an asymptotic confidence sequence for any estimator here.

    sigma sqrt(2 (g rho^2 + 1) / (g^2 rho^2) log(sqrt(g rho^2 + 1) / alpha)), sigma = se sqrt(g), rho such
    that the 95 % sequence is narrowest after `tightest_at` clusters. Keep it the same at every look.

    Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2024, "Time-uniform central limit theory and asymptotic
    confidence sequences", Theorem 2.2 and Appendix B.2.
    """
    t = g * _rho2(tightest_at)
    return float(std_error * np.sqrt(2 * (t + 1) / t * np.log(np.sqrt(t + 1) / alpha)))


def asymptotic_sequence_p_value(value: float, std_error: float, g: int) -> float:
    """Anytime-valid p-value of value = 0: the smallest alpha whose asymptotic sequence excludes 0."""
    if value == 0:
        return 1.0
    if not std_error > 0:
        return float("nan")
    t = g * _rho2()
    return float(min(1.0, np.sqrt(t + 1) * np.exp(-((value / std_error) ** 2) * t / (2 * (t + 1)))))


def _rho2(tightest_at: int = TIGHTEST_AT) -> float:
    # The same for every alpha, so that the sequences are nested and p-values agree with them.
    evidence = -2 * np.log(0.05)
    return (evidence + np.log(evidence + 1)) / tightest_at
