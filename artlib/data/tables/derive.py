"""Columns as the contract wants them, from columns as they come: ids, times, numbers, lists, splits.

Each takes a `Source` and the name of one of our columns. It says in the source's report what it did, and what is wrong
there, and goes on, so that all faults are told at once; what it returns is of use only where there were none.
"""

import ast
import json
import re
import uuid

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from artlib.data.contract import SPLITS
from artlib.data.tables.sources import Source

TIME = pa.timestamp("us", tz="UTC")
UNITS = {"s": 1_000_000, "ms": 1000, "us": 1, "ns": 1}  # microseconds; ns are divided
# A number of this size or more is not of this unit: it would be a time after the year 5138.
MAGNITUDES = {"s": 1e11, "ms": 1e14, "us": 1e17, "ns": np.inf}
EARLIEST = pd.Timestamp("1990-01-01", tz="UTC")  # the latest is a year from now
EARLIEST_IN = {unit: int(EARLIEST.timestamp() * 1e6 * (1000 if unit == "ns" else 1)) // UNITS[unit] for unit in UNITS}
_ZONE = r"(?:[Zz]|[+-]\d{2}:?\d{2}|:\d{2}(?:\.\d+)?[+-]\d{2})$"  # of hours only after a time, as PostgreSQL writes it
_UUID = r"\{?[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}\}?"
_NOTHING = ("", "nan", "none", "null", "na", "\\n")  # in columns of numbers
_SYNONYMS = {"training": "train", "val": "validation", "valid": "validation", "dev": "validation", "testing": "test"}


def ids(source: Source, ours: str, values: pa.ChunkedArray | None = None) -> pa.ChunkedArray:
    """(n,) ids as text, spelt alike whatever their type was: 12, 12.0 and "12.0" are "12", UUIDs are in small letters.

    Args:
        values: where they are not a column of the source, but the flattened lists of one.
    """
    column = source.need(ours) if values is None else values
    if column is None:
        return pa.chunked_array([pa.nulls(len(source), pa.string())])
    kind = column.type
    if pa.types.is_integer(kind):
        return column.cast(pa.string())
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        numbers_ = column.cast(pa.float64(), safe=False).to_numpy()
        broken = ~np.isnan(numbers_) & ((numbers_ != np.round(numbers_)) | (np.abs(numbers_) > 2**53))
        source.fault(ours, broken, numbers_, "is not a whole number, so not an id", "store ids as text or integers")
        whole = pa.array(np.where(broken, np.nan, numbers_), from_pandas=True).cast(pa.int64())
        return pa.chunked_array([whole.cast(pa.string())])
    if pa.types.is_fixed_size_binary(kind) and kind.byte_width == 16:
        return pa.chunked_array([pa.array([v and str(uuid.UUID(bytes=v)) for v in column.to_pylist()], pa.string())])
    if not pa.types.is_string(kind):
        source.report.faults.append(
            f"{source.label}, column {source.theirs(ours)}: type {kind}; ids are text, whole numbers or UUIDs"
        )
        return pa.chunked_array([pa.nulls(len(column), pa.string())])
    column = pc.utf8_trim_whitespace(column)
    column = pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
    # One by one: beside the same ids, one table may have others that another lacks.
    column = pc.replace_substring_regex(column, r"^(-?\d+)\.0+$", r"\1")
    looks = pc.fill_null(pc.match_substring_regex(column, f"^(?:{_UUID})$"), False)
    if not pc.any(looks).as_py():
        return column
    spelt = [
        str(uuid.UUID(v)) if is_one else v for v, is_one in zip(column.to_pylist(), looks.to_pylist(), strict=True)
    ]
    return pa.chunked_array([pa.array(spelt, pa.string())])


def all_match(column: pa.ChunkedArray, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(column, f"^(?:{pattern})$")).as_py()) and column.null_count < len(
        column
    )


def texts(source: Source, ours: str, column: pa.ChunkedArray | None) -> pa.ChunkedArray:
    """(n,) text; empty where there is none."""
    if column is None:
        return pa.chunked_array([pa.array([""] * len(source), pa.string())])
    try:
        return pc.fill_null(column.cast(pa.string()), "")
    except pa.ArrowException:
        source.report.faults.append(f"{source.label}, column {source.theirs(ours)}: type {column.type}; give text")
        return texts(source, ours, None)


