"""TMDB metadata: overview and keywords of each film, joined from whatever files are in a folder."""

import ast
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd

from artlib.data import LogError
from artlib.worlds import sources

IDS = ("id", "movie_id", "tmdbId", "tmdb_id")
WANTED = ["overview", "keywords"]


def read(folder: Path, wanted_ids: np.ndarray) -> tuple[pd.DataFrame, list[str]]:
    """Join all TMDB files of a folder. They are known by their columns: an id, and an overview, keywords or both.

    Args:
        folder: holds `*.csv` or `*.csv.gz`; others in it are passed over.
        wanted_ids: (m,) TMDB ids that are asked about.

    Returns:
        A frame indexed by id with overview (whitespace collapsed) and keywords (a list), "" and [] where there is
        none; of several rows of an id the first that says something counts, files being read by name. And the names
        of the files.

    Raises:
        LogError: no such file, or a list of keywords that is neither JSON nor a Python literal.
    """
    if not folder.is_dir():
        raise LogError(f"{folder} is not a folder; put TMDB's metadata files (overview, keywords) there")
    parts, used = {name: [] for name in WANTED}, []
    for path in sorted([*folder.glob("*.csv"), *folder.glob("*.csv.gz")]):
        columns = sources.header(path)
        key = next((name for name in IDS if name in columns), None)
        if not key or not set(WANTED) & set(columns):
            continue
        used.append(path.name)
        rows = sources.read_csv(path, {key: str}, WANTED)
        # Some editions hold a few shifted rows, with a date where the id should be.
        ids = pd.to_numeric(rows[key], errors="coerce")
        for name in set(WANTED) & set(columns):
            found = rows[name][ids.isin(wanted_ids) & rows[name].notna()]
            values = _overviews(found) if name == "overview" else _keywords(path, found)
            values.index = ids[found.index].astype(np.int64)
            parts[name].append(values[values.map(len) > 0])
    empty = [name for name in WANTED if not parts[name]]
    if empty:
        raise LogError(f"{folder}: no CSV file has the columns id and {empty[0]}; put TMDB's metadata files there")
    joined = pd.DataFrame(index=np.unique(wanted_ids))
    for name, fill in zip(WANTED, ("", ()), strict=True):
        values = pd.concat(parts[name])
        values = values[~values.index.duplicated()].to_dict()
        joined[name] = [values.get(key, fill) for key in joined.index]
    return joined, used


def ids_by_name(folder: Path, films: pd.DataFrame) -> pd.Series:
    """The TMDB id of each film by its name and year, where just one film has both; NaN for the others.

    Args:
        folder: as for `read`; files with an id, a release date and a title or an original title count.
        films: (m,) rows with name and year.
    """
    found: dict[tuple[str, int], set[int]] = {}
    for path in sorted([*folder.glob("*.csv"), *folder.glob("*.csv.gz")]):
        columns = sources.header(path)
        key = next((name for name in IDS if name in columns), None)
        names: list[str] = [name for name in ("title", "original_title") if name in columns]
        if not key or not names or "release_date" not in columns:
            continue
        rows = sources.read_csv(path, {key: str, "release_date": str}, names)
        numbers = pd.to_numeric(rows[key], errors="coerce")
        years = pd.to_datetime(rows["release_date"], errors="coerce", format="mixed").dt.year
        for name in names:
            told = numbers.notna() & years.notna() & rows[name].notna()
            for text, year, number in zip(rows[name][told], years[told], numbers[told], strict=True):
                found.setdefault((_plain(text), int(year)), set()).add(int(number))
    ids = []
    for name, year in zip(films["name"], films["year"], strict=True):
        numbers = found.get((_plain(name), year), set()) if not pd.isna(year) else set()
        ids.append(next(iter(numbers)) if len(numbers) == 1 else np.nan)
    return pd.Series(ids, index=films.index, dtype=float)


def _plain(name: str) -> str:
    """A name by which to compare: letters and digits, without what stands in brackets."""
    return "".join(char for char in re.sub(r"\(.*?\)", "", name).casefold() if char.isalnum())


def _overviews(values: pd.Series) -> pd.Series:
    values = values.str.split().str.join(" ")
    return values.where(values != "No overview found.", "")


def _keywords(path: Path, values: pd.Series) -> pd.Series:
    parsed = {}
    for row, value in values.items():
        try:
            parsed[row] = _names(value)
        except (ValueError, SyntaxError, TypeError, KeyError, RecursionError):
            text = value if len(value) <= 80 else value[:77] + "..."
            raise LogError(
                f"{path} row {row}, column keywords: {text!r} is neither a JSON nor a Python list of names; "
                "repair or drop the row"
            ) from None
    return pd.Series(parsed, dtype=object)


def _names(value: str) -> list[str]:
    """The names in a list of objects with a name, or of strings; JSON or Python literal."""
    try:
        items = json.loads(value)
    except ValueError:
        items = ast.literal_eval(value)
    if not isinstance(items, list):
        raise TypeError(value)
    names = (" ".join((item if isinstance(item, str) else item["name"]).lower().split()) for item in items)
    return list(dict.fromkeys(name for name in names if name))
