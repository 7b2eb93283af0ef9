"""Where the data of the real worlds lies, and how its CSV files are read: every fault names file, row and column."""

import gzip
import os
from pathlib import Path

import numpy as np
import pandas as pd

from artlib.data import LogError

ROOT = Path(__file__).resolve().parents[2]


def folder(data: str | os.PathLike = "") -> Path:
    """The data folder: `data`, else the environment variable ARTLIB_DATA, else ../shared/data beside the repository."""
    path = Path(data or os.environ.get("ARTLIB_DATA") or ROOT.parent / "shared" / "data").expanduser()
    if not path.is_dir():
        raise LogError(f"{path} is not a folder; give the folder of the data as the parameter data, or set ARTLIB_DATA")
    return path


def find(folders: list[Path], *names: str) -> Path:
    """The first of the names, plain or with .gz, in the first of the folders that has any."""
    for place in folders:
        for path in (place / f"{name}{packed}" for name in names for packed in ("", ".gz")):
            if path.is_file():
                return path
    wanted = " or ".join(f"{name} (or {name}.gz)" for name in names)
    raise LogError(f"{wanted} is in none of {', '.join(map(str, folders))}; download it, or correct data")


def read_csv(path: Path, columns: dict[str, str | type], wanted: list[str] | None = None) -> pd.DataFrame:
    """Read a CSV file, plain or gzip, with or without a byte order mark.

    Args:
        path: of the file.
        columns: name and numpy type of each column that must be there; str for text, in which NaN marks what is empty.
        wanted: those of text type that are read if they are there.

    Raises:
        LogError: unreadable file, missing column, or a value that is not of its column's type.
    """
    here = header(path)
    missing = [name for name in columns if name not in here]
    if missing:
        raise LogError(f"{path}: column {missing[0]} is missing (there are {', '.join(here)}); get the file anew")
    types = columns | {name: str for name in wanted or () if name in here}
    # Only what is empty is missing: a film may be called NA or None.
    empty = {"keep_default_na": False, "na_values": [""]}
    options = {"encoding": "utf-8-sig", "usecols": list(types), "low_memory": False, **empty}
    try:
        return pd.read_csv(path, dtype=types, **options)
    except (ValueError, OverflowError, OSError, EOFError) as error:
        for name, column in _as_text(path, options).items():
            _check_numbers(path, name, column, types[name])
        raise LogError(f"{path} cannot be read ({error}); get the file anew") from None


def read_dat(path: Path, columns: dict[str, str | type]) -> pd.DataFrame:
    """Read a file of MovieLens's older editions: no header, "::" between columns, Latin-1 or UTF-8.

    Args:
        columns: name and type of every column, in order, as for `read_csv`.

    Raises:
        LogError: unreadable, a row with more or fewer columns, or a value that is not of its column's type.
    """
    try:
        text = path.read_bytes()
        lines = (gzip.decompress(text) if path.suffix == ".gz" else text).splitlines()
    except (OSError, EOFError) as error:
        raise LogError(f"{path} cannot be read ({error}); get the file anew") from None
    rows = [_decoded(line).split("::") for line in lines]
    counts = np.array([len(row) for row in rows])
    check(
        path,
        ", ".join(columns),
        counts != len(columns),
        pd.Series(rows),
        f"has not {len(columns)} columns, separated by ::",
        "get the file anew",
    )
    frame = pd.DataFrame(rows, columns=list(columns), dtype=object).replace("", np.nan)
    for name, kind in columns.items():
        _check_numbers(path, name, frame[name], kind)
    return frame.astype({name: kind for name, kind in columns.items() if kind is not str})


def _decoded(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1")


def header(path: Path) -> list[str]:
    """The names of a CSV file's columns."""
    try:
        return list(pd.read_csv(path, nrows=0, encoding="utf-8-sig").columns)
    except (ValueError, OSError, EOFError) as error:
        raise LogError(f"{path} cannot be read as CSV ({error}); get the file anew") from None


def check(path: Path, name: str, bad: np.ndarray, values: pd.Series, wrong: str, remedy: str) -> None:
    """Raise for the first True of `bad`, (n,); rows are counted from 0 below the header."""
    bad = np.asarray(bad, dtype=bool)
    if bad.any():
        row = int(np.argmax(bad))
        more = f" (and {bad.sum() - 1:,} more rows)" if bad.sum() > 1 else ""
        value = values.iloc[row]
        value = value.item() if isinstance(value, np.generic) else value
        raise LogError(f"{path} row {row}, column {name}: {value!r} {wrong}{more}; {remedy}")


def _as_text(path: Path, options: dict) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype=str, **options)
    except (ValueError, OSError, EOFError) as error:
        raise LogError(f"{path} cannot be read as CSV ({error}); get the file anew") from None


def _check_numbers(path: Path, name: str, column: pd.Series, kind: str | type) -> None:
    if kind is not str:
        numbers = pd.to_numeric(column, errors="coerce")
        bad = numbers.isna()
        if np.issubdtype(np.dtype(kind), np.integer):
            bad |= numbers % 1 != 0
        check(path, name, bad, column, f"is not of type {kind}", "repair or drop the row")
