"""What can be wrong with a log. Each check yields at most one line: the first row that it is about, and how many."""

import datetime
import re
import unicodedata
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from artlib import ArtlibError
from artlib.data.columns import pad

SPLITS = ("train", "validation", "test")
# What the column propensity holds, in the manifest; without an entry it is "logged". With "none" all its rows are null.
PROPENSITIES = ("logged", "estimated", "none")
# What estimated propensities ask one to believe.
ASSUMED = (
    "this assumes that what was shown depended on nothing but the title, its candidates and the genres that the member "
    "had watched (no unobserved confounding), and that every candidate could be shown (overlap)"
)
# Probabilities come rounded: to four decimals, or as float32. The sum of K of them may be off by K times half of the
# last decimal; what is off by less is taken as it is meant.
TOLERANCE = 1e-4
MOST_OFF = 0.01  # however many there are
ROUNDING = 1e-6  # of float32, not worth a word
# Beyond these, squares of importance weights and rewards leave float64, and `ope` refuses them.
SMALLEST, LARGEST = 1e-50, 1e50
# Ways in which ids of one file and of another are the same and yet spelt differently, and what to do.
SPELLINGS: dict[str, Callable[[str], str]] = {
    "spaces around them": str.strip,
    "capital and small letters": str.casefold,
    "a trailing .0": lambda text: re.sub(r"\.0+$", "", text),
    "leading zeros": lambda text: text.lstrip("0"),
    "what stands around their digits": lambda text: re.sub(r"\D+", "", text.removesuffix(".0")).lstrip("0"),
}
_JOINERS = "\u200c\u200d"  # zero-width (non-)joiner: part of the spelling of Persian words and of emoji


class LogError(ArtlibError, ValueError):
    """A log that breaks its contract."""


def find(tables: dict[str, pa.Table], propensities: str = "logged") -> list[str]:
    """The first fault of each kind in the tables of a log.

    Args:
        tables: by file name (see `storage.SCHEMAS`), with the columns and types of the schemas.
        propensities: one of PROPENSITIES.

    Returns:
        One line a kind: file, row (counting from 0), column, value, remedy. Empty for a valid log.
    """
    if propensities not in PROPENSITIES:
        return [
            f"manifest.json, propensities: {propensities!r} is not one of {', '.join(PROPENSITIES)}; name what they are"
        ]
    faults = [fault for name, table in tables.items() for fault in _nulls(name, table, propensities)]
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


def one_line(text: str) -> str:
    """Text as models read it: on one line, without characters that nobody sees and that could pass for structure.

    Control characters and white space become single spaces. Characters of formatting (soft hyphens, byte-order marks,
    zero-width spaces, marks of direction) vanish: they show nothing, and a space in their place would cut a word in
    two. Joiners stay inside words and emoji, which are spelt with them.
    """
    kept = (_visible(char) for char in text)
    words = ("".join(kept)).split()
    return " ".join(word for word in (word.strip(_JOINERS) for word in words) if word)


def _visible(char: str) -> str:
    if char.isprintable() or char in _JOINERS:
        return char
    return "" if unicodedata.category(char) == "Cf" else " "


def _fault(name: str, column: str, bad: np.ndarray, values, wrong: str, remedy: str) -> Iterator[str]:
    yield from first_fault(f"{name}.parquet", column, bad, values, wrong, remedy)


def first_fault(file: str, column: str, bad: np.ndarray, values, wrong: str, remedy: str) -> Iterator[str]:
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
        yield f"{file} row {row}, column {column}: {text} {wrong}{more}; {remedy}"


def _nulls(name: str, table: pa.Table, propensities: str) -> Iterator[str]:
    if not len(table) and name != "histories":
        yield f"{name}.parquet has no rows; a log needs at least one"
    for field in table.schema:
        column = table[field.name]
        null, remedy = pc.is_null(column).to_numpy(), "give a value"
        if (name, field.name) == ("artworks", "caption"):
            yield from _uncaptioned(table, null, "is null")
            continue
        if field.name == "propensity":
            remedy += ', or leave all of them null and write "propensities": "none" into manifest.json'
            if propensities == "none":
                wrong = "is there, and manifest.json says that there are none"
                yield from _fault(name, field.name, ~null, column, wrong, 'write "propensities": "logged" into it')
                continue
        if (name, field.name) not in {("titles", "year"), ("artworks", "image")}:
            yield from _fault(name, field.name, null, column, "is null", remedy)
        yield from _fault(name, field.name, null_inside(column), column, "has a null in it", "give a value")


