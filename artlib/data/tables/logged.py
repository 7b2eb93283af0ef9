"""Impressions as the contract wants them: what was on offer, what was shown and why, what came of it, which split."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from artlib.data import contract
from artlib.data.columns import unpad
from artlib.data.tables import derive
from artlib.data.tables.sources import Source

LOGGING = ("uniform", "epsilon-greedy", "production")


@dataclasses.dataclass
class Logged:
    """Columns of the log's impressions, which rows of theirs they are, and what is known of how they were chosen."""

    columns: dict[str, Any]
    rows: np.ndarray
    propensities: str
    production_is: str


def impressions(source: Source, artworks: pa.Table, plays: Source | None) -> Logged:
    """The log's impressions from somebody's.

    Args:
        artworks: the log's.
        plays: what came of the impressions, where they do not say.
    """
    made: dict[str, Any] = {name: derive.ids(source, name) for name in ("user_id", "title_id")}
    made["timestamp"] = derive.timestamps(source)
    if source.get("impression_id") is None:
        source.derived("impression_id", "made: i0, i1, ... in the order of the rows")
        made["impression_id"] = pa.array([f"i{row}" for row in range(len(source))], pa.string())
    else:
        made["impression_id"] = derive.ids(source, "impression_id")
    candidates = made["candidates"] = _candidates(source, made["title_id"], artworks)
    if source.get("shown_artwork") is not None:
        shown = derive.index_of(source, "shown_artwork", candidates)
    else:
        column = source.need("shown", "give the index of the shown candidate, or its id as shown_artwork")
        remedy = "give the index of the shown candidate, from 0; its id goes by the name of shown_artwork"
        column = pa.chunked_array([[0] * len(source)]) if column is None else column
        shown = derive.whole(source, "shown", column, remedy).fill_null(-1).to_numpy().astype(np.int64)
    made["shown"] = pa.array(shown, pa.int32())
    made["reward"] = pa.array(_rewards(source, plays, made), from_pandas=True)
    made["propensity"], made["production"], propensities_, production_is = _logging(source, candidates, shown)
    rows = _split(source, made)
    kept = {name: column.take(pa.array(rows)) for name, column in made.items()}
    return Logged(kept, rows, propensities_, production_is)


def _candidates(source: Source, title_id: pa.ChunkedArray, artworks: pa.Table) -> pa.ListArray:
    column = source.get("candidates")
    if column is not None:
        return derive.lists(source, "candidates", column)
    source.derived(
        "candidates", "all artworks of the title, in the order of artworks; give a list where fewer were on offer"
    )
    owned = pd.Series(artworks["artwork_id"].to_pylist()).groupby(artworks["title_id"].to_numpy()).agg(list)
    found = owned.reindex(title_id.to_numpy())
    values = [items if isinstance(items, list) else [] for items in found]
    lacking = np.array([not items for items in values], dtype=bool)
    source.fault("title_id", lacking, title_id, "has no artwork", "add some to artworks, or drop the row")
    return pa.array(values, pa.list_(pa.string()))


def _rewards(source: Source, plays: Source | None, made: dict) -> np.ndarray:
    if plays is None:
        remedy = "give what came of the impression, or a table of plays and a window"
        column = source.need("reward", remedy)
        return np.zeros(len(source)) if column is None else derive.numbers(source, "reward", column)
    window = derive.length_of_time(source.options["window"])
    if source.get("reward") is not None:
        source.report.faults.append(f"{source.label} has rewards, and there are {plays.label}; give one of the two")
    if window is None:
        remedy = "say how long after an impression a play still counts, window: 24h"
        source.report.faults.append(f"{plays.label}: {remedy}")
        return np.zeros(len(source))
    value = plays.get("reward")
    sides = []
    for side, given in ((source, made), (plays, {})):
        columns = {name: given.get(name, None) for name in ("user_id", "title_id")}
        keys = {name: (derive.ids(side, name) if ids is None else ids).to_pylist() for name, ids in columns.items()}
        time = made["timestamp"] if side is source else derive.timestamps(side)
        sides.append(pd.DataFrame(keys | {"timestamp": time.to_pandas()}))
    unknown = sides[1].isna().any(axis=1).to_numpy()
    plays.fault(
        "timestamp", unknown, sides[1]["timestamp"], "has no time, user or title", "give it, or leave the row out"
    )
    counted = np.ones(len(plays)) if value is None else derive.numbers(plays, "reward", value)
    plays.fault("reward", np.isnan(counted), counted, "is nothing", "say what the play was worth, or leave the row out")
    beyond = ~np.isnan(counted) & ~((counted >= 0) & (counted <= contract.LARGEST))
    remedy = "repair it, or add one constant to all"
    plays.fault("reward", beyond, counted, "is not a finite number of at least 0", remedy)
    if source.report.faults or sides[0].isna().any(axis=None):  # what is not known cannot be joined
        return np.zeros(len(source))
    reward, credited = derive.credited(sides[0], sides[1].assign(value=counted), window)
    _say_lost(source, plays, sides[0], sides[1], credited)
    what = (
        f"from {plays.label}: what came within {source.options['window']} after the last impression of user and title"
    )
    source.derived("reward", f"{what}; {(reward > 0).sum():,} of {len(reward):,} impressions have some")
    late = sides[0]["timestamp"] > sides[1]["timestamp"].max() - window
    if late.any():
        source.missing(
            "reward",
            f"the {late.sum():,} impressions of the last {source.options['window']} may still be played; export "
            f"{plays.label} that much later, or leave them out",
        )
    return reward


