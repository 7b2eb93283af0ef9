"""Intervals for any estimator that is a smooth function of cluster sums: bootstrap, BCa, normal.

Every estimator is V = f(sums of its terms), so all that an interval needs is the (G, m) sums per cluster.
Resampling clusters then is a product of a (replicates, G) matrix of counts with these sums: numerator,
denominator and number of rows are always resampled together.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy import stats
from threadpoolctl import threadpool_limits  # comes with scikit-learn

from artlib.ope.estimators import Terms, value_of_sums
from artlib.ope.feedback import Feedback

# Clusters and replicates counted at once: small enough for the processor's cache.
BLOCK = 2**14
CHUNK = 64


def cluster_sums(terms: Terms, feedback: Feedback) -> np.ndarray:
    """(G, m) sums of an estimator's terms over each cluster."""
    if feedback.cluster is None:
        return sums_by(terms.columns, None, feedback.n)
    return sums_by(terms.columns, feedback.cluster_codes, feedback.n_clusters)


def sums_by(columns: list[np.ndarray], codes: np.ndarray | None, g: int) -> np.ndarray:
    """(G, m) sums of (n,) columns over the rows of each code, 0 .. G - 1; without codes every row is its own."""
    return np.column_stack(columns if codes is None else [np.bincount(codes, column, g) for column in columns])


def cluster_sizes(feedback: Feedback) -> np.ndarray:
    """(G,) number of rows of each cluster."""
    return np.bincount(feedback.cluster_codes, minlength=feedback.n_clusters).astype(float)


