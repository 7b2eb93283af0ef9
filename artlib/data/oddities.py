"""What is odd about a valid log. Each check yields at most one line."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from artlib.data.contract import ASSUMED, ROUNDING, TOLERANCE, known_users, spelt_otherwise

FEW = 4  # impressions of a title by which one sees whether a policy personalises


def warnings(tables: dict[str, pa.Table]) -> list[str]:
    """What is odd about a valid log: what will not be judged, or hardly, and what is probably meant otherwise.

    Args:
        tables: as for `contract.find`, of a log in which it finds nothing.

    Returns:
        One line a kind: file, column, how many rows, an example, what it means or what will be left out.
    """
    return [
        *_no_genres(tables["titles"]),
        *_hardly_any_history(tables),
        *other_order(tables["impressions"]),
        *_rounded(tables["impressions"]),
        *_unjudged(tables["impressions"]),
    ]


def propensities(kind: str) -> Iterator[str]:
    """A warning if the probabilities of what was shown were not logged; `kind` as in `contract.PROPENSITIES`."""
    if kind == "estimated":
        yield f"impressions.parquet, column propensity: estimated, not logged; {ASSUMED}"
    elif kind == "none":
        yield (
            "impressions.parquet, column propensity: there are none; IPS, SNIPS and DR are refused, and so are "
            "the training methods that divide by them"
        )


def _no_genres(titles: pa.Table) -> Iterator[str]:
    if not pc.any(pc.greater(pc.list_value_length(titles["genres"]), 0)).as_py():
        yield (
            "titles.parquet, column genres: no title has any; the default prompt tells members apart by them: "
            "train with prompt=caption or prompt=label"
        )


def _hardly_any_history(tables: dict[str, pa.Table]) -> Iterator[str]:
    histories, impressions = tables["histories"], tables["impressions"]
    there = known_users(tables)
    if not len(histories):
        yield "histories.parquet has no rows: policies know titles and artworks, but nothing of the members"
    elif there.mean() < 0.05:
        asked = impressions["user_id"].filter(pa.array(~there))
        yield (
            f"impressions.parquet, column user_id: only {there.sum():,} of {len(there):,} users are in "
            f"histories.parquet ({asked[0].as_py()!r} is not; {histories['user_id'][0].as_py()!r} is its first)"
            f"{spelt_otherwise(asked, histories['user_id'])}; the others count as new"
        )


def other_order(impressions: pa.Table) -> Iterator[str]:
    """A warning if propensities are not production's probability of what was shown."""
    lengths = pc.list_value_length(impressions["production"]).to_numpy()
    flat, first = pc.list_flatten(impressions["production"]).to_numpy(), np.cumsum(lengths) - lengths
    shown, propensity = impressions["shown"].to_numpy(), impressions["propensity"].to_numpy()
    if np.isnan(propensity).any():  # there are none: see `propensities`
        return
    close = np.abs(flat - np.repeat(propensity, lengths)) <= TOLERANCE + 1e-3 * flat
    off = ~close[first + shown]
    if not off.any():
        return
    elsewhere = np.add.reduceat(close, first) > 0
    at_first = close[first]
    row, n = int(np.argmax(off)), off.sum()
    at_random = np.abs(propensity * lengths - 1) <= 1e-3
    if at_random[off].mean() > 0.8:
        yield (
            f"impressions.parquet row {row}, column propensity: {propensity[row]:.6g} is not production[shown] = "
            f"{flat[first[row] + shown[row]]:.6g} (in {n:,} of {len(off):,} rows), but that of a random choice: "
            "production is then estimated like any other policy, and lifts are relative to that estimate"
        )
        return
    if at_first[off].mean() > 0.8:
        reason = "production seems to have the artwork that was shown first: bring it into the order of candidates"
    elif elsewhere[off].mean() > 0.8:
        reason = "it is that of another candidate: production is probably in another order (sorted?) than candidates"
    else:
        reason = (
            "if another policy than production logged these rows, this is as it should be; else one of the two is wrong"
        )
    yield (
        f"impressions.parquet row {row}, column propensity: {propensity[row]:.6g} is not production[shown] = "
        f"{flat[first[row] + shown[row]]:.6g} (in {n:,} of {len(off):,} rows); {reason}. Lifts over production are as "
        "wrong as production is"
    )


def _rounded(impressions: pa.Table) -> Iterator[str]:
    propensity = impressions["propensity"].to_numpy()
    lengths = pc.list_value_length(impressions["production"]).to_numpy()
    flat = pc.list_flatten(impressions["production"]).to_numpy()
    row = np.repeat(np.arange(len(impressions)), lengths)
    total = np.bincount(row, weights=flat, minlength=len(impressions))
    off = np.fmax(np.abs(total - 1), np.fmax(propensity - 1, 0))
    if (off > ROUNDING).any():
        yield (
            f"impressions.parquet, columns production and propensity: {(off > ROUNDING).sum():,} rows are rounded "
            f"(sums or values off by up to {off.max():.2g}); they are taken divided by their sum, and 1 at most"
        )


def _unjudged(impressions: pa.Table) -> Iterator[str]:
    """What training or evaluation will miss."""
    split, reward = impressions["split"].to_numpy().astype(str), impressions["reward"].to_numpy()
    lacking = {
        "train": "nothing can be learnt from it: 02_train_lora will stop",
        "validation": "nothing can be chosen or calibrated by it: 02_train_lora will stop",
        "test": "nothing can be judged: 03_evaluate will say no more than that",
    }
    for name, meaning in lacking.items():
        here = split == name
        if not here.any():
            yield f"impressions.parquet, column split: no row is {name!r}; {meaning}"
        elif not reward[here].any():
            yield f"impressions.parquet, column reward: no row of {name} has a reward above 0 (yet); {meaning}"
    test = impressions.filter(pa.array(split == "test"))
    if not len(test):
        return
    users = len(pc.unique(test["user_id"]))
    if users == 1:
        yield (
            f"impressions.parquet, column user_id: all test rows are of one user, {test['user_id'][0].as_py()!r}; "
            "intervals are clustered by user, so there will be none, and no DR, whose reward model is fitted on others"
        )
    lengths = pc.list_value_length(test["candidates"]).to_numpy()
    if (single := lengths == 1).any():
        share = "all" if single.all() else f"{single.sum():,} of {len(single):,}"
        yield (
            f"impressions.parquet, column candidates: {share} test rows have one candidate; every policy shows it, so "
            "they tell nothing apart"
        )
    counts = pc.value_counts(test["title_id"].combine_chunks()).field("counts").to_numpy()
    if counts.max() < FEW:
        yield (
            f"impressions.parquet, column title_id: no title has {FEW} test rows; 04_analyze_errors cannot say whether "
            "members get different artworks"
        )