def _say_lost(source: Source, plays: Source, shown: pd.DataFrame, played: pd.DataFrame, credited: np.ndarray) -> None:
    """Plays that fall on no impression, and why; a fault if all do."""
    if credited.all():
        return
    reasons, left = [], ~credited
    for name, what in (("user_id", "users"), ("title_id", "titles")):
        unknown = left & ~played[name].isin(shown[name]).to_numpy()
        if unknown.any():
            ids = [pa.chunked_array([pd.unique(column)]) for column in (played[name][unknown], shown[name])]
            first = played[name][unknown].iloc[0]
            reasons.append(f"{unknown.sum():,} of unknown {what} (first: {first!r}{contract.spelt_otherwise(*ids)})")
        left &= ~unknown
    pairs = shown.groupby(["user_id", "title_id"], as_index=False)["timestamp"].min()
    first = played[["user_id", "title_id"]].merge(pairs, how="left", on=["user_id", "title_id"])["timestamp"]
    never = left & first.isna().to_numpy()
    early = left & (played["timestamp"] < first).to_numpy()
    late = left & ~never & ~early
    for rows, what in (
        (never, "of titles never shown to their user"),
        (early, "before any impression"),
        (late, f"outside the window ({source.options['window']})"),
    ):
        reasons += [f"{rows.sum():,} {what}"] if rows.any() else []
    lost = f"{(~credited).sum():,} of {len(played):,} plays fall on no impression: {', '.join(reasons)}"
    (source.report.missing if credited.any() else source.report.faults).append(f"{plays.label}: {lost}")


def _known(source: Source, ours: str) -> pa.ChunkedArray | None:
    """The column of our name; None where there is none, or nothing in it."""
    column = source.get(ours)
    if column is None or derive.is_empty(column):
        return None
    return column


def _logging(source: Source, candidates: pa.ListArray, shown: np.ndarray) -> tuple[Any, Any, str, str]:
    """Propensity, production, and what each is known from."""
    lengths = pc.list_value_length(candidates).fill_null(0).to_numpy()
    mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
    equal = mask / np.maximum(lengths, 1)[:, None]
    here = np.arange(len(shown)), np.clip(shown, 0, max(mask.shape[1] - 1, 0))
    rule, column, production = source.options["logging"], _known(source, "propensity"), _known(source, "production")
    estimating = source.options["propensities"] == "estimate"
    if estimating and (column is not None or rule):
        source.report.faults.append(
            f"{source.label}: propensities are known and are to be estimated; leave out one of the two"
        )
    if source.options["propensities"] == "none" and (column is not None or rule):
        source.report.faults.append(
            f"{source.label}: propensities are known, and the option propensities says that there are none; leave out "
            "one of the two"
        )
    listed = None if production is None else derive.lists(source, "production", production, float)
    known = None
    if rule == "uniform":
        known = equal
        source.derived("production", "1 / candidates for all (logging: uniform)")
    elif rule == "epsilon-greedy":
        known = _epsilon_greedy(source, candidates, equal)
    elif rule == "production":
        if listed is None:
            source.need("production", "logging: production reads the probabilities of what was shown from it")
            listed = unpad(equal, mask)
        propensity = _at(listed, shown)
        source.derived("propensity", "production's probability of what was shown (logging: production)")
        return pa.array(propensity), listed, "logged", "known"
    if known is not None and len(shown):
        inside = mask[here] & (shown >= 0)  # of others the contract says that nothing was shown
        propensity = (
            np.where(inside, known[here], 1) if column is None else derive.numbers(source, "propensity", column)
        )
        listed = unpad(known, mask) if listed is None else listed
        return pa.array(propensity, from_pandas=True), listed, "logged", "known"
    if column is None:
        if listed is None and not estimating:
            source.missing(
                "production", f"not known: a choice at random stands in for it, and lifts are over that. {_ASK}"
            )
        if not estimating:
            source.missing("propensity", f"there are none, so IPS, SNIPS and DR are refused. {_ASK}")
        stand_in = unpad(equal, mask) if listed is None else listed
        kind = "random" if listed is None else "known"
        return pa.nulls(len(shown), pa.float64()), stand_in, "none", kind
    propensity = derive.numbers(source, "propensity", column)
    if listed is not None:
        return pa.array(propensity, from_pandas=True), listed, "logged", "known"
    source.missing(
        "production",
        "taken to be what chose; only its probability of what was shown is known, the rest is spread evenly: lifts by "
        "IPS and SNIPS are right, DR is left out; give a list of probabilities, or logging: uniform or epsilon-greedy",
    )
    spread = np.where(mask, ((1 - propensity) / np.maximum(lengths - 1, 1))[:, None], 0)
    spread[here] = np.where(lengths > 1, propensity, 1)
    credible = (propensity > 0) & (propensity <= 1) & (shown >= 0) & (shown < lengths)  # the contract names others
    spread = np.where(credible[:, None], spread, equal)
    return pa.array(propensity, from_pandas=True), unpad(spread, mask), "logged", "shown"


