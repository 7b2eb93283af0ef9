"""A log from somebody's own tables, of whatever library: what the contract asks for and they lack, is derived."""

import dataclasses
import difflib
import os
import re
import shlex
import zoneinfo
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from artlib.data import contract, pictures
from artlib.data.columns import replaced, unpad
from artlib.data.contract import LogError
from artlib.data.log import Log
from artlib.data.storage import SCHEMAS
from artlib.data.tables import derive, kept, logged, propensities
from artlib.data.tables.sources import Report, Source, arrow

TABLES = ("titles", "artworks", "histories", "impressions", "plays")
# Columns that the tables may have besides those of the log.
ALSO = {
    "impressions": ("shown_artwork", "greedy", "greedy_artwork"),
    "plays": ("user_id", "title_id", "timestamp", "reward"),
}
BY_TABLE = ("timezone", "unit", "time_format", "separator")
STRANGERS = 0.2  # of the rows of histories may be of users without an impression before a word is said
OPTIONS: dict[str, Any] = {
    "timezone": None,
    "unit": None,
    "time_format": None,
    "separator": "|",
    "window": None,
    "shares": [80, 10, 10],
    "split_by": "time",
    "logging": None,
    "epsilon": None,
    "propensities": None,
    "weight_max": None,
    "manifest": {},
}


def from_frames(
    titles: Any = None,
    artworks: Any = None,
    impressions: Any = None,
    histories: Any = None,
    plays: Any = None,
    *,
    columns: dict | None = None,
    folder: str | os.PathLike | None = None,
    labels: dict[str, str] | None = None,
    report: Callable[[Report], None] = print,
    out: str | os.PathLike | None = None,
    **options: Any,
) -> Log:
    """A valid log from one's own tables; but artworks with an image and no caption are left to `artlib caption`.

    Args:
        titles, artworks, impressions, histories: pandas or Polars frames, DuckDB relations, pyarrow tables or datasets,
            or anything with `__arrow_c_stream__`. Columns as in `SCHEMAS`; many can be derived, see docs/your_log.md.
            Impressions may have `shown_artwork`, the shown artwork's id, instead of `shown`.
        plays: where the impressions have no reward: user_id, title_id, timestamp and, if a play is worth other than 1,
            reward. Each counts for the last impression of the member and title in the `window` before it.
        columns: our names -> yours, {"user_id": "uid"}, or those of one table, {"histories": {"weight": "stars"}}.
        folder: to which paths of pictures are relative.
        labels: what messages call the tables; by default their names here.
        report: told what was derived and what is missing.
        out: where the log will be saved, if that is known, for the commands that the report names.
        timezone: of times without one; unit: of numbers (s, ms, us, ns since 1970), by default by their size;
            time_format: of text, by default ISO 8601; separator: between the items of a list in text. Each a value, or
            a dictionary by table.
        window: a length of time, as "24h".
        shares: of train, validation and test where there is no column split; split_by: "time", or "pair", at random by
            user and title.
        logging: how what was shown was chosen: "uniform"; "epsilon-greedy", with `epsilon` and a column `greedy` (index
            of what chance did not choose) or `greedy_artwork` (its id); "production", by that column's probabilities.
        propensities: "estimate" to estimate them from what was shown, where there are none; "none" is the default.
        weight_max: by which weights of histories are divided; by default the largest, where it is above 1.
        manifest: what else the manifest is to say, as {"reward": "minutes watched", "licence": "..."}.

    Returns:
        The log; what `report` was told stands in its manifest under "import". Its `propensities` are "none" where
        nobody knows them.

    Raises:
        LogError: something is neither there nor to be derived; all of it, a line each, with table, row, column, value
            and remedy. Or the log breaks the contract; likewise.
    """
    if columns is not None and not isinstance(columns, dict):
        raise LogError(f"columns is {columns!r}; give our names and yours, as user_id: uid")
    told = Report()
    given = dict(titles=titles, artworks=artworks, histories=histories, impressions=impressions, plays=plays)
    sources = _sources(given, columns or {}, labels or {}, _options(options), told)
    told.refuse()
    tables = {"titles": _titles(sources["titles"]), "artworks": _artworks(sources["artworks"])}
    made = logged.impressions(sources["impressions"], tables["artworks"], sources.get("plays"))
    told.refuse()
    tables["impressions"] = _table("impressions", made.columns)
    tables["histories"], rows = _histories(sources.get("histories"), tables["impressions"], told)
    told.refuse()
    chosen = sources["impressions"].options
    manifest = {"world": "own", **chosen["manifest"], "propensities": made.propensities}
    log = Log(manifest=manifest | {"production_is": made.production_is}, folder=_folder(folder), **tables)
    _say_uncaptioned(sources["artworks"], log.artworks, _folder(out))
    checked = log.tables() | {"artworks": _as_if_captioned(log.artworks)}
    faults = contract.find(checked, log.propensities) + pictures.faults(log.artworks, log.folder)
    told.faults += [_in_their_words(fault, sources, {"impressions": made.rows, "histories": rows}) for fault in faults]
    told.refuse()
    if chosen["propensities"] == "estimate":
        log = _estimated(log, made, sources["impressions"])
    log = dataclasses.replace(log, **{name: part.cast(_schema(name, part)) for name, part in log.tables().items()})
    told.counts = {name: len(part) for name, part in log.tables().items()}
    split = log.impressions["split"].to_numpy()
    told.counts |= {name: int((split == name).sum()) for name in contract.SPLITS}
    log.manifest["import"] = dataclasses.asdict(told)
    report(told)
    return log