def null_inside(column: pa.ChunkedArray) -> np.ndarray:
    """(n,) True for lists with a null among their items; False for what is no list."""
    if not pa.types.is_list(column.type) or not pc.list_flatten(column).null_count:
        return np.zeros(len(column), dtype=bool)
    inside = pc.list_parent_indices(column).filter(pc.is_null(pc.list_flatten(column)))
    return np.isin(np.arange(len(column)), inside.to_numpy())


def _duplicates(name: str, column: str, table: pa.Table) -> Iterator[str]:
    bad = pd.Series(table[column].to_numpy()).duplicated().to_numpy()
    yield from _fault(name, column, bad, table[column], "is there twice", "make ids unique")


def _unknown(name: str, column: str, table: pa.Table, known: pa.ChunkedArray, file: str) -> Iterator[str]:
    bad = ~pc.is_in(table[column], known.combine_chunks()).to_numpy()
    remedy = "add it there or drop the row"
    if bad.any():
        remedy += spelt_otherwise(table[column].filter(pa.array(bad)), known)
    yield from _fault(name, column, bad, table[column], f"is not in {file}.parquet", remedy)


def spelt_otherwise(wanted: pa.ChunkedArray, known: pa.ChunkedArray) -> str:
    """A remark if most of the wanted ids would be among the known ones but for their spelling; else nothing."""
    wanted, known = (pc.unique(ids).slice(0, 100_000).to_pylist() for ids in (wanted, known))
    for difference, plain in SPELLINGS.items():
        there = {plain(text): text for text in known}
        both = [(text, there[plain(text)]) for text in wanted if plain(text) and plain(text) in there]
        if len(both) > len(wanted) / 2:
            ours, theirs = both[0]
            return f" (or spell ids alike: {ours!r} and {theirs!r} differ in {difference})"
    return ""


def _titles_and_artworks(titles: pa.Table, artworks: pa.Table) -> Iterator[str]:
    yield from _duplicates("titles", "title_id", titles)
    bad, wrong = _unreadable(titles["name"])
    yield from _fault("titles", "name", bad, titles["name"], wrong, "name the title")
    yield from _duplicates("artworks", "artwork_id", artworks)
    yield from _unknown("artworks", "title_id", artworks, titles["title_id"], "titles")
    yield from _uncaptioned(artworks, *_unreadable(artworks["caption"]))


def _uncaptioned(artworks: pa.Table, bad: np.ndarray, wrong: str) -> Iterator[str]:
    """Captions that are missing, of artworks with a picture and of others."""
    pictured = pc.is_valid(artworks["image"]).to_numpy()
    remedy = "describe the artwork in words"
    shown = f"{remedy}, or have its picture described: python -m artlib caption FOLDER"
    yield from _fault("artworks", "caption", bad & pictured, artworks["caption"], wrong, shown)
    yield from _fault("artworks", "caption", bad & ~pictured, artworks["caption"], wrong, remedy)


def _unreadable(column: pa.ChunkedArray) -> tuple[np.ndarray, str]:
    """Texts of which a model reads nothing, and what is wrong with the first."""
    texts = column.to_pylist()
    empty = np.array([not one_line(text) for text in texts], dtype=bool)
    blank = not empty.any() or not texts[int(np.argmax(empty))].strip()
    return empty, "is empty" if blank else "shows nothing to read"


