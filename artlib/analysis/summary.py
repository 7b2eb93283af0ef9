"""What is in a log, as tables."""

import numpy as np
import pandas as pd

from artlib import worlds
from artlib.data import Log


def files(log: Log) -> pd.DataFrame:
    """The files of a log, their rows and columns."""
    rows = [(name, table.num_rows, ", ".join(table.column_names)) for name, table in log.tables().items()]
    return pd.DataFrame(rows, columns=["file", "rows", "columns"])


def splits(log: Log) -> pd.DataFrame:
    """By split: impressions, mean reward, the share of cold titles, titles, users."""
    arrays = log.arrays()
    frame = pd.DataFrame(
        {
            "split": log.impressions["split"].to_pylist(),
            "reward": arrays.reward,
            "cold": log.cold(),
            "title": arrays.title,
            "user": arrays.user,
        }
    )
    return frame.groupby("split", sort=False).agg(
        impressions=("reward", "size"),
        mean_reward=("reward", "mean"),
        cold=("cold", "mean"),
        titles=("title", "nunique"),
        users=("user", "nunique"),
    )


def title_to_show(log: Log) -> int:
    """The row in `titles` of the most shown title with four or five artworks; of any, if there is none such."""
    arrays = log.arrays()
    counts = pd.Series(arrays.title).value_counts()
    some = [title for title in counts.index if 4 <= arrays.mask[arrays.title == title][0].sum() <= 5]
    return int(some[0] if some else counts.index[0])


def to_be_won(test: Log) -> pd.Series:
    """The mean reward of a test impression: what was shown, and in simulated worlds of what might have been."""
    arrays = test.arrays()
    if test.truth is None:
        found = {"what was shown": arrays.reward.mean()}
    else:
        expected = test.expected_reward()
        found = {
            "any artwork at random": (expected.sum(axis=1) / arrays.mask.sum(axis=1)).mean(),
            "production": (expected * arrays.production).sum(axis=1).mean(),
            "the best artwork for each member": np.where(arrays.mask, expected, -np.inf).max(axis=1).mean(),
        }
    return pd.Series(found, name="mean reward a test impression")


def worth(log: Log) -> pd.DataFrame | None:
    """What knowing each thing that makes members play would be worth, in the worlds that say so; None in others."""
    world = worlds.known().get(log.manifest.get("world", ""))
    return world.worth(log) if world and world.worth and log.truth is not None else None
