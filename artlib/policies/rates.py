"""Play rates by embeddings of captions: ridge regression within titles, the plainest reader that learns from all plays.

A artworks of T titles, d the embeddings' width. Titles differ in their rates for reasons that no choice can change, so
that everything is measured from the title's own mean.
"""

import numpy as np

PENALTIES = tuple(np.geomspace(1e-4, 1e2, 25))  # times the total weight
PARTS = 5  # of the titles, by which a penalty is chosen


def log_rates(played: np.ndarray, shown: np.ndarray, title: np.ndarray, prior: float) -> np.ndarray:
    """log((played + prior m) / (shown + prior)), m the title's own rate: without plays, the artwork has that.

    The posterior mean of a Poisson rate with a Gamma prior of mean m that is worth `prior` showings.

    Args:
        played, shown: (A,) plays, of how many showings.
        title: (A,) code of each artwork's title.

    Returns:
        (A,); of a title that was never played, the same for all.
    """
    of_title = [np.bincount(title, values) for values in (played, shown)]
    mean = (of_title[0] / np.maximum(of_title[1], 1e-9))[title]
    mean = np.where(mean > 0, mean, 1.0)
    return np.log((played + prior * mean) / (shown + prior))


def centred(values: np.ndarray, title: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(A,) or (A, d) values, less their weighted mean over the title's artworks."""
    columns = values.reshape(len(values), -1)
    order = np.argsort(title, kind="stable")
    first = np.flatnonzero(np.r_[True, np.diff(title[order]) != 0])
    total = np.add.reduceat((columns * weight[:, None])[order], first)
    mean = total / np.maximum(np.bincount(title, weight)[title[order][first]], 1e-9)[:, None]
    code = np.searchsorted(title[order][first], title)
    return values - mean[code].reshape(values.shape)


def ridge(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(P, d) the minimisers of sum_a w_a (y_a - x_a v)^2 + penalty sum_a w_a |v|^2, one a penalty of `PENALTIES`.

    Args:
        x, y: (A, d) and (A,) centred within titles. weight: (A,).
    """
    scaled = weight / weight.sum()
    values, vectors = np.linalg.eigh((x * scaled[:, None]).T @ x)
    projected = vectors.T @ (x.T @ (scaled * y))
    return np.array([vectors @ (projected / (np.maximum(values, 0) + penalty)) for penalty in PENALTIES])


def fit(
    embeddings: np.ndarray, played: np.ndarray, shown: np.ndarray, title: np.ndarray, prior: float, seed: int = 0
) -> np.ndarray:
    """The ridge regression of log play rates on embeddings, within titles, each artwork weighing what it was shown.

    The penalty is the one with the least squared error on titles that were left out, a fifth at a time; the largest
    where there are none to leave out. The weights are then of all titles.

    Args:
        embeddings: (A, d). played, shown, title, prior: as in `log_rates`.

    Returns:
        (d,) weights: `embeddings @ weights` are the scores, log rates up to a constant of the title.
    """
    y = centred(log_rates(played, shown, title, prior), title, shown)
    x = centred(embeddings, title, shown)
    part = np.random.default_rng(seed).permutation(np.arange(title.max() + 1) % PARTS)[title]
    error = np.zeros(len(PENALTIES))
    for left_out in range(PARTS):
        own, others = part == left_out, part != left_out
        if own.any() and others.any():
            weights = ridge(x[others], y[others], shown[others])
            error += shown[own] @ (y[own, None] - x[own] @ weights.T) ** 2
    best = int(np.argmin(error)) if error.any() else int(np.argmax(PENALTIES))
    return ridge(x, y, shown)[best]
