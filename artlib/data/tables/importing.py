"""A folder of somebody's CSV or Parquet files, made a log."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from artlib.data.contract import LogError
from artlib.data.log import Log
from artlib.data.storage import refuse_to_lose
from artlib.data.tables import kept
from artlib.data.tables.frames import OPTIONS, TABLES, from_frames
from artlib.data.tables.sources import Report

KEPT = (kept.ANSWERS, kept.LOCK)  # of a log that is there
SUFFIXES = (".parquet", ".csv", ".csv.gz", ".tsv")
NULLS = ["", "NULL", "\\N"]
# Of the mapping, besides the options of `from_frames`.
FILES = ("files", "columns", "delimiter", "encoding")


def import_folder(
    folder: str | os.PathLike,
    out: str | os.PathLike,
    mapping: str | os.PathLike | None = None,
    estimate_propensities: bool = False,
    report: Callable[[Report], None] = print,
) -> Log:
    """Read somebody's tables, write a log that validates, but for captions to be had from pictures, and return it.

    Args:
        folder: holds titles, artworks, impressions and perhaps histories and plays, as .parquet, .csv, .csv.gz or .tsv.
        out: the log folder; a log that is there is replaced, but for answers about pictures (captions.jsonl).
        mapping: a YAML file, by default mapping.yaml in the folder, if there is one: `files` (our table -> file name),
            `columns`, `delimiter` and `encoding` of CSV, and all options of `from_frames`.
        estimate_propensities: as `propensities: estimate` in the mapping.
        report: told what was derived and what is missing.

    Raises:
        LogError: as `from_frames`; or a file cannot be read, or `out` holds other things than a log.
    """
    folder, out = Path(folder), Path(out)
    if not folder.is_dir():
        raise LogError(f"{folder} is not a folder; give the one that holds your tables")
    if out.resolve() == folder.resolve():  # whose Parquet files may have a log's names
        raise LogError(f"{out} holds your tables, which would be lost; name another folder")
    refuse_to_lose(out, KEPT)
    options = _mapping(folder, mapping)
    given = {name: options.pop(name, None) for name in FILES}
    if odd := [name for name in options if name not in OPTIONS]:
        raise LogError(f"mapping: {odd[0]!r} is not one of {', '.join((*FILES, *OPTIONS))}")
    if estimate_propensities:
        options["propensities"] = "estimate"
    paths = _paths(folder, given["files"] or {})
    tables = {name: read(path, given["delimiter"], given["encoding"] or "utf8") for name, path in paths.items()}
    labels = {name: paths[name].name if name in paths else f"{folder / name}.csv or .parquet" for name in TABLES}
    named = {"columns": given["columns"], "folder": folder, "labels": labels, "report": report, "out": out}
    log = from_frames(**tables, **named, **options)
    kept.put_aside(out)
    log.save(out, keep=KEPT)
    kept.put_back(out)
    return log


def read(path: Path, delimiter: str | None = None, encoding: str = "utf8") -> pa.Table:
    """A Parquet file, or a CSV file with all its columns as text, so that no id loses its zeros."""
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path)
        options = pa.csv.ReadOptions(encoding=encoding)
        delimiter = "\t" if delimiter == "\\t" else delimiter  # as YAML has it between single quotes, or none
        parse = pa.csv.ParseOptions(delimiter=delimiter or _delimiter(path, encoding), newlines_in_values=True)
        with pa.csv.open_csv(path, options, parse) as reader:
            names = reader.schema.names
        kinds = pa.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=NULLS
        )
        return pa.csv.read_csv(path, options, parse, kinds)
    except (pa.ArrowException, OSError, LookupError, ValueError, TypeError) as error:
        raise LogError(
            f"{path} cannot be read ({error}); write it again, as UTF-8, or say delimiter and encoding in mapping.yaml"
        ) from None


def _delimiter(path: Path, encoding: str) -> str:
    """What the header is split at."""
    with pa.input_stream(str(path)) as stream:
        header = stream.read(100_000).decode(encoding, errors="replace").partition("\n")[0]
    return max(",;\t", key=header.count)


def _paths(folder: Path, files: dict[str, str]) -> dict[str, Path]:
    """Where each table lies, of those that there are."""
    paths = {}
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        raise LogError(f"files: {files!r}; give the file of each table, as files: {{titles: films.csv}}")
    for name, file in files.items():
        if name not in TABLES:
            raise LogError(f"files: {name!r} is not one of {', '.join(TABLES)}")
        paths[name] = folder / file
        if not paths[name].is_file():
            raise LogError(f"{paths[name]} is missing, which files names for {name}")
    for name in TABLES:
        there = [folder / f"{name}{suffix}" for suffix in SUFFIXES if (folder / f"{name}{suffix}").is_file()]
        if len(there) > 1 and name not in paths:
            raise LogError(f"{there[0]} and {there[1].name} are both there; remove one, or say files: {{{name}: ...}}")
        if there:
            paths.setdefault(name, there[0])
    return paths


def _mapping(folder: Path, mapping: str | os.PathLike | None) -> dict[str, Any]:
    path = folder / "mapping.yaml" if mapping is None else Path(mapping)
    if not path.is_file():
        if mapping is None:
            return {}
        raise LogError(f"{path} is no file; give a YAML file, or put mapping.yaml into {folder}")
    try:
        import yaml
    except ImportError:
        raise LogError(f"{path} is YAML, which needs PyYAML: pip install pyyaml") from None
    try:
        found = yaml.safe_load(path.read_text(encoding="utf8"))
    except (yaml.YAMLError, UnicodeError) as error:
        raise LogError(f"{path} is no YAML ({error})") from None
    if not isinstance(found, dict):
        raise LogError(f"{path} is no mapping; write lines as timezone: UTC")
    return found
