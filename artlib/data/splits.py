"""What of a split that judges was there to be learnt from."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from artlib.data.contract import one_line
from artlib.data.log import Log

PAIRS = (("train", "validation"), ("train", "test"), ("validation", "test"))  # what learns or chooses, what judges


def leakage(log: Log) -> pd.DataFrame:
    """How much of each judging split an earlier one knows, or could only know from the future.

    Args:
        log: with any of its splits.

    Returns:
        A row for each thing that should be new, by pair of splits the share of the later one's impressions, 0 to 1,
        NaN where one of the two is empty: whose title the earlier split asks about, too; which have a candidate whose
        caption, apart from case and spaces, or picture the earlier split shows, too; of whose member and title both
        have an impression; and, of the earlier split, the share of impressions that are not over when judging begins.
        Members may return: how many do, is the last row.
    """
    captions = [one_line(text).casefold() for text in log.artworks["caption"].to_pylist()]
    images = log.artworks["image"].to_pylist()
    artworks = {
        "a caption": pd.factorize(np.array(captions, dtype=object))[0],
        "a picture": pd.factorize(np.array(images, dtype=object))[0],  # -1 where there is none
    }
    splits = {name: log.split(name) for name in ("train", "validation", "test")}
    rows = ("the title", *artworks, "the member and the title", "impressions of the future", "the member")
    table = pd.DataFrame(np.nan, index=pd.Index(rows, name="known before"), columns=[f"{a} to {b}" for a, b in PAIRS])
    for first, second in PAIRS:
        before, after = splits[first], splits[second]
        if len(before.impressions) and len(after.impressions):
            table[f"{first} to {second}"] = [
                _known(before, after, ["title_id"]),
                *(_known_artworks(before, after, codes) for codes in artworks.values()),
                _known(before, after, ["user_id", "title_id"]),
                _not_over(before, after),
                _known(before, after, ["user_id"]),
            ]
    return table


def _known(before: Log, after: Log, columns: list[str]) -> float:
    keys = [pd.MultiIndex.from_frame(part.impressions.select(columns).to_pandas()) for part in (before, after)]
    return float(keys[1].isin(keys[0]).mean())


def _known_artworks(before: Log, after: Log, codes: np.ndarray) -> float:
    """The share of impressions that have a candidate of which an earlier one had the like.

    Args:
        codes: (A,) the same for artworks that are alike; -1 for those that are like none.
    """
    old, new = before.arrays(), after.arrays()
    seen = np.unique(codes[old.candidates[old.mask]])
    known = np.isin(codes[np.maximum(new.candidates, 0)], seen[seen >= 0]) & new.mask
    return float(known.any(axis=1).mean())


def _not_over(before: Log, after: Log) -> float:
    begins = pc.min(after.impressions["timestamp"])
    return float(pc.mean(pc.cast(pc.greater_equal(before.impressions["timestamp"], begins), pa.float64())).as_py())
