"""What can be wrong with a log. Each check yields at most one fault: the first row that breaks it, and how many do."""

import datetime
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

SPLITS = ("train", "validation", "test")
TOLERANCE = 1e-6  # on the sum of a row of probabilities


class LogError(ValueError):
    """A log that breaks its contract."""


def find(tables: dict[str, pa.Table]) -> list[str]:
    """The first fault of each kind in the tables of a log.

    Args:
        tables: by file name (see `log.SCHEMAS`), with the columns and types of the schemas.

    Returns:
        One line a kind: file, row (counting from 0), column, value, remedy. Empty for a valid log.
    """
    faults = [fault for name, table in tables.items() for fault in _nulls(name, table)]
    if faults:  # the other checks read every value
        return faults
    return [
        *_titles_and_artworks(tables["titles"], tables["artworks"]),
        *_histories(tables),
        *_feedback("impressions", tables),
        *_production(tables["impressions"]),
        *_splits(tables["impressions"]),
        *(_earlier(tables) if "earlier" in tables else ()),
        *(_truth(tables) if "truth" in tables else ()),
    ]


def _fault(file: str, column: str, bad: np.ndarray, values, wrong: str, remedy: str) -> Iterator[str]:
    """Yield the fault of the first True row of `bad`, if there is one; `values` is indexed by row."""
    bad = np.asarray(bad, dtype=bool)
    if bad.any():
        row = int(np.argmax(bad))
        value = values[row]
        value = value.as_py() if isinstance(value, pa.Scalar) else value
        value = value.item() if isinstance(value, np.generic) else value
        text = str(value) if isinstance(value, datetime.datetime) else repr(value)
        text = text if len(text) <= 120 else text[:117] + "..."
        more = f" (and {bad.sum() - 1:,} more rows)" if bad.sum() > 1 else ""
        yield f"{file}.parquet row {row}, column {column}: {text} {wrong}{more}; {remedy}"


def _nulls(name: str, table: pa.Table) -> Iterator[str]:
    if not len(table) and name != "histories":
        yield f"{name}.parquet has no rows; a log needs at least one"
    for field in table.schema:
        column = table[field.name]
        if (name, field.name) not in {("titles", "year"), ("artworks", "image")}:
            yield from _fault(name, field.name, pc.is_null(column).to_numpy(), column, "is null", "give a value")
        if pa.types.is_list(field.type) and pc.list_flatten(column).null_count:
            inside = pc.list_parent_indices(column).filter(pc.is_null(pc.list_flatten(column)))
            bad = np.isin(np.arange(len(column)), inside.to_numpy())
            yield from _fault(name, field.name, bad, column, "has a null in it", "give a value")


def _duplicates(name: str, column: str, table: pa.Table) -> Iterator[str]:
    bad = pd.Series(table[column].to_numpy()).duplicated().to_numpy()
    yield from _fault(name, column, bad, table[column], "is there twice", "make ids unique")


def _unknown(name: str, column: str, table: pa.Table, known: pa.ChunkedArray, file: str) -> Iterator[str]:
    bad = ~pc.is_in(table[column], known.combine_chunks()).to_numpy()
    yield from _fault(name, column, bad, table[column], f"is not in {file}.parquet", "add it there or drop the row")


def _titles_and_artworks(titles: pa.Table, artworks: pa.Table) -> Iterator[str]:
    yield from _duplicates("titles", "title_id", titles)
    empty = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(titles["name"])), 0).to_numpy()
    yield from _fault("titles", "name", empty, titles["name"], "is empty", "name the title")
    yield from _duplicates("artworks", "artwork_id", artworks)
    yield from _unknown("artworks", "title_id", artworks, titles["title_id"], "titles")
    empty = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(artworks["caption"])), 0).to_numpy()
    yield from _fault("artworks", "caption", empty, artworks["caption"], "is empty", "describe the artwork in words")


def _histories(tables: dict[str, pa.Table]) -> Iterator[str]:
    histories, impressions = tables["histories"], tables["impressions"]
    yield from _unknown("histories", "title_id", histories, tables["titles"]["title_id"], "titles")
    weight = histories["weight"].to_numpy()
    yield from _fault("histories", "weight", ~((weight >= 0) & (weight <= 1)), weight, "is outside [0, 1]",
                      "scale the rating or watched fraction")  # fmt: skip
    time = pc.cast(impressions["timestamp"], pa.int64()).to_numpy()
    last = pd.Series(time).groupby(impressions["user_id"].to_numpy()).max()
    last = last.reindex(histories["user_id"].to_numpy()).fillna(np.inf).to_numpy()
    bad = pc.cast(histories["timestamp"], pa.int64()).to_numpy() >= last
    yield from _fault("histories", "timestamp", bad, histories["timestamp"],
                      "is at or after the user's last impression, so it lies in the future of all of them",
                      "keep only what came before")  # fmt: skip


def _feedback(name: str, tables: dict[str, pa.Table]) -> Iterator[str]:
    table, artworks = tables[name], tables["artworks"]
    yield from _duplicates(name, "impression_id", table)
    yield from _unknown(name, "title_id", table, tables["titles"]["title_id"], "titles")
    yield from _candidates(name, table, artworks)
    lengths = pc.list_value_length(table["candidates"]).to_numpy()
    shown = table["shown"].to_numpy()
    yield from _fault(name, "shown", (shown < 0) | (shown >= lengths), shown, "is not an index into candidates",
                      "count from 0 to the number of candidates less 1")  # fmt: skip
    propensity = table["propensity"].to_numpy()
    yield from _fault(name, "propensity", ~((propensity > 0) & (propensity <= 1)), propensity, "is outside (0, 1]",
                      "log the probability with which the logging policy drew `shown`")  # fmt: skip
    reward = table["reward"].to_numpy()
    yield from _fault(name, "reward", ~((reward >= 0) & np.isfinite(reward)), reward,
                      "is not a finite number of at least 0", "shift or repair the reward")  # fmt: skip