_ASK = (
    "Log the probability of what was shown; or say how it was chosen (logging: uniform, epsilon-greedy or production); "
    "or --estimate-propensities"
)


def _at(lists: pa.ListArray, places: np.ndarray) -> np.ndarray:
    """(n,) the number at each place of each list; 1 where it has none, which the contract names by the place."""
    offsets = lists.offsets.to_numpy()
    inside = (places >= 0) & (places < np.diff(offsets))
    flat = np.append(lists.values.to_numpy(zero_copy_only=False), 1.0)
    return flat[np.where(inside, offsets[:-1] + places, len(flat) - 1)]


def _epsilon_greedy(source: Source, candidates: pa.ListArray, equal: np.ndarray) -> np.ndarray:
    epsilon = source.options["epsilon"]
    if source.get("greedy_artwork") is not None:
        best = derive.index_of(source, "greedy_artwork", candidates)
    else:
        column = source.need(
            "greedy", "epsilon-greedy needs what was shown but for chance: its index, or greedy_artwork"
        )
        if column is None:
            return equal
        best = derive.numbers(source, "greedy", column)
        lengths = pc.list_value_length(candidates).fill_null(0).to_numpy()
        outside = ~((best >= 0) & (best < lengths) & (best == np.round(best)))
        remedy = "count from 0; an artwork's id goes by the name of greedy_artwork"
        source.fault("greedy", outside, best, "is not an index into candidates", remedy)
        best = np.where(outside, 0, best).astype(int)
    found = epsilon * equal
    found[np.arange(len(best)), np.maximum(best, 0)] += 1 - epsilon
    source.derived(
        "production", f"1 - epsilon + epsilon / candidates for the greedy one, else epsilon / candidates ({epsilon:g})"
    )
    return found


def _split(source: Source, made: dict) -> np.ndarray:
    """Put in the split; return the rows to keep."""
    everything = np.arange(len(source))
    if (column := source.get("split")) is not None:
        made["split"] = derive.named_splits(source, column)
        return everything
    if source.report.faults or not len(source):  # times or ids are not known
        made["split"] = pa.array(["train"] * len(source), pa.string())
        return everything
    pairs = pd.DataFrame({name: made[name].to_pylist() for name in ("user_id", "title_id")}).fillna("")
    time, by = made["timestamp"].cast(pa.int64()).to_numpy(zero_copy_only=False), source.options["split_by"]
    split, keep = derive.splits(pairs, time, source.options["shares"], by)
    made["split"] = pa.array(split, pa.string())
    shares = "/".join(f"{share:g}" for share in source.options["shares"])
    if by == "pair":
        source.derived("split", f"{shares} at random, by user and title")
        return everything
    source.derived(
        "split",
        f"{shares} by time; {(~keep).sum():,} impressions are left out, whose user and title an earlier split has",
    )
    for name, share in zip(contract.SPLITS, source.options["shares"], strict=True):
        if share and not (keep & (split == name)).any():
            source.report.faults.append(
                f"{source.label}: split by time, no impression is left for {name}: all of its user-title pairs are in "
                "an earlier split; say split_by: pair, or give a column split"
            )
    return np.flatnonzero(keep)
