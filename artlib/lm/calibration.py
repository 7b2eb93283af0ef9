"""From scores of candidates to probabilities."""

import warnings
from collections.abc import Sequence

import numpy as np
import scipy.optimize

BOUNDS = (-3, 6)  # of the logarithm of a temperature
TINY = np.finfo(float).tiny


def probabilities(scores: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """softmax(scores / temperature) over each impression's candidates.

    Args:
        scores: (n, K), -inf where padded.

    Returns:
        (n, K) probabilities, 0 where padded.
    """
    z = scores / temperature
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def pooled(choices: Sequence[np.ndarray]) -> np.ndarray:
    """What several readers expect together, each counting the same: the logarithmic opinion pool, p proportional to
    prod_j p_j^(1/J) (Genest and Zidek 1986).

    Args:
        choices: J times (n, K) probabilities, 0 where padded.

    Returns:
        (n, K) probabilities, 0 where padded.
    """
    given = np.maximum(choices, TINY)  # readers may each be sure of another candidate
    there = np.any(np.asarray(choices) > 0, axis=0)
    return probabilities(np.where(there, np.log(given).mean(axis=0), -np.inf))


def fit_temperature(scores: np.ndarray, chosen: np.ndarray, weight: np.ndarray | None = None) -> float:
    """The temperature under which softmax(scores / t) makes the chosen candidates most likely.

    Args:
        scores: (n, K), -inf where padded.
        chosen: (n,) columns.
        weight: (n,) of each choice; None for the same.
    """
    if scores.shape[1] < 2:
        return 1.0

    def loss(log_t: float) -> float:
        z = scores / np.exp(log_t)
        top = z.max(axis=1)
        losses = top + np.log(np.exp(z - top[:, None]).sum(axis=1)) - z[np.arange(len(z)), chosen]
        return float(np.average(losses, weights=weight))

    found = scipy.optimize.minimize_scalar(loss, bounds=BOUNDS, method="bounded").x
    if found > BOUNDS[1] - 0.01:
        warnings.warn("the scores say nothing of what was chosen, or the opposite: no temperature suits", stacklevel=2)
    return float(np.exp(found))