def numbers(source: Source, ours: str, column: pa.ChunkedArray) -> np.ndarray:
    """(n,) float64; NaN where there is none."""
    if pa.types.is_string(column.type):
        text = pd.Series(column.to_numpy()).astype(object)
        lower = text.str.strip().str.lower().replace({"true": "1", "false": "0"})
        found = pd.to_numeric(lower, errors="coerce").to_numpy(dtype=float, na_value=np.nan)
        bad = np.isnan(found) & ~(lower.isna() | lower.isin(_NOTHING)).to_numpy()
    elif is_number(column.type):
        column = column.cast(pa.int8()) if pa.types.is_boolean(column.type) else column
        found = column.cast(pa.float64(), safe=False).to_numpy()
        bad = np.zeros(len(found), bool)
    else:
        found, bad = np.full(len(column), np.nan), np.ones(len(column), bool)
    source.fault(ours, bad, column, "is not a number", "repair it, or leave it empty")
    return found


def is_empty(column: pa.ChunkedArray) -> bool:
    """Whether nothing is in any of its rows, of which there are some."""
    if pa.types.is_string(column.type):
        return all(text is None or text.strip().lower() in _NOTHING for text in pc.unique(column).to_pylist())
    if pa.types.is_floating(column.type):
        return bool(pc.all(pc.is_null(column, nan_is_null=True)).as_py())
    return column.null_count == len(column)


def is_number(kind: pa.DataType) -> bool:
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean)
    return any(test(kind) for test in tests)


def whole(source: Source, ours: str, column: pa.ChunkedArray, remedy: str) -> pa.Array:
    """(n,) int32; null where there is none."""
    found = numbers(source, ours, column)
    bad = ~np.isnan(found) & ((found != np.round(found)) | (np.abs(found) > 2**31 - 1))
    source.fault(ours, bad, found, "is not a whole number", remedy)
    return pa.array(np.where(bad, np.nan, found), from_pandas=True).cast(pa.int32())


def timestamps(source: Source, ours: str = "timestamp") -> pa.Array:
    """(n,) times in UTC, from times of any zone, numbers since 1970 of any unit, or text."""
    found = _timestamps(source, ours)
    if (column := source.get(ours)) is not None:
        at = found.cast(pa.int64()).to_numpy(zero_copy_only=False)  # NaN where null
        _incredible(source, ours, column, at.astype(float), "repair it, or leave the row out")
    return found


def _incredible(source: Source, ours: str, column, at: np.ndarray, remedy: str) -> np.ndarray:
    """(n,) True, and a fault, where a time in microseconds since 1970 is too old for a log, or to come."""
    last = pd.Timestamp.now("UTC") + pd.DateOffset(years=1)
    bad = (at < EARLIEST.timestamp() * 1e6) | (at > last.timestamp() * 1e6)
    if bad.any():
        first = at[int(np.argmax(bad))] / 1e6
        what = f"the year {1970 + first / 31_556_952:.0f}"
        if abs(first) < 253_402_300_800:  # of four digits
            what = str(np.datetime64(int(first), "s")).replace("T", " ")
        wrong = f"would be {what}, which is not between {EARLIEST:%Y-%m-%d} and a year from now"
        source.fault(ours, bad, column, wrong, remedy)
    return bad


def _timestamps(source: Source, ours: str) -> pa.Array:
    """The same, however old they are."""
    column = source.need(ours)
    if column is None:
        return pa.nulls(len(source), TIME)
    kind = column.type
    if pa.types.is_timestamp(kind) and kind.tz:
        return column.cast(TIME, safe=False).combine_chunks()
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        local = column.cast(pa.timestamp("us"), safe=False)
        there = pc.is_valid(local).to_numpy()
        return _arrow(_in_zone(source, ours, pd.DatetimeIndex(local.to_numpy()), there, local))
    if is_number(kind):
        return _since_1970(source, ours, column)
    if not pa.types.is_string(kind):
        source.report.faults.append(f"{source.label}, column {source.theirs(ours)}: type {kind} is no time")
        return pa.nulls(len(source), TIME)
    column = pc.utf8_trim_whitespace(column)
    if source.options["time_format"] is None and all_match(column, r"\d+(?:\.\d*)?(?:[eE]\+?\d+)?"):
        return _since_1970(source, ours, column)
    return _parsed(source, ours, column)