def _folder(folder: str | os.PathLike | None) -> Path | None:
    return None if folder is None else Path(folder)


def _options(given: dict[str, Any]) -> dict[str, Any]:
    """All options, checked."""
    for name in given:
        if name not in OPTIONS:
            near = difflib.get_close_matches(name, OPTIONS, n=1)
            hint = f", did you mean {near[0]}?" if near else ""
            raise LogError(f"option {name!r} is not one of {', '.join(OPTIONS)}{hint}")
    options = OPTIONS | given
    allowed = {"logging": logged.LOGGING, "split_by": ("time", "pair"), "propensities": ("estimate", "none")}
    for name, values in allowed.items():
        if options[name] not in (*values, OPTIONS[name]):
            raise LogError(f"{name} is {options[name]!r}; it must be one of {', '.join(values)}")
    units = options["unit"] if isinstance(options["unit"], dict) else {"": options["unit"]}
    for unit in units.values():
        if unit not in (*derive.UNITS, None):
            raise LogError(f"unit is {unit!r}; it must be one of {', '.join(derive.UNITS)}")
    zones = options["timezone"] if isinstance(options["timezone"], dict) else {"": options["timezone"]}
    for zone in zones.values():
        if zone is not None and not _is_zone(zone):
            raise LogError(f"timezone: {zone!r} is not known; give a name as Europe/Berlin, or UTC")
    if not isinstance(options["manifest"], dict):
        raise LogError(f"manifest is {options['manifest']!r}; give names and values, as reward: minutes watched")
    for name, fine, wanted in (
        ("separator", lambda value: isinstance(value, str) and value, "a text that stands between items, as |"),
        ("time_format", lambda value: value is None or isinstance(value, str), "a form as %d.%m.%Y %H:%M"),
        ("weight_max", lambda value: value is None or (_is_number(value) and value > 0), "the largest weight, above 0"),
    ):
        by_table = options[name].values() if isinstance(options[name], dict) and name in BY_TABLE else [options[name]]
        for value in by_table:
            if not fine(value):
                raise LogError(f"{name} is {value!r}; give {wanted}")
    shares = options["shares"]
    numbers = isinstance(shares, (list, tuple)) and all(map(_is_number, shares))
    if not (numbers and np.shape(shares) == (3,) and np.min(shares) >= 0 and np.sum(shares) > 0):
        raise LogError(f"shares is {shares!r}; it must be three numbers, of train, validation and test: [80, 10, 10]")
    if options["window"] is not None and derive.length_of_time(options["window"]) is None:
        raise LogError(f"window is {options['window']!r}; give a length of time with its unit, as 24h or 30min")
    epsilon = options["epsilon"]
    if options["logging"] == "epsilon-greedy" and not (isinstance(epsilon, (int, float)) and 0 < epsilon <= 1):
        raise LogError(
            f"epsilon is {epsilon!r}; epsilon-greedy needs its probability of exploring, above 0 and at most 1"
        )
    return options


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_zone(name: Any) -> bool:
    try:
        return isinstance(name, str) and bool(zoneinfo.ZoneInfo(name))
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):  # OSError: a folder of zones, as Europe
        return False


