"""Which impressions of a split are learnt from, or chosen by."""

import numpy as np

from artlib.data.contract import LogError
from artlib.data.log import Log


def plays(log: Log, split: str, most: int | None, seed: int) -> Log:
    """The played impressions of a split in random order, at most `most` of them."""
    return _shuffled(log.split(split), split, True, most, seed)


def impressions(log: Log, split: str, most: int | None, seed: int) -> Log:
    """The impressions of a split, played or not, in random order, at most `most` of them."""
    return _shuffled(log.split(split), split, False, most, seed)


def _shuffled(part: Log, split: str, played: bool, most: int | None, seed: int) -> Log:
    reward = part.arrays().reward
    rows = np.flatnonzero(reward > 0) if played else np.arange(len(reward))
    rows = np.random.default_rng(seed).permutation(rows)[:most]
    if not reward[rows].any():
        raise LogError(f"the {split} split has no impression with a reward above 0: nothing to learn from")
    return part.take(rows)