def _earlier(tables: dict[str, pa.Table]) -> Iterator[str]:
    yield from _feedback("earlier", tables)
    earlier, impressions = tables["earlier"], tables["impressions"]
    first = pc.min(pc.cast(impressions["timestamp"], pa.int64())).as_py()
    late = pc.cast(earlier["timestamp"], pa.int64()).to_numpy() >= first
    yield from _fault("earlier", "timestamp", late, earlier["timestamp"],
                      "is not before the first impression of the log", "keep only what came before it")  # fmt: skip


def _candidates(name: str, table: pa.Table, artworks: pa.Table) -> Iterator[str]:
    column = table["candidates"]
    lengths = pc.list_value_length(column).to_numpy()
    yield from _fault(name, "candidates", lengths == 0, column, "has no candidate", "drop the row")
    row = np.repeat(np.arange(len(table)), lengths)
    flat = pc.list_flatten(column)
    found = pc.fill_null(pc.index_in(flat, artworks["artwork_id"].combine_chunks()), -1).to_numpy()

    def any_in_row(bad_candidate: np.ndarray) -> np.ndarray:
        return np.bincount(row[bad_candidate], minlength=len(table)) > 0

    yield from _fault(name, "candidates", any_in_row(found < 0), column, "names an artwork not in artworks.parquet",
                      "add it there or drop it")  # fmt: skip
    titles = pd.unique(artworks["title_id"].to_numpy())
    owner = pd.Index(titles).get_indexer(artworks["title_id"].to_numpy())
    asked = pd.Index(titles).get_indexer(table["title_id"].to_numpy())[row]
    foreign = (found >= 0) & (owner[found] != asked) & (asked >= 0)
    yield from _fault(name, "candidates", any_in_row(foreign), column, "names an artwork of another title",
                      "offer only the title's own")  # fmt: skip
    twice = pd.DataFrame({"row": row, "artwork": found}).duplicated().to_numpy() & (found >= 0)
    yield from _fault(name, "candidates", any_in_row(twice), column, "names an artwork twice", "make it a set")


def _production(impressions: pa.Table) -> Iterator[str]:
    column = impressions["production"]
    lengths = pc.list_value_length(column).to_numpy()
    yield from _fault("impressions", "production",
                      lengths != pc.list_value_length(impressions["candidates"]).to_numpy(), column,
                      "is not as long as candidates", "give one probability a candidate")  # fmt: skip
    row = np.repeat(np.arange(len(impressions)), lengths)
    flat = pc.list_flatten(column).to_numpy()
    outside = np.bincount(row[~((flat >= 0) & (flat <= 1))], minlength=len(impressions)) > 0
    yield from _fault("impressions", "production", outside, column, "holds a value outside [0, 1]",
                      "give probabilities")  # fmt: skip
    off = np.abs(np.bincount(row, weights=flat, minlength=len(impressions)) - 1) > TOLERANCE
    yield from _fault("impressions", "production", off & ~outside, column, "does not sum to 1", "normalise the row")


def _splits(impressions: pa.Table) -> Iterator[str]:
    split = impressions["split"].to_numpy()
    yield from _fault("impressions", "split", ~np.isin(split.astype(str), SPLITS), split,
                      f"is not one of {', '.join(SPLITS)}", "name the split")  # fmt: skip
    pair = pd.MultiIndex.from_arrays([impressions["user_id"].to_numpy(), impressions["title_id"].to_numpy()])
    for name, before in (("validation", "train"), ("test", "train"), ("test", "validation")):
        bad = (split == name) & pair.isin(pair[split == before])
        yield from _fault("impressions", "split", bad, pair,
                          f"(user, title) of a {name} impression is in {before} too",
                          "keep all impressions of a user-title pair in one split")  # fmt: skip


def _truth(tables: dict[str, pa.Table]) -> Iterator[str]:
    truth, impressions = tables["truth"], tables["impressions"]
    yield from _duplicates("truth", "impression_id", truth)
    yield from _unknown("truth", "impression_id", truth, impressions["impression_id"], "impressions")
    order = pc.index_in(impressions["impression_id"], truth["impression_id"].combine_chunks())
    missing = pc.is_null(order).to_numpy()
    yield from _fault("impressions", "impression_id", missing, impressions["impression_id"],
                      "is not in truth.parquet", "give its expected rewards, or delete truth.parquet")  # fmt: skip
    if missing.any():
        return
    values = truth["expected_reward"]
    order = pc.index_in(truth["impression_id"], impressions["impression_id"].combine_chunks())
    offered = impressions["candidates"].take(order)
    lengths = pc.list_value_length(values).to_numpy()
    bad = lengths != pc.list_value_length(offered).to_numpy(zero_copy_only=False)
    yield from _fault("truth", "expected_reward", bad, values, "is not as long as the impression's candidates",
                      "give one value a candidate")  # fmt: skip
    flat = pc.list_flatten(values).to_numpy()
    row = np.repeat(np.arange(len(truth)), lengths)
    bad = np.bincount(row[~((flat >= 0) & np.isfinite(flat))], minlength=len(truth)) > 0
    yield from _fault("truth", "expected_reward", bad, values,
                      "holds a value that is not a finite number of at least 0", "repair it")  # fmt: skip