def _sources(given: dict[str, Any], columns: dict, labels: dict[str, str], options: dict, told: Report) -> dict:
    """The tables that were given, by name, with their columns' names."""
    known = {name: (*SCHEMAS.get(name, pa.schema([])).names, *ALSO.get(name, ())) for name in TABLES}
    sources = {}
    for name, frame in given.items():
        if frame is None:
            if name not in ("histories", "plays"):
                told.faults.append(f"{labels.get(name, name)} is missing; a log needs titles, artworks and impressions")
            continue
        own = {ours: theirs for ours, theirs in columns.items() if ours in known[name] and isinstance(theirs, str)}
        within = columns.get(name) or {}
        if not isinstance(within, dict):
            raise LogError(f"columns: {name} is {within!r}; give {name}: {{our name: yours}}")
        label = labels.get(name, name)
        for ours in within:
            if ours not in known[name]:
                near = difflib.get_close_matches(str(ours), known[name], n=1)
                hint = f", did you mean {near[0]}?" if near else ""
                told.faults.append(f"columns: {name} has no {ours!r}; ours are {', '.join(known[name])}{hint}")
        table_ = arrow(label, frame)
        if not len(table_) and name != "histories":
            told.faults.append(f"{label} has no rows")
        own = {ours: theirs for ours, theirs in own.items() if theirs in table_.column_names} | within
        for ours, theirs in within.items():
            if theirs not in table_.column_names:
                there = ", ".join(table_.column_names)
                told.faults.append(f"{label}: no column {theirs!r}, which columns names for {ours}; there are {there}")
        mine = {
            key: value.get(name, OPTIONS[key]) if isinstance(value, dict) and key in BY_TABLE else value
            for key, value in options.items()
        }
        sources[name] = Source(name, label, table_, own, mine, told)
    every = {ours for names in known.values() for ours in names}
    for ours, theirs in columns.items():
        if isinstance(theirs, str) and not any(theirs in source.table.column_names for source in sources.values()):
            told.faults.append(f"columns: no table has a column {theirs!r}, named for {ours}")
        if ours not in every and ours not in TABLES:
            near = difflib.get_close_matches(ours, (*every, *TABLES), n=1)
            hint = f", did you mean {near[0]}?" if near else ""
            told.faults.append(f"columns: {ours!r} is neither a table nor a column of ours{hint}")
    return sources


def _table(name: str, columns: dict[str, Any]) -> pa.Table:
    """One of the log's tables, in which there may be nulls: the contract names their rows."""
    schema = SCHEMAS[name]
    made = pa.table({field.name: columns[field.name] for field in schema})
    return made.cast(pa.schema([field.with_nullable(True) for field in schema]))


def _schema(name: str, part: pa.Table) -> pa.Schema:
    """The log's, in which captions may be null where some are still to be had."""
    schema = SCHEMAS[name]
    if name == "artworks" and part["caption"].null_count:
        place = schema.get_field_index("caption")
        schema = schema.set(place, schema.field(place).with_nullable(True))
    return schema


def _titles(source: Source) -> pa.Table:
    year, genres, synopsis = source.get("year"), source.get("genres"), source.get("synopsis")
    if year is None:
        source.missing("year", "null; models then read none")
        year = pa.chunked_array([pa.nulls(len(source), pa.float64())])
    if synopsis is None:
        source.missing("synopsis", "empty; models then know of a title what its name and genres say")
    if genres is None:
        source.missing("genres", "empty; the default prompt tells members apart by them: give a list, or text with |")
        genres = pa.chunked_array([pa.array([[]] * len(source), pa.list_(pa.string()))])
    listed = derive.lists(source, "genres", genres)
    return _table(
        "titles",
        {
            "title_id": derive.ids(source, "title_id"),
            "name": derive.texts(source, "name", source.need("name")),
            "year": derive.whole(source, "year", year, "give a year, or leave it empty"),
            "genres": pc.if_else(pc.is_null(listed), pa.scalar([], listed.type), listed),
            "synopsis": derive.texts(source, "synopsis", synopsis),
        },
    )


def _artworks(source: Source) -> pa.Table:
    """The artworks; where there is an image and nothing to read, the caption is null."""
    image = pc.utf8_trim_whitespace(derive.texts(source, "image", source.get("image")))
    pictured = pc.not_equal(image, "")
    caption = source.get("caption") if pc.any(pictured).as_py() else source.need("caption")
    caption = derive.texts(source, "caption", caption)
    unread = pa.array([not contract.one_line(text) for text in caption.to_pylist()], pa.bool_())
    nothing = pa.scalar(None, pa.string())
    return _table(
        "artworks",
        {
            "artwork_id": derive.ids(source, "artwork_id"),
            "title_id": derive.ids(source, "title_id"),
            "caption": pc.if_else(pc.and_(pictured, unread), nothing, caption),
            "image": pc.if_else(pictured, image, nothing),
        },
    )


def _as_if_captioned(artworks: pa.Table) -> pa.Table:
    return replaced(artworks, {"caption": pc.fill_null(artworks["caption"], "a picture")})


