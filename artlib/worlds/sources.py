"""Where the data of the real worlds lies, and how its CSV files are read: every fault names file, row and column."""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from artlib.log import LogError

ROOT = Path(__file__).resolve().parents[2]


def folder(data: str | os.PathLike = "") -> Path:
    """The data folder: `data`, else the environment variable ARTLIB_DATA, else ../shared/data beside the repository."""
    path = Path(data or os.environ.get("ARTLIB_DATA") or ROOT.parent / "shared" / "data").expanduser()
    if not path.is_dir():
        raise LogError(f"{path} is not a folder; give the folder of the data as the parameter data, or set ARTLIB_DATA")
    return path


def find(folders: list[Path], name: str) -> Path:
    """The first of `name` or `name`.gz in the folders."""
    for place in folders:
        for path in (place / name, place / f"{name}.gz"):
            if path.is_file():
                return path
    raise LogError(f"{name} (or {name}.gz) is in none of {', '.join(map(str, folders))}; download it, or correct data")


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
    options = {"encoding": "utf-8-sig", "usecols": list(types), "low_memory": False}
    try:
        return pd.read_csv(path, dtype=types, **options)
    except (ValueError, OverflowError, OSError, EOFError) as error:
        for name, column in _as_text(path, options).items():
            _check_numbers(path, name, column, types[name])
        raise LogError(f"{path} cannot be read ({error}); get the file anew") from None


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
