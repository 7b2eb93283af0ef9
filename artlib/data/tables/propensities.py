"""Propensities that nobody logged, estimated from what was shown."""

import dataclasses

import numpy as np

from artlib.data.log import Log

SMOOTHING = 1.0  # showings that every candidate is given, so that no probability is 0
ENOUGH = 30  # showings a candidate from which on members' genres may say more than frequencies do


@dataclasses.dataclass(frozen=True)
class Estimated:
    """What a model says of how the logging policy chose.

    Attributes:
        probabilities: (n, K) of showing each candidate; rows sum to 1, all are above 0; 0 where padded.
        how: the model, in words, with its held-out log loss beside that of an equal choice.
    """

    probabilities: np.ndarray
    how: str


def estimate(log: Log, folds: int = 5, seed: int = 0) -> Estimated:
    """The logging policy as far as title, candidates and what members watched tell it, cross-fitted by member.

    Two models: how often each candidate was shown among the same candidates, and, where those have many impressions, a
    multinomial logistic regression of that on the genres that the member had watched. The second is taken if it
    predicts better what members were shown that it was not fitted on. Neither reads rewards. Both are mixed with an
    equal choice, which weighs as much as `SMOOTHING` impressions a candidate.

    Args:
        log: its propensity and production are not read.

    Returns:
        What was estimated. It is the logging policy's only if nothing else decided what was shown: `contract.ASSUMED`.
    """
    arrays = log.arrays()
    n, width = arrays.mask.shape
    order = np.argsort(np.where(arrays.mask, arrays.candidates, np.iinfo(np.int64).max), axis=1)
    candidates, mask = (np.take_along_axis(values, order, axis=1) for values in (arrays.candidates, arrays.mask))
    shown = np.argmax(order == arrays.shown[:, None], axis=1)
    group = np.unique(candidates, axis=0, return_inverse=True)[1].reshape(-1)
    rng = np.random.default_rng(seed)
    unit = arrays.user if arrays.user.max(initial=0) > 0 else np.arange(n)
    fold = (rng.permutation(unit.max(initial=0) + 1) % folds)[unit]
    counts = np.zeros((folds, group.max(initial=0) + 1, width))
    np.add.at(counts, (fold, group, shown), 1)
    others = (counts.sum(axis=0) - counts)[fold, group]
    total, size = others.sum(axis=1, keepdims=True), mask.sum(axis=1, keepdims=True)

    def mixed(expected: np.ndarray) -> np.ndarray:
        return np.where(mask, (expected + SMOOTHING) / (total + SMOOTHING * size), 0)

    found, how = mixed(others), "how often each was shown to other members, by title and candidates"
    losses = {"equal choice": _loss(mask / size, shown), "frequencies": _loss(found, shown)}
    profile = log.history.genre_profile(log.impressions)
    if (profile != profile[:1]).any():  # members differ
        chances = _by_genres(profile, group, fold, shown, mask, others, total)
        closer = mixed(chances)
        losses["members' genres"] = _loss(closer, shown)
        if losses["members' genres"] < losses["frequencies"]:
            found, how = closer, "a logistic regression on the members' genres, by title and candidates"
    said = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
    back = np.zeros_like(found)
    np.put_along_axis(back, order, found, axis=1)
    return Estimated(back, f"{how}; log loss on members that the model was not fitted on: {said}")


def _by_genres(profile, group, fold, shown, mask, others, total) -> np.ndarray:
    """(n, K) expected showings by logistic regressions, one for the same candidates and a fold; `others`, i.e.
    frequencies, where there are too few impressions."""
    from sklearn.linear_model import LogisticRegression

    spread = profile.std(axis=0)
    features = (profile[:, spread > 0] - profile[:, spread > 0].mean(axis=0)) / spread[spread > 0]
    expected = others.copy()
    enough = total[:, 0] >= ENOUGH * mask.sum(axis=1)
    rows_of = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    for rows in rows_of:
        for number in np.unique(fold[rows][enough[rows]]):
            learn, ask = rows[fold[rows] != number], rows[fold[rows] == number]
            if len(np.unique(shown[learn])) > 1:
                model = LogisticRegression(C=1.0, max_iter=500).fit(features[learn], shown[learn])
                expected[np.ix_(ask, model.classes_)] = model.predict_proba(features[ask]) * len(learn)
    return expected


def _loss(probabilities: np.ndarray, shown: np.ndarray) -> float:
    return float(-np.log(probabilities[np.arange(len(shown)), shown]).mean())
