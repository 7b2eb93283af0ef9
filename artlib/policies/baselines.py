"""Policies that read no caption: random, popular, and in simulated worlds the oracle."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from artlib.data import Log

PRIOR_SHOWN = 20.0  # impressions' worth of the average play rate that every artwork starts with


def uniform(log: Log) -> np.ndarray:
    """(n, K) the same probability for every candidate."""
    mask = log.arrays().mask
    return mask / mask.sum(axis=1, keepdims=True)


def greedy(scores: np.ndarray) -> np.ndarray:
    """(n, K) all probability on the best candidate; ties share it."""
    best = scores == scores.max(axis=1, keepdims=True)
    return best / best.sum(axis=1, keepdims=True)


def popular_scores(log: Log, impressions: Log) -> np.ndarray:
    """The play rate of each candidate in the earlier period and the training split, for whoever watches.

    Inverse propensities, where there are any, correct for what the logging policy preferred to show; rates are shrunk
    to the average.

    Returns:
        (n, K) smoothed rates; -inf where padded. Candidates never shown get the average.
    """
    parts = [log.split("train").arrays()] + ([log.arrays("earlier")] if log.earlier is not None else [])
    artwork = np.concatenate([part.shown_artwork for part in parts])
    reward = np.concatenate([part.reward for part in parts])
    weight = np.nan_to_num(np.concatenate([1 / (part.propensity * part.mask.sum(axis=1)) for part in parts]), nan=1.0)
    shown = np.bincount(artwork, weights=weight, minlength=len(log.artworks))
    played = np.bincount(artwork, weights=weight * reward, minlength=len(log.artworks))
    average = np.average(reward, weights=weight) if len(reward) else 0.0
    rate = (played + PRIOR_SHOWN * average) / (shown + PRIOR_SHOWN)
    arrays = impressions.arrays()
    return np.where(arrays.mask, rate[arrays.candidates], -np.inf)


def oracle(log: Log) -> np.ndarray:
    """(n, K) always the candidate with the largest true expected reward. Simulated worlds only."""
    return greedy(np.where(log.arrays().mask, log.expected_reward(), -np.inf))


@dataclasses.dataclass(frozen=True)
class OnDemand(Mapping[str, np.ndarray]):
    """Policies, (n, K) each, that are made when they are asked for and not kept: many would not fit into memory.

    Attributes:
        made: name -> what makes its probabilities.
    """

    made: dict[str, Callable[[], np.ndarray]]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.made[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.made)

    def __len__(self) -> int:
        return len(self.made)


def untrained(log: Log, part: Log) -> OnDemand:
    """The policies that need no training, by name. The oracle is among them where the truth is known."""
    made = {
        "random": lambda: uniform(part),
        "popular": lambda: greedy(popular_scores(log, part)),
        "production": lambda: part.arrays().production,
    }
    return OnDemand(made | ({"oracle": lambda: oracle(part)} if part.truth is not None else {}))
