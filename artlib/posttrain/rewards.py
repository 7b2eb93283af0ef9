"""Predicted rewards q(x, c): what is known of a play without a language model, for the methods that need it."""

import numpy as np

from artlib import ope
from artlib.data import Arrays, Log
from artlib.lm import embedded, encoder
from artlib.lm.embeddings import Inputs, mixture
from artlib.posttrain.settings import Settings

PRIOR = 5.0  # impressions' worth of the average reward that every artwork, title and member starts with


def predicted(log: Log, part: Log, settings: Settings) -> np.ndarray:
    """(n, K) rewards of some impressions of a log, cross-fitted by member: the q_hat of doubly robust.

    Captions are read by the embedded sentence encoder; beside the tiny language model by the tiny one.
    """
    arrays = part.arrays()
    name = encoder.TINY if settings.base == embedded.TINY else encoder.EMBEDDED
    inputs = Inputs.read(log, encoder.load(name), np.unique(arrays.candidates[arrays.mask]))
    folds = max(2, min(5, len(np.unique(arrays.user))))
    return ope.cross_fit(
        features(inputs, part), arrays.reward, arrays.shown, arrays.user, arrays.mask, folds=folds, seed=settings.seed
    )


def features(inputs: Inputs, part: Log) -> np.ndarray:
    """(n, K, d) what is known of each impression with each candidate; 0 where padded.

    What production prefers; the similarity of the caption and what the member watched; of the caption and the genres
    that the member likes, if the log has any; how often artwork and title were played in the earlier period, the log's
    average without one.
    """
    arrays, log = part.arrays(), inputs.log
    rows = np.maximum(arrays.candidates, 0)
    columns = [
        np.log(np.maximum(arrays.production, 1e-6)),
        np.einsum("nd,nkd->nk", inputs.members(part), inputs.captions[rows]),
    ]
    if len(inputs.genres):
        columns.append(mixture(inputs.similarity(), part, log))
    if log.earlier is not None:
        earlier = log.arrays("earlier")
        columns.append(np.log(shrunk_rate(earlier.shown_artwork, earlier.reward, len(log.artworks)))[rows])
        title = np.log(shrunk_rate(earlier.title, earlier.reward, len(log.titles)))[arrays.title]
        columns.append(np.broadcast_to(title[:, None], rows.shape))
    return np.where(arrays.mask[:, :, None], np.stack(columns, axis=2), 0)


def shrunk_rate(what: np.ndarray, reward: np.ndarray, n: int) -> np.ndarray:
    """(n,) mean reward of each of n things, of which each row was `what`, shrunk to the average."""
    average = max(reward.mean(), 1e-6)
    return (np.bincount(what, reward, n) + PRIOR * average) / (np.bincount(what, minlength=n) + PRIOR)


def quality(arrays: Arrays, q_hat: np.ndarray) -> dict[str, dict[str, float | None]]:
    """How well rewards of what was shown are predicted, beside predictors that know no artwork.

    Returns:
        For q_hat ("predicted") and for the means of a title's, a member's and all other impressions (left out is the
        one that is predicted; shrunk to the average): mean squared error, and log loss where rewards are 0 or 1.
    """
    reward = arrays.reward
    found = {
        "predicted": q_hat[np.arange(len(arrays)), arrays.shown],
        "title mean": _mean_of_others(arrays.title, reward),
        "user mean": _mean_of_others(arrays.user, reward),
        "global mean": _mean_of_others(np.zeros(len(arrays), dtype=int), reward),
    }
    return {
        name: {"squared_error": float(((reward - q) ** 2).mean()), "log_loss": _log_loss(reward, q)}
        for name, q in found.items()
    }


def _mean_of_others(group: np.ndarray, reward: np.ndarray) -> np.ndarray:
    """(n,) mean reward of the other rows of the same group, shrunk to that of all other rows."""
    average = (reward.sum() - reward) / max(len(reward) - 1, 1)
    total, count = np.bincount(group, reward)[group] - reward, np.bincount(group)[group] - 1
    return (total + PRIOR * average) / (count + PRIOR)


def _log_loss(reward: np.ndarray, q: np.ndarray) -> float | None:
    if not np.isin(reward, (0, 1)).all():
        return None
    return float(-np.log(np.clip(np.where(reward == 1, q, 1 - q), 1e-6, 1)).mean())
