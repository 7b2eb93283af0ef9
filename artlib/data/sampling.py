"""Which impressions of a split are learnt from, or chosen by; and a control, from which nothing can be learnt."""

import dataclasses

import numpy as np
import pyarrow.compute as pc

from artlib.data.columns import replaced
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


def shuffled_plays(log: Log, seed: int = 0) -> Log:
    """A control: the same log, but that every play of the training and validation splits was of any candidate.

    What is learnt from it cannot be what members like. The propensities of these plays are those of an equal choice, as
    they were drawn: a reader that corrects for production's would learn its opposite. The test split, its plays and its
    truth stay what they are.
    """
    impressions = log.impressions
    lengths = pc.list_value_length(impressions["candidates"]).to_numpy()
    drawn = np.floor(np.random.default_rng(seed).random(len(lengths)) * lengths).astype(int)
    moved = (impressions["reward"].to_numpy() > 0) & (impressions["split"].to_numpy() != "test")
    changed = {
        "shown": np.where(moved, drawn, impressions["shown"].to_numpy()),
        "propensity": np.where(moved, 1 / lengths, impressions["propensity"].to_numpy()),
    }
    if log.propensities == "none":
        del changed["propensity"]
    manifest = {name: value for name, value in log.manifest.items() if name not in ("files", "benchmark")}
    return dataclasses.replace(log, impressions=replaced(impressions, changed), manifest=manifest, _whole=None)