def _histories(tables: dict[str, pa.Table]) -> Iterator[str]:
    histories, impressions = tables["histories"], tables["impressions"]
    yield from _unknown("histories", "title_id", histories, tables["titles"]["title_id"], "titles")
    weight = histories["weight"].to_numpy()
    yield from _fault(
        "histories",
        "weight",
        ~((weight >= 0) & (weight <= 1)),
        weight,
        "is outside [0, 1]",
        "scale the rating or watched fraction",
    )
    time = pc.cast(impressions["timestamp"], pa.int64()).to_numpy()
    last = pd.Series(time).groupby(impressions["user_id"].to_numpy()).max()
    last = last.reindex(histories["user_id"].to_numpy()).fillna(np.inf).to_numpy()
    bad = pc.cast(histories["timestamp"], pa.int64()).to_numpy() >= last
    yield from _fault(
        "histories",
        "timestamp",
        bad,
        histories["timestamp"],
        "is at or after the user's last impression, so it lies in the future of all of them",
        "keep only what came before",
    )
    there = known_users(tables)
    if len(histories) and not there.any():
        remedy = "spell the ids of both files alike" + spelt_otherwise(impressions["user_id"], histories["user_id"])
        wrong = (
            f"is, as every other user of the impressions, not in histories.parquet (its first is "
            f"{histories['user_id'][0].as_py()!r})"
        )
        yield from _fault("impressions", "user_id", ~there, impressions["user_id"], wrong, remedy)


def known_users(tables: dict[str, pa.Table]) -> np.ndarray:
    """(n,) True where the impression's user has watched anything, at whatever time."""
    users = tables["histories"]["user_id"].combine_chunks()
    return pc.is_in(tables["impressions"]["user_id"], users).to_numpy()


def _feedback(name: str, tables: dict[str, pa.Table]) -> Iterator[str]:
    table, artworks = tables[name], tables["artworks"]
    yield from _duplicates(name, "impression_id", table)
    yield from _unknown(name, "title_id", table, tables["titles"]["title_id"], "titles")
    yield from _candidates(name, table, artworks)
    lengths = pc.list_value_length(table["candidates"]).to_numpy()
    shown = table["shown"].to_numpy()
    yield from _fault(
        name,
        "shown",
        (shown < 0) | (shown >= lengths),
        shown,
        "is not an index into candidates",
        "count from 0 to the number of candidates less 1",
    )
    propensity = table["propensity"].to_numpy()
    outside = ~((propensity >= SMALLEST) & (propensity <= 1 + TOLERANCE + ROUNDING))
    outside &= pc.is_valid(table["propensity"]).to_numpy()  # of nulls, `_nulls` has judged
    yield from _fault(
        name,
        "propensity",
        outside,
        propensity,
        "is outside (0, 1], or too small to divide by",
        "log the probability with which the logging policy drew `shown`",
    )
    reward = table["reward"].to_numpy()
    yield from _fault(
        name,
        "reward",
        ~((reward >= 0) & (reward <= LARGEST)),
        reward,
        "is not a finite number of at least 0",
        "repair it, or add one constant to all rewards (post-training weighs plays by them)",
    )


def _earlier(tables: dict[str, pa.Table]) -> Iterator[str]:
    yield from _feedback("earlier", tables)
    earlier, impressions = tables["earlier"], tables["impressions"]
    first = pc.min(pc.cast(impressions["timestamp"], pa.int64())).as_py()
    late = pc.cast(earlier["timestamp"], pa.int64()).to_numpy() >= first
    yield from _fault(
        "earlier",
        "timestamp",
        late,
        earlier["timestamp"],
        "is not before the first impression of the log",
        "keep only what came before it",
    )


def _candidates(name: str, table: pa.Table, artworks: pa.Table) -> Iterator[str]:
    column = table["candidates"]
    lengths = pc.list_value_length(column).to_numpy()
    yield from _fault(name, "candidates", lengths == 0, column, "has no candidate", "drop the row")
    row = np.repeat(np.arange(len(table)), lengths)
    flat = pc.list_flatten(column)
    found = pc.fill_null(pc.index_in(flat, artworks["artwork_id"].combine_chunks()), -1).to_numpy()

    def any_in_row(bad_candidate: np.ndarray) -> np.ndarray:
        return np.bincount(row[bad_candidate], minlength=len(table)) > 0

    yield from _fault(
        name,
        "candidates",
        any_in_row(found < 0),
        column,
        "names an artwork not in artworks.parquet",
        "add it there or drop it",
    )
    titles = pd.unique(artworks["title_id"].to_numpy())
    owner = pd.Index(titles).get_indexer(artworks["title_id"].to_numpy())
    asked = pd.Index(titles).get_indexer(table["title_id"].to_numpy())[row]
    foreign = (found >= 0) & (owner[found] != asked) & (asked >= 0)
    yield from _fault(
        name,
        "candidates",
        any_in_row(foreign),
        column,
        "names an artwork of another title",
        "offer only the title's own",
    )
    offered = np.sort(pad(column, found, -1)[0], axis=1)
    twice = ((offered[:, 1:] == offered[:, :-1]) & (offered[:, 1:] >= 0)).any(axis=1)
    yield from _fault(name, "candidates", twice, column, "names an artwork twice", "make it a set")


