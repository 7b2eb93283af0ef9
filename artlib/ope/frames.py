"""A log in a pandas data frame, a row per impression, as arguments of `Feedback`; see `Feedback.from_frame`."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from artlib.ope import validation
from artlib.ope.validation import CellError, plain

# Left out when there is no column of this name; the others must be there.
OPTIONAL = ("q_hat", "cluster", "logging")
PER_CANDIDATE = ("target", "q_hat", "logging")


def arguments(frame: pd.DataFrame, columns: dict[str, str | list[str] | None]) -> dict[str, np.ndarray]:
    """Arguments of a Feedback from a frame's columns, padded to the largest number of candidates.

    Args:
        frame: a row per impression.
        columns: argument, or "candidates", -> its column; for PER_CANDIDATE also a list of columns.

    Raises:
        CellError: see `located`.
        ValueError: when a column is not there, or there twice.
    """
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(f"frame is a {type(frame).__name__}: it must be a pandas DataFrame, a row per impression")
    columns = {name: column for name, column in columns.items() if is_there(frame, name, column)}
    found = {name: frame[column].to_numpy() for name, column in columns.items() if name not in PER_CANDIDATE}
    found["target"], found["mask"] = padded(frame, "target", columns["target"])
    for name in [each for each in ("q_hat", "logging") if each in columns]:
        found[name] = aligned(name, *padded(frame, name, columns[name]), found["mask"])
    if "candidates" in found:
        found["action"] = _columns_of_ids(found["action"], found.pop("candidates"), found["mask"])
    return found


def located(error: CellError, frame: pd.DataFrame, columns: dict[str, str | list[str] | None]) -> str:
    """The error's message with the frame's name of the column and the index label of the row."""
    column = column_at_fault(error, columns)
    return f"{error} (column {column!r} of the frame, index label {plain(frame.index[error.cell[0]])!r})"


def column_at_fault(error: CellError, columns: dict[str, str | list[str] | None]) -> str | list[str] | None:
    column, cell = columns[error.argument], error.cell
    return column[cell[1]] if isinstance(column, list) and len(cell) > 1 else column


def is_there(frame: pd.DataFrame, name: str, column) -> bool:
    if column is None and name in (*OPTIONAL, "candidates"):
        return False
    if column == name and name in OPTIONAL and name not in frame.columns:
        return False
    if isinstance(column, list) and name not in PER_CANDIDATE:
        raise ValueError(f"{name} is {column!r}: it must be one column; {', '.join(PER_CANDIDATE)} may be several")
    for each in column if isinstance(column, list) else [column]:
        count = list(frame.columns).count(each)
        if count != 1:
            raise ValueError(
                f"the frame has {'no column' if not count else f'{count} columns'} {each!r} for {name}: give the name "
                f"of one, {name}=...; its columns are {', '.join(map(repr, frame.columns))}"
            )
    return True


def padded(frame: pd.DataFrame, name: str, column: str | list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(n, K) numbers, 0 where an impression has no candidate, and (n, K) where it has one."""
    if isinstance(column, list):
        mask = frame[column].notna().to_numpy()
        values = validation.numbers(name, np.where(mask, frame[column].to_numpy(), 0.0))
    elif (lists := _arrow_lists(frame[column])) is not None:
        flat, lengths = validation.numbers(name, lists.flatten().to_numpy(zero_copy_only=False)), _lengths(lists)
        if len(lengths) and lengths.min() == lengths.max() > 0:
            return flat.reshape(len(lengths), -1), np.broadcast_to(np.True_, (len(lengths), lengths[0]))
        mask = _filled(lengths)
        values = np.zeros(mask.shape)
        values[mask] = flat
    else:
        rows = [_numbers(name, i, row) for i, row in enumerate(frame[column])]
        mask = _filled([len(row) for row in rows])
        values = np.zeros(mask.shape)
        values[mask] = np.concatenate([*rows, []])
    empty = np.flatnonzero(~mask.any(axis=1))
    if len(empty):
        raise CellError(f"{name} at row {empty[0]} is empty: an impression needs a candidate", name, (int(empty[0]),))
    return values, mask


def _arrow_lists(column: pd.Series) -> pa.Array | None:
    """The column as an Arrow array, where it is one of lists of numbers, none missing."""
    if not isinstance(column.dtype, pd.ArrowDtype):
        return None
    kind = column.dtype.pyarrow_dtype
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return None
    if not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        return None
    array = arrow(column)
    return None if array.null_count else array


def arrow(column: pd.Series) -> pa.Array:
    """A column of Arrow's as it is in one piece."""
    array = pa.array(column.array)
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _lengths(lists: pa.Array) -> np.ndarray:
    return pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int64)


def _filled(lengths: list[int] | np.ndarray) -> np.ndarray:
    return np.arange(max(lengths, default=0)) < np.asarray(lengths, dtype=int)[:, None]


def _numbers(name: str, i: int, row) -> np.ndarray:
    try:
        if validation.length(row) is not None:
            return np.asarray(row, dtype=float).reshape(len(row))
    except (TypeError, ValueError):
        pass
    raise CellError(
        f"{name} at row {i} is {row!r}: must be a list of numbers, one per candidate; text is read by json.loads",
        name,
        (i,),
    )


def aligned(name: str, values: np.ndarray, own: np.ndarray, mask: np.ndarray, of: str = "target") -> np.ndarray:
    """(n, K) values for the candidates of the mask, which is that of the named argument."""
    if own.shape == mask.shape and validation.is_full(own) and validation.is_full(mask):
        return values
    width = max(own.shape[1], mask.shape[1])
    values, own, mask = (np.pad(x, ((0, 0), (0, width - x.shape[1]))) for x in (values, own, mask))
    different = np.flatnonzero((own != mask).any(axis=1))
    if len(different):
        i = int(different[0])
        raise CellError(
            f"{name} at row {i} has {own[i].sum()} candidates but {of} has {mask[i].sum()}: give both for the same "
            "candidates in the same order",
            name,
            (i,),
        )
    return values


def _columns_of_ids(shown: np.ndarray, candidates: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(n,) column of the candidate whose id was shown."""
    index = np.zeros(len(shown), dtype=np.int64)
    for i, (one, ids, cells) in enumerate(zip(shown, candidates, mask, strict=True)):
        size = validation.length(ids)
        if size != cells.sum():
            found = repr(ids) if size is None else f"{size} ids"
            raise CellError(
                f"candidates at row {i} is {found} but target has {cells.sum()}: must be a list of as many",
                "candidates",
                (i,),
            )
        at = [] if one is pd.NA else [j for j, each in enumerate(ids) if each is not pd.NA and each == one]
        if len(at) != 1:
            raise CellError(
                f"action at row {i} is {plain(one)!r}: must be one of its candidates, spelt alike and there once; "
                f"they are {', '.join(repr(plain(each)) for each in ids)}",
                "action",
                (i,),
            )
        index[i] = np.flatnonzero(cells)[at[0]]
    return index