def _arrow(times: pd.DatetimeIndex) -> pa.Array:
    return pa.array(times.as_unit("us")).cast(TIME)


def _since_1970(source: Source, ours: str, column: pa.ChunkedArray) -> pa.Array:
    """Numbers since 1970: of the unit that was said, else of that in which they are times of this age."""
    try:
        found = column.cast(pa.int64())
    except pa.ArrowException:
        found = column.cast(pa.float64(), safe=False)
    null = pc.is_null(found).to_numpy()
    if null.all():
        return pa.nulls(len(found), TIME)
    usual = np.median(found.drop_null().to_numpy())
    values = pc.fill_null(found, int(usual)).to_numpy()
    unit = source.options["unit"]
    remedy = "repair it, or say the unit (unit: s, ms, us or ns), or time_format"
    if unit is None:
        unit = next(name for name, limit in MAGNITUDES.items() if usual < limit)
        source.derived(ours, f"{unit} since 1970, by their size")
    else:
        likely = next(name for name, limit in MAGNITUDES.items() if usual < limit)
        remedy = f"are these {likely}? (unit: {likely})" if likely != unit else "repair it"
    at = values.astype(float) * UNITS[unit] / (1000 if unit == "ns" else 1)
    values = np.where(_incredible(source, ours, column, np.where(null, np.nan, at), remedy), EARLIEST_IN[unit], values)
    scaled = values // 1000 if unit == "ns" else np.round(values * UNITS[unit])
    return pa.array(scaled.astype(np.int64), mask=null).cast(pa.timestamp("us")).cast(TIME)


def _parsed(source: Source, ours: str, column: pa.ChunkedArray) -> pa.Array:
    """Text: ISO 8601, or as `time_format` says."""
    code, text = pd.factorize(column.to_numpy())
    text = pd.Series(text, dtype=object).str.replace(r"\s*(?:UTC|GMT)$", "Z", regex=True)
    form = source.options["time_format"] or "ISO8601"
    aware = text.str.contains(_ZONE) if form == "ISO8601" else pd.Series("%z" in form, index=text.index)
    times = pd.Series(pd.NaT, index=text.index, dtype="datetime64[us, UTC]")
    local = pd.to_datetime(text[~aware], format=form, errors="coerce")
    times[aware] = pd.to_datetime(text[aware], format=form, errors="coerce", utc=True).dt.as_unit("us")
    unread = np.append(times.isna().to_numpy(), False)
    if len(local):
        unread[np.flatnonzero(~aware)] = local.isna().to_numpy()
        readable = ~unread[:-1] & ~aware.to_numpy(dtype=bool)
        without = np.append(readable, False)[code]
        times[~aware] = _in_zone(source, ours, pd.DatetimeIndex(local), without, column).as_unit("us")
    remedy = "give ISO text (2026-01-31T20:15:00+01:00), a number since 1970, or say time_format (%d.%m.%Y %H:%M)"
    source.fault(ours, unread[code], column, f"cannot be read as {form}", remedy)
    whole_ = pd.DatetimeIndex(times.reindex(code))  # code -1, of nulls, is no label: NaT
    return _arrow(whole_)


def _in_zone(source: Source, ours: str, local: pd.DatetimeIndex, rows: np.ndarray, column) -> pd.DatetimeIndex:
    """Local times in UTC, by the zone that was said; they are those of the True `rows` of the column."""
    zone = source.options["timezone"]
    if zone is None:
        remedy = "say of which (timezone: Europe/Berlin, or UTC)"
        source.fault(ours, rows, column, "has no time zone", remedy)
        return local.tz_localize("UTC")
    strict = local.tz_localize(zone, ambiguous="NaT", nonexistent="NaT")
    odd = int((strict.isna() & ~local.isna()).sum())
    said = f"; {odd:,} fall where clocks change: taken as summer time" if odd else ""
    source.derived(ours, f"local time of {zone}{said}")
    everyone = np.ones(len(local), dtype=bool)
    return local.tz_localize(zone, ambiguous=everyone, nonexistent="shift_forward").tz_convert("UTC")