def _say_uncaptioned(source: Source, artworks: pa.Table, out: Path | None) -> None:
    """What to do about artworks that have an image and no caption, and what is there for it."""
    answers = "" if out is None or not kept.there(out) else f"{out / kept.ANSWERS} stays"
    if lacking := artworks["caption"].null_count:
        command = f"python -m artlib caption {'FOLDER' if out is None else shlex.quote(str(out))} --captioner ..."
        known = answers and f"; {answers}: what it answers is filled in from it without asking again"
        first = artworks["artwork_id"].filter(pc.is_null(artworks["caption"]))[0].as_py()
        source.missing(
            "caption",
            f"{lacking:,} of {len(artworks):,} artworks have an image and no caption (first: {first!r}), so the log is "
            f"refused until they have: {command}{known}",
        )
    elif answers:
        source.derived("caption", f"all are given; {answers}, for captions that may be missing later")


def _histories(source: Source | None, impressions: pa.Table, told: Report) -> tuple[pa.Table, np.ndarray]:
    """The histories, and which rows of theirs they are. What came after a member's last impression is left out: no
    impression may know it."""
    if source is None:
        told.missing.append("histories: none given, so policies know nothing of members; give what they watched before")
        return SCHEMAS["histories"].empty_table(), np.arange(0)
    made = {name: derive.ids(source, name) for name in ("user_id", "title_id")}
    made |= {"timestamp": derive.timestamps(source), "weight": pa.array(_weights(source), from_pandas=True)}
    built = _table("histories", made)
    _say_strangers(source, built["user_id"], impressions["user_id"])
    time = pd.Series(built["timestamp"].cast(pa.int64()).to_numpy(zero_copy_only=False))
    asked = pd.Series(impressions["timestamp"].cast(pa.int64()).to_numpy(zero_copy_only=False))
    last = asked.groupby(impressions["user_id"].to_numpy()).max()
    late = (time >= pd.Series(built["user_id"].to_numpy()).map(last)).to_numpy(dtype=bool)
    if late.any():
        what = "at or after the last impression of their user"
        source.derived("timestamp", f"{late.sum():,} rows {what} are left out: no impression may know them")
    rows = np.flatnonzero(~late)
    return built.take(pa.array(rows)), rows


def _say_strangers(source: Source, users: pa.ChunkedArray, asked: pa.ChunkedArray) -> None:
    """That many rows are of users without an impression: their ids may be spelt otherwise there."""
    strange = pc.and_not(pc.is_valid(users), pc.is_in(users, asked.combine_chunks()))
    count, rows = pc.sum(strange).as_py() or 0, len(users)
    if count > STRANGERS * rows and count < rows:  # of all, the contract says more
        wanted = users.filter(strange)
        hint = contract.spelt_otherwise(wanted, asked)
        first = wanted[0].as_py()
        source.missing(
            "user_id", f"{count:,} of {rows:,} rows are of users without an impression (first: {first!r}){hint}"
        )


def _weights(source: Source) -> np.ndarray:
    column, most = source.get("weight"), source.options["weight_max"]
    if column is None:
        source.missing("weight", "1 for all: what was watched counts alike; give a rating or the watched fraction")
        return np.ones(len(source))
    weight = derive.numbers(source, "weight", column)
    if most is None and (largest := np.nanmax(weight, initial=0)) > 1:
        most = largest
        said = "the largest there is; say weight_max if it is another"
    else:
        said = "weight_max"
    if most is None:
        return weight
    source.derived("weight", f"divided by {most:g}, {said}")
    return weight / most


def _estimated(log: Log, made: logged.Logged, source: Source) -> Log:
    """The log with propensities, and production where it is not known, by a model of what was shown."""
    found = propensities.estimate(log)
    arrays = log.arrays()
    propensity = found.probabilities[np.arange(len(arrays)), arrays.shown]
    changed = {"propensity": pa.array(propensity)}
    log.manifest["propensities"] = "estimated"
    if made.production_is == "random":
        changed["production"] = unpad(found.probabilities, arrays.mask)
        log.manifest["production_is"] = "known"
    source.derived("propensity", f"ESTIMATED: {found.how}. From {propensity.min():.2g} to {propensity.max():.2g}")
    source.missing("propensity", f"estimated, not logged; {contract.ASSUMED}")
    return dataclasses.replace(log, impressions=replaced(log.impressions, changed))


def _in_their_words(fault: str, sources: dict[str, Source], rows: dict[str, np.ndarray]) -> str:
    """A fault of the log with the names of the tables that it was made from, their row and their column."""
    for name, source in sources.items():
        fault = fault.replace(f"not in {name}.parquet", f"not in {source.label}")
    found = re.match(r"(\w+)\.parquet row (\d+), column (\w+)", fault)
    if not found or found[1] not in sources:
        return fault
    name, row, column = found[1], int(found[2]), found[3]
    source = sources[name]
    row = int(rows[name][row]) if name in rows else row
    if column == "shown" and source.get("shown") is None:
        column = "shown_artwork"
    return f"{source.label} row {row}, column {source.theirs(column)}{fault[found.end() :]}"
