"""Readers of captions by a sentence encoder: what a team without a language model would try, and ship.

All see what the language model sees: captions, genre profiles, histories' titles, and the same plays. Those that learn
maximise the likelihood of the played artwork among the candidates, less a penalty chosen on validation plays.
A artworks, G genres, d the encoder's width, n impressions with K candidates at most.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import scipy.optimize
import scipy.special
import torch

from artlib.data import Arrays, Log
from artlib.lm.embeddings import SHARPNESS, Inputs
from artlib.policies import rates
from artlib.policies.baselines import PRIOR_SHOWN
from artlib.policies.readings import Genres
from artlib.posttrain.rewards import shrunk_rate

PENALTIES = (3000.0, 1000.0, 300.0, 100.0, 30.0, 10.0, 3.0)  # the strongest first: each begins where the last ended
BILINEAR_PENALTIES = (100.0, 30.0, 10.0, 3.0)
WIDTH = 64  # leading principal components, in the bilinear form


Scores = Callable[[Log], np.ndarray]  # (n, K) of a part of the log; -inf where padded


def by_history(inputs: Inputs) -> Scores:
    """Untrained: the similarity of the caption and what the member watched."""
    return lambda part: _bilinear(np.eye(inputs.captions.shape[1]), inputs.members(part), inputs.captions, part)


def learnt_by_genres(inputs: Inputs, plays: Log, validation: Log) -> Scores:
    """`readings.Genres`, to whose log-odds a linear head on the caption is added: p(g | c) ~ exp(s_cg + e_c V_g)."""
    captions = torch.from_numpy(np.hstack([inputs.captions, np.ones((len(inputs.captions), 1))]))
    similarity = torch.from_numpy(inputs.similarity())
    shape = captions.shape[1], similarity.shape[1]

    def table(weights):
        return similarity + captions @ weights.reshape(shape)

    reading = Genres(inputs)
    weights = _chosen(lambda w, part: reading.logits(table(w), part), np.zeros(shape), plays, validation, PENALTIES)
    return functools.partial(reading.scores, table(torch.from_numpy(weights)).numpy())


def learnt_by_history(inputs: Inputs, plays: Log, validation: Log) -> Scores:
    """(1, u)' W e_c, bilinear in the mean of what the member watched and the caption, in principal components; the 1
    is for what a caption has for everybody."""
    kept = _principal(inputs.captions), _principal(inputs.titles)
    captions = inputs.captions @ kept[0]
    start = np.vstack([np.zeros(captions.shape[1]), SHARPNESS * kept[1].T @ kept[0]])

    def members(part: Log) -> np.ndarray:
        watched = inputs.members(part) @ kept[1]
        return np.hstack([np.ones((len(watched), 1)), watched])

    def scores(weights, part: Log):
        arrays, rows = part.arrays(), torch.from_numpy(members(part)) @ weights.reshape(start.shape)
        chosen = torch.from_numpy(captions[np.maximum(arrays.candidates, 0)])
        return torch.einsum("nd,nkd->nk", rows, chosen).masked_fill(~torch.tensor(arrays.mask), -1e9)

    weights = _chosen(scores, start, plays, validation, BILINEAR_PENALTIES)
    return lambda part: _bilinear(weights.reshape(start.shape), members(part), captions, part)


def learnt_by_rates(inputs: Inputs, plays: Log) -> Scores:
    """e_c v, the same for all members: `rates.fit` to how often each artwork was played of how often it was shown.

    Showings are those of the whole training split, which some of its plays suit as well as all: within a title, how
    many they are is a factor that all rates share.
    """
    log, n = inputs.log, len(inputs.log.artworks)
    shown = np.bincount(log.split("train").arrays().shown_artwork, minlength=n).astype(float)
    played = np.bincount(plays.arrays().shown_artwork, plays.arrays().reward, n)
    title, rows = pd.factorize(log.artworks["title_id"].to_numpy())[0], shown > 0
    weights = rates.fit(inputs.captions[rows], played[rows], shown[rows], title[rows], PRIOR_SHOWN)
    scores = inputs.captions @ weights

    def of(part: Log) -> np.ndarray:
        arrays = part.arrays()
        return np.where(arrays.mask, scores[np.maximum(arrays.candidates, 0)], -np.inf)

    return of


def fusion(log: Log, readers: Sequence[Scores], plays: Log, validation: Log) -> Scores:
    """Everything in one conditional logit: readers' scores, what production thinks, what was played in the earlier
    period, each also by how often the title was shown there."""
    shown, rate = _earlier(log)

    def features(part: Log) -> np.ndarray:
        arrays = part.arrays()
        titles = np.log1p(np.where(arrays.mask, shown[arrays.candidates], 0).sum(axis=1))[:, None]
        columns = [np.where(arrays.mask, reader(part), 0) for reader in readers]
        columns += [np.log(np.maximum(arrays.production, 1e-3)), np.log(rate[arrays.candidates])]
        columns += [column * titles for column in columns]
        return np.where(arrays.mask[:, :, None], np.stack(columns, axis=2), 0)

    found = {id(part): features(part) for part in (plays, validation)}  # each reader is asked once
    fitted = found[id(plays)][plays.arrays().mask]
    mean, spread = fitted.mean(axis=0), np.maximum(fitted.std(axis=0), 1e-9)
    kept = {key: torch.from_numpy((columns - mean) / spread) for key, columns in found.items()}

    def scores(weights, part: Log):
        return (kept[id(part)] @ weights).masked_fill(~torch.tensor(part.arrays().mask), -1e9)

    weights = _chosen(scores, np.zeros(len(mean)), plays, validation, PENALTIES)
    return lambda part: np.where(part.arrays().mask, ((features(part) - mean) / spread) @ weights, -np.inf)


def _bilinear(weights: np.ndarray, members: np.ndarray, captions: np.ndarray, part: Log) -> np.ndarray:
    arrays = part.arrays()
    scores = np.einsum("nd,nkd->nk", members @ weights, captions[np.maximum(arrays.candidates, 0)])
    return np.where(arrays.mask, scores, -np.inf)


def _principal(vectors: np.ndarray) -> np.ndarray:
    """(d, w) leading directions of some unit vectors."""
    real = vectors[vectors.any(axis=1)]
    return np.linalg.svd(real - real.mean(axis=0), full_matrices=False)[2][:WIDTH].T


def _earlier(log: Log) -> tuple[np.ndarray, np.ndarray]:
    """(A,) impressions of each artwork in the earlier period, and (A,) its smoothed play rate there; the average of the
    training split where there was none."""
    n = len(log.artworks)
    if log.earlier is None:
        return np.zeros(n), np.full(n, max(log.split("train").arrays().reward.mean(), 1e-6))
    part = log.arrays("earlier")
    return np.bincount(part.shown_artwork, minlength=n), shrunk_rate(part.shown_artwork, part.reward, n)


def _chosen(scores, start: np.ndarray, plays: Log, validation: Log, penalties: Sequence[float]) -> np.ndarray:
    """The weights with the penalty |W - start|^2 / 2 that suits the validation plays best."""
    arrays, checked = plays.arrays(), validation.arrays()
    weights, first = start.ravel(), torch.from_numpy(start.ravel())
    best = None
    for penalty in penalties:

        def objective(flat: np.ndarray, penalty: float = penalty) -> tuple[float, np.ndarray]:
            tensor = torch.from_numpy(flat).requires_grad_(True)
            value = cross_entropy(scores(tensor, plays), arrays)
            value = value + penalty * ((tensor - first) ** 2).sum() / 2
            value.backward()
            return float(value.detach()), tensor.grad.numpy()

        options = {"maxiter": 50, "ftol": 1e-6}
        weights = scipy.optimize.minimize(objective, weights, jac=True, method="L-BFGS-B", options=options).x
        with torch.no_grad():
            found = scores(torch.from_numpy(weights), validation).numpy()
        judged = loss(np.where(checked.mask, found, -np.inf), validation)
        if best is None or judged < best[0]:
            best = judged, weights
    return best[1].reshape(start.shape)


def cross_entropy(scores: torch.Tensor, arrays: Arrays) -> torch.Tensor:
    """The cross-entropy of the plays. What was played had to be shown first: the logging policy's log-probabilities are
    added to the scores, or these would learn them (the logQ correction; Yi et al. 2019)."""
    given = scores + torch.tensor(_log_shown(arrays))
    chosen = given.log_softmax(dim=1)[torch.arange(len(arrays)), torch.tensor(arrays.shown)]
    return -(torch.tensor(arrays.reward) * chosen).sum()


def _log_shown(arrays: Arrays) -> np.ndarray:
    return np.log(np.maximum(arrays.logging, 1e-12))


def loss(scores: np.ndarray, part: Log) -> float:
    """The mean cross-entropy of plays, weighed by reward, at the temperature that suits the scores, given how each was
    likely to be shown: by this readers are chosen on validation."""
    arrays = part.arrays()
    rows, offset = np.arange(len(arrays)), _log_shown(arrays)

    def at(log_t: float) -> float:
        given = np.where(arrays.mask, scores / np.exp(log_t) + offset, -np.inf)
        return -float(np.average(scipy.special.log_softmax(given, axis=1)[rows, arrays.shown], weights=arrays.reward))

    return float(scipy.optimize.minimize_scalar(at, bounds=(-3, 6), method="bounded").fun)