def lists(source: Source, ours: str, column: pa.ChunkedArray, of: type = str) -> pa.ListArray:
    """(n,) lists of ids or texts (`of` str) or of numbers (float), from lists, JSON, or text with a separator."""
    kind = pa.list_(pa.string() if of is str else pa.float64())
    if not pa.types.is_list(column.type):
        if not pa.types.is_string(column.type):
            column = column.cast(pa.string())
        column = _split(source, ours, column, of, kind)
    inner = column.type.value_type
    spelt = not (is_number(inner) or pa.types.is_fixed_size_binary(inner))  # else it is for `ids` to say what they are
    column = column.cast(kind) if of is float or spelt or ours == "genres" else column
    if of is float or not len(column) or ours == "genres":
        return column.combine_chunks()
    column = column.combine_chunks()
    flat = ids(source, ours, pa.chunked_array([column.flatten()])).combine_chunks()
    return pa.ListArray.from_arrays(_offsets(column), flat, mask=pc.is_null(column) if column.null_count else None)


def _offsets(column: pa.ListArray) -> pa.Array:
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))


def _split(source: Source, ours: str, column: pa.ChunkedArray, of: type, kind: pa.DataType) -> pa.ChunkedArray:
    separator = source.options["separator"]
    code, text = pd.factorize(column.to_numpy())
    found = [_items(value, separator, of) for value in text]
    if ours == "genres":  # "Drama|" has one
        found = [items and [item for item in items if item] for items in found]
    bad = np.array([items is None for items in found] + [False])
    what = "numbers" if of is float else "texts"
    remedy = f"give JSON ([1, 2]), or {what} with {separator!r} between them (or say separator)"
    source.fault(ours, bad[code], column, f"is no list of {what}", remedy)
    if of is str:
        _suspect_separator(source, ours, code, text)
    forms = {"JSON" if value.lstrip().startswith("[") else f"text split at {separator!r}" for value in text}
    if forms:
        source.derived(ours, " or ".join(sorted(forms)))
    values = pa.array([items or [] for items in found] + [None], kind)
    return pa.chunked_array([values.take(pa.array(np.where(code < 0, len(found), code)))])


def _suspect_separator(source: Source, ours: str, code: np.ndarray, text: np.ndarray) -> None:
    """Where no list has the separator in it, and most have another: a fault, or a word on genres, which may have it."""
    separator = source.options["separator"]
    plain = np.array([not value.lstrip().startswith("[") for value in text] + [False])[code]
    if any(separator in value for value in text if not value.lstrip().startswith("[")):
        return
    for other in (";", ",", "|"):
        has = plain & np.array([other in value for value in text] + [False])[code]
        if other != separator and has.sum() >= max(plain.sum() / 2, 1):
            remedy = f"if that stands between items, say so (separator: {{{source.name}: {other!r}}})"
            wrong = f"has no {separator!r}, as all others, but {other!r}"
            if ours == "genres":
                source.missing(ours, f"{text[code[int(np.argmax(has))]]!r} {wrong}: taken as one; {remedy}")
            else:
                source.fault(ours, has, text[code], wrong, remedy + ", else give JSON")
            return


def _items(text: str, separator: str, of: type) -> list | None:
    """The items of a list in text; None if it is none."""
    text = text.strip()
    try:
        if text.startswith("["):
            items = _literal(text)
            if not isinstance(items, list) or any(isinstance(item, (list, dict, type(None))) for item in items):
                return None
        else:
            items = [item.strip() for item in text.split(separator)] if text else []
        return [float(item) if of is float else _spelt(item) for item in items]
    except (ValueError, SyntaxError):
        return None