def _production(impressions: pa.Table) -> Iterator[str]:
    column = impressions["production"]
    lengths = pc.list_value_length(column).to_numpy()
    yield from _fault(
        "impressions",
        "production",
        lengths != pc.list_value_length(impressions["candidates"]).to_numpy(),
        column,
        "is not as long as candidates",
        "give one probability a candidate",
    )
    row = np.repeat(np.arange(len(impressions)), lengths)
    flat = pc.list_flatten(column).to_numpy()
    outside = np.bincount(row[~((flat >= 0) & (flat <= 1 + TOLERANCE + ROUNDING))], minlength=len(impressions)) > 0
    yield from _fault(
        "impressions", "production", outside, column, "holds a value outside [0, 1]", "give probabilities"
    )
    off = np.abs(np.bincount(row, weights=flat, minlength=len(impressions)) - 1)
    off = off > np.clip(lengths * TOLERANCE / 2, TOLERANCE, MOST_OFF) + ROUNDING
    yield from _fault("impressions", "production", off & ~outside, column, "does not sum to 1", "normalise the row")


def _splits(impressions: pa.Table) -> Iterator[str]:
    split = impressions["split"].to_numpy()
    yield from _fault(
        "impressions",
        "split",
        ~pc.is_in(impressions["split"], pa.array(SPLITS)).to_numpy(),
        split,
        f"is not one of {', '.join(SPLITS)}",
        "name the split",
    )
    pair = pd.MultiIndex.from_arrays([impressions["user_id"].to_numpy(), impressions["title_id"].to_numpy()])
    for name, before in (("validation", "train"), ("test", "train"), ("test", "validation")):
        bad = (split == name) & pair.isin(pair[split == before])
        yield from _fault(
            "impressions",
            "split",
            bad,
            pair,
            f"(user, title) of a {name} impression is in {before} too",
            "keep all impressions of a user-title pair in one split",
        )


def _truth(tables: dict[str, pa.Table]) -> Iterator[str]:
    truth, impressions = tables["truth"], tables["impressions"]
    yield from _duplicates("truth", "impression_id", truth)
    yield from _unknown("truth", "impression_id", truth, impressions["impression_id"], "impressions")
    order = pc.index_in(impressions["impression_id"], truth["impression_id"].combine_chunks())
    missing = pc.is_null(order).to_numpy()
    yield from _fault(
        "impressions",
        "impression_id",
        missing,
        impressions["impression_id"],
        "is not in truth.parquet",
        "give its expected rewards, or delete truth.parquet",
    )
    if missing.any():
        return
    values = truth["expected_reward"]
    order = pc.index_in(truth["impression_id"], impressions["impression_id"].combine_chunks())
    offered = impressions["candidates"].take(order)
    lengths = pc.list_value_length(values).to_numpy()
    bad = lengths != pc.list_value_length(offered).to_numpy(zero_copy_only=False)
    yield from _fault(
        "truth",
        "expected_reward",
        bad,
        values,
        "is not as long as the impression's candidates",
        "give one value a candidate",
    )
    flat = pc.list_flatten(values).to_numpy()
    row = np.repeat(np.arange(len(truth)), lengths)
    bad = np.bincount(row[~((flat >= 0) & np.isfinite(flat))], minlength=len(truth)) > 0
    yield from _fault(
        "truth", "expected_reward", bad, values, "holds a value that is not a finite number of at least 0", "repair it"
    )
