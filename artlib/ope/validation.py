"""The checks that every array of this package passes: a fault names the argument, the row, the value, the remedy."""

import numpy as np
import pandas as pd


class CellError(ValueError):
    """A fault in one row of an argument.

    Attributes:
        argument: its name.
        cell: indices of the faulty cell: the row, then the column if the argument has columns.
    """

    def __init__(self, message: str, argument: str = "", cell: tuple[int, ...] = ()):
        super().__init__(message)
        self.argument, self.cell = argument, cell


def require(ok: np.ndarray, name: str, values: np.ndarray, remedy: str, argument: str | None = None) -> None:
    """Raise a CellError that shows the first value that is not ok and counts the others.

    Args:
        ok, values: of one shape, (n,), (n, K) or (n, K, d).
        name: what the message calls the values; `argument` is where they come from, by default the same.
    """
    if ok.all():
        return
    bad = np.argwhere(~ok)
    first = tuple(int(i) for i in bad[0])
    where = ", ".join(f"{axis} {i}" for axis, i in zip(("row", "column", "feature"), first, strict=False))
    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    raise CellError(f"{name} at {where} is {values[first]}{more}: {remedy}", argument or name, first)


def vector(name: str, values, n: int | None = None) -> np.ndarray:
    """(n,) numbers as float64."""
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} is a nested list: it must be (n,), one value per impression") from error
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}: it must be (n,), one value per impression")
    check_rows(name, array, n)
    return numbers(name, array)


def matrix(name: str, values, n: int, k: int | None = None) -> np.ndarray:
    """(n, K) numbers as float64."""
    array = regular(name, values)
    if array.ndim != 2:
        raise ValueError(
            f"{name} has shape {array.shape}: it must be (n, K), a row per impression and a column "
            "per candidate, padded where an impression has fewer"
        )
    check_rows(name, array, n)
    if k is not None and array.shape[1] != k:
        raise ValueError(f"{name} has {array.shape[1]} columns but target has {k}: pad both to the same K")
    return numbers(name, array)


def check_rows(name: str, array: np.ndarray, n: int | None) -> None:
    if n is not None and len(array) != n:
        raise ValueError(f"{name} has {len(array)} rows but reward has {n}: give both for the same impressions")


def numbers(name: str, array: np.ndarray) -> np.ndarray:
    """The array as float64."""
    try:
        return np.asarray(array, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} cannot be read as numbers ({error}): pass a numeric array") from error


def regular(name: str, values, fill: str = "0") -> np.ndarray:
    """Rows of equal length as one array, also from a list or a pandas column of lists.

    Args:
        fill: what shorter rows should be padded with.
    """
    try:
        array = np.asarray(values)
    except ValueError:  # lists of different lengths
        array = None
    if array is not None and not (array.dtype == object and array.ndim == 1):
        return array
    rows = list(values)
    lengths = [_length(row) for row in rows]
    if array is not None and all(length is None for length in lengths):
        return array
    k = max(length or 0 for length in lengths)
    for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        if length is None:
            raise CellError(f"{name} at row {i} is {row!r}: must be a list, one entry per candidate", name, (i,))
        if length != lengths[0]:
            raise CellError(
                f"{name} at row {i} has {length} candidates but row 0 has {lengths[0]}: rows must have one length; "
                f"pad {name} with {fill} to K = {k} columns and pass mask, True for the candidates",
                name,
                (i,),
            )
    try:
        return np.asarray([np.asarray(row) for row in rows])
    except ValueError as error:
        raise ValueError(
            f"{name} is a nested list whose innermost lists differ in length: give all equally many entries"
        ) from error


def _length(row) -> int | None:
    try:
        return None if isinstance(row, str | bytes) else len(row)
    except TypeError:
        return None


def column_index(action, mask: np.ndarray, of: str = "target") -> np.ndarray:
    """(n,) column of the shown candidate as int64; `of` names the argument that has the columns."""
    array, (n, k) = vector("action", action, len(mask)), mask.shape
    require(
        np.isfinite(array) & (array == np.floor(array)),
        "action",
        array,
        "must be a whole number, the column of the candidate that was shown",
    )
    require(
        (array >= 0) & (array < k),
        "action",
        np.asarray(action),
        f"must be a column of {of}, 0 to {k - 1}; it is an index into the candidates, not an id",
    )
    index = array.astype(np.int64)
    require(
        mask[np.arange(n), index],
        "action",
        index,
        "is a padded cell; mask must be True for the candidate that was shown",
    )
    return index


def cells(mask, shape: tuple[int, int], of: str = "target") -> np.ndarray:
    """(n, K) which cells are candidates; all of them by default."""
    if mask is None:
        return np.broadcast_to(np.True_, shape)
    array = regular("mask", mask, "False")
    if array.shape != shape:
        raise ValueError(f"mask has shape {array.shape} but {of} has {shape}: give one True or False per cell")
    if array.dtype != bool and not np.isin(array, (0, 1)).all():
        raise ValueError("mask has values other than True and False: give True where the cell is a candidate")
    return array.astype(bool, copy=False)


def labels(cluster, n: int) -> np.ndarray | None:
    """(n,) cluster of each row."""
    if cluster is None:
        return None
    array = np.asarray(cluster)
    if array.ndim != 1 or len(array) != n:
        raise ValueError(f"cluster has shape {array.shape} but reward has {n} rows: give one label per impression")
    require(~pd.isna(array), "cluster", array, "must not be missing; give unknown users a label of their own")
    return array