def _literal(text: str):
    try:
        return json.loads(text)
    except ValueError:
        return ast.literal_eval(text)  # ['a', 'b'], as Python and pandas write lists into CSV


def _spelt(item) -> str:
    return str(int(item)) if isinstance(item, float) and item.is_integer() else str(item)


def named_splits(source: Source, column: pa.ChunkedArray) -> pa.Array:
    """(n,) the splits that a log has, by their usual other names, too."""
    names = [None if name is None else str(name).strip().lower() for name in column.to_pylist()]
    return pa.array([_SYNONYMS.get(name, name) for name in names], pa.string())


def splits(pairs: pd.DataFrame, time: np.ndarray, shares: list[float], by: str) -> tuple[np.ndarray, np.ndarray]:
    """Which split each impression is of.

    Args:
        pairs: n rows of user_id and title_id.
        time: (n,) of the impressions.
        shares: of train, validation and test.
        by: "time", the earliest impressions train; or "pair", at random by user and title.

    Returns:
        (n,) splits, and (n,) True for the impressions to keep. By time, a pair is of the first split in which it
        comes, and its later impressions are left out: in that split they would be of its future.
    """
    cuts = np.cumsum(shares)[:-1] / np.sum(shares)
    if by == "pair":
        spot = pd.util.hash_pandas_object(pairs, index=False).to_numpy() / 2.0**64
        return np.array(SPLITS)[np.searchsorted(cuts, spot, side="right")], np.ones(len(pairs), bool)
    order = np.sort(time)
    edges = order[np.minimum((cuts * len(order)).astype(int), len(order) - 1)] if len(order) else order
    if len(order):
        edges = np.where(cuts >= 1, np.iinfo(np.int64).max, edges)  # a share of 0 at the end is of nothing
    split = np.searchsorted(edges, time, side="right")  # those of one time stay together
    first = pd.Series(split).groupby([pairs["user_id"].to_numpy(), pairs["title_id"].to_numpy()]).transform("min")
    return np.array(SPLITS)[split], split == first.to_numpy()


def index_of(source: Source, ours: str, candidates: pa.ListArray) -> np.ndarray:
    """(n,) where in its candidates the artwork stands that the column names; -1 and a fault where it does not."""
    named = ids(source, ours)
    lengths = pc.list_value_length(candidates).fill_null(0).to_numpy()
    row = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    hit = candidates.flatten().to_numpy(zero_copy_only=False) == named.to_numpy()[row]
    found = np.full(len(lengths), -1, dtype=np.int64)
    found[row[hit][::-1]] = place[hit][::-1]
    remedy = "add it to them, or drop the row"
    source.fault(ours, found < 0, named, "is none of the impression's candidates", remedy)
    return found


def credited(impressions: pd.DataFrame, plays: pd.DataFrame, window: pd.Timedelta) -> tuple[np.ndarray, np.ndarray]:
    """(n,) what came of each impression within the window: each play counts for the last impression before it of the
    same member and title. And (plays,) True for those that count for any.

    Args:
        impressions: n rows of user_id, title_id and timestamp.
        plays: the same, and value.
    """
    keys = ["user_id", "title_id"]
    left = plays.reset_index(drop=True).reset_index(names="play").sort_values("timestamp", kind="stable")
    right = impressions.assign(row=np.arange(len(impressions))).sort_values("timestamp", kind="stable")
    joined = pd.merge_asof(left, right, on="timestamp", by=keys, tolerance=window)
    joined = joined[joined["row"].notna()]
    found = np.zeros(len(plays), dtype=bool)
    found[joined["play"].to_numpy()] = True
    return np.bincount(joined["row"].astype(int), joined["value"], minlength=len(impressions)), found


def length_of_time(window: str | float | None) -> pd.Timedelta | None:
    """A length of time, from text as "24h"; None if it is none."""
    if isinstance(window, (int, float)) or (isinstance(window, str) and re.fullmatch(r"[\d.\s]+", window)):
        return None
    try:
        found = pd.Timedelta(window)
    except (ValueError, TypeError):
        return None
    return found if not pd.isna(found) and found > pd.Timedelta(0) else None