def influence(sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(G,) first-order contribution of each cluster to the error of the estimate; they sum to 0.

    For a mean V = S / n it is (S_g - V n_g) / n, for a ratio V = A / B it is (A_g - V B_g) / B, and for a
    mean plus a ratio their sum.
    """
    total, n = sums.sum(axis=0), sizes.sum()
    result = np.zeros(len(sums))
    if sums.shape[1] != 2:
        result += (sums[:, 0] - total[0] / n * sizes) / n
    if sums.shape[1] >= 2:
        result += (sums[:, -2] - total[-2] / total[-1] * sums[:, -1]) / total[-1]
    return result


def standard_error(contributions: np.ndarray) -> float:
    """Cluster-robust standard error from (G,) influence contributions; NaN for a single cluster."""
    g = len(contributions)
    if g < 2:
        return float("nan")
    return float(np.sqrt(g / (g - 1) * np.sum(contributions**2)))


def replicate_sums(columns: np.ndarray | list[np.ndarray], n_bootstrap: int, seed: int) -> np.ndarray:
    """Sums of the columns over clusters drawn with replacement.

    The G draws of a replicate are first shared out between blocks of clusters (a multinomial), then made
    within each block: the same distribution as G draws at once, but counting and multiplying stay in cache.

    Args:
        columns: (G, m) a row of sums per cluster; or several such arrays, which are put side by side block by block.
        n_bootstrap: number of replicates B.
        seed: of the draws; the same seed gives the same draws for every estimator and policy.

    Returns:
        (B, m) sums. The memory needed beyond them is BLOCK * CHUNK float64, 8 MiB, for each of the processor's
        cores, whatever G and B. Every block has its own random stream, so that cores change nothing.
    """
    columns = columns if isinstance(columns, list) else [columns]
    g = len(columns[0])
    blocks = [[each[start : start + BLOCK] for each in columns] for start in range(0, g, BLOCK)]
    first, *streams = np.random.SeedSequence(seed).spawn(1 + len(blocks))
    shares = np.array([len(block[0]) for block in blocks]) / g
    draws = np.random.default_rng(first).multinomial(g, shares, size=n_bootstrap).T
    if len(blocks) == 1:
        return _block_sums(blocks[0], draws[0], streams[0])
    # Products of this size gain nothing from BLAS threads, and on a busy machine wait for them.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        return sum(pool.map(_block_sums, blocks, draws, streams), np.zeros(()))


def _block_sums(columns: list[np.ndarray], drawn: np.ndarray, stream: np.random.SeedSequence) -> np.ndarray:
    """(B, m) sums over as many draws from the block's (g, m) rows as each of the (B,) replicates makes."""
    block = np.column_stack(columns)
    rng = np.random.Generator(np.random.SFC64(stream))
    result = np.empty((len(drawn), block.shape[1]))
    for start in range(0, len(drawn), CHUNK):
        chunk = slice(start, start + CHUNK)
        result[chunk] = _counts(drawn[chunk], len(block), rng) @ block
    return result


def _counts(drawn: np.ndarray, g: int, rng: np.random.Generator) -> np.ndarray:
    """(replicates, g) how often each of g clusters comes up in the given numbers of draws."""
    counts = np.empty((len(drawn), g))
    ends = np.cumsum(drawn)
    draws = _uniform(ends[-1], g, rng)
    for row, (start, end) in enumerate(zip(ends - drawn, ends, strict=True)):
        counts[row] = np.bincount(draws[start:end], minlength=g)
    return counts


def _uniform(n: int, g: int, rng: np.random.Generator) -> np.ndarray:
    """n uniform draws from 0 .. g-1. For a power of two they are random bits, four draws to a 64-bit word: faster."""
    if g & (g - 1) or g > 2**16:
        return rng.integers(g, size=n)
    words = rng.integers(2**64 - 1, endpoint=True, dtype=np.uint64, size=-(-n // 4))
    return words.view(np.uint16)[:n] & np.uint16(g - 1)


def leave_one_out(sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(G,) value of the estimator without each cluster in turn (the jackknife), in one pass."""
    return value_of_sums(sums.sum(axis=0) - sums, sizes.sum() - sizes)


def percentile_interval(replicates: np.ndarray, alpha: float) -> tuple[float, float]:
    """Percentile bootstrap interval; replicates in which the estimator is undefined (NaN) are left out."""
    if np.isnan(replicates).all():
        return float("nan"), float("nan")
    lower, upper = np.nanquantile(replicates, [alpha / 2, 1 - alpha / 2])
    return float(lower), float(upper)


def bca_interval(replicates: np.ndarray, value: float, jackknife: np.ndarray, alpha: float) -> tuple[float, float]:
    """Bias-corrected and accelerated bootstrap interval. Efron 1987, "Better bootstrap confidence intervals".

    Args:
        replicates: (B,) bootstrap values.
        value: the estimate.
        jackknife: (G,) values without each cluster.
        alpha: one minus the confidence level.
    """
    replicates = replicates[~np.isnan(replicates)]
    if not len(replicates):
        return float("nan"), float("nan")
    bias, acceleration = _bias_z(replicates, value), _acceleration(jackknife)
    shifted = bias + stats.norm.ppf([alpha / 2, 1 - alpha / 2])
    levels = stats.norm.cdf(bias + shifted / (1 - acceleration * shifted))
    lower, upper = np.quantile(replicates, levels)
    return float(lower), float(upper)


def normal_interval(value: float, std_error: float, g: int, alpha: float) -> tuple[float, float]:
    """V +- t se, t the quantile of Student's t on G - 1 degrees of freedom (the normal's when G is large)."""
    if g < 2:
        return float("nan"), float("nan")
    margin = stats.t.ppf(1 - alpha / 2, g - 1) * std_error
    return value - margin, value + margin


def percentile_p_value(replicates: np.ndarray, null: float = 0.0) -> float:
    """Two-sided p-value: the alpha at which the percentile interval just touches `null`, at least 2/(B+1)."""
    replicates = replicates[~np.isnan(replicates)]
    if not len(replicates):
        return float("nan")
    below, above = (replicates <= null).sum(), (replicates >= null).sum()
    return float(min(1.0, 2 * (1 + min(below, above)) / (1 + len(replicates))))


def bca_p_value(replicates: np.ndarray, value: float, jackknife: np.ndarray, null: float = 0.0) -> float:
    """Two-sided p-value: the alpha at which the BCa interval just touches `null`, at least 2/(B+1)."""
    replicates = replicates[~np.isnan(replicates)]
    if not len(replicates):
        return float("nan")
    bias, acceleration = _bias_z(replicates, value), _acceleration(jackknife)
    offset = _share_below_z(replicates, null) - bias
    tail = stats.norm.cdf(offset / (1 + acceleration * offset) - bias)
    return float(min(1.0, max(2 * min(tail, 1 - tail), 2 / (1 + len(replicates)))))


def normal_p_value(value: float, std_error: float, g: int) -> float:
    """Two-sided p-value of the t test of value = 0."""
    if value == 0:
        return 1.0
    if not std_error > 0 or g < 2:
        return float("nan")
    return float(2 * stats.t.sf(abs(value) / std_error, g - 1))


def _bias_z(replicates: np.ndarray, value: float) -> float:
    return _share_below_z(replicates, value)


def _share_below_z(replicates: np.ndarray, value: float) -> float:
    """Normal quantile of the share of replicates below the value, ties counting half, kept off 0 and 1."""
    share = (np.sum(replicates < value) + 0.5 * np.sum(replicates == value)) / len(replicates)
    edge = 0.5 / len(replicates)
    return float(stats.norm.ppf(np.clip(share, edge, 1 - edge)))


def _acceleration(jackknife: np.ndarray) -> float:
    defined = jackknife[~np.isnan(jackknife)]
    deviation = defined.mean() - defined if len(defined) else defined
    scale = np.sum(deviation**2)
    return float(np.sum(deviation**3) / (6 * scale**1.5)) if scale > 0 else 0.0
