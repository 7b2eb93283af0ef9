"""Somebody else's policy: a Parquet file with its probabilities, taken if it answers a log's impressions."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from artlib.data import Log, LogError, pad
from artlib.data.columns import rows_of
from artlib.data.contract import first_fault, null_inside

BUILT_IN = {"random", "popular", "production", "oracle"}  # names that are taken
TOLERANCE = 1e-3  # of the sum of a row; it is divided by its sum
FORMAT = "impression_id and probabilities (a list, in the order of the impression's candidates)"


def read(file: str | os.PathLike, log: Log, impressions: Log) -> np.ndarray:
    """(n, K) probabilities of a policy for some impressions of a log; 0 where padded.

    Args:
        file: Parquet with impression_id and probabilities, a row an impression; with `candidates` (artwork ids), too,
            the lists may be in another order than the log's.
        log: the whole log; the file may answer more of its impressions than are asked about.

    Raises:
        LogError: a row is of another impression or has other candidates, is there twice, is missing, or holds no
            probabilities; the message names file, row, column and value.
    """
    file = Path(file)
    table = _table(file)
    ids, lists, asked = table["impression_id"], table["probabilities"], impressions.impressions
    in_order = ids.equals(asked["impression_id"])
    answered = asked if in_order else log.impressions
    place = rows_of(answered["impression_id"], ids)
    _refuse(file, "impression_id", place < 0, ids, "is no impression of this log", "answer its own")
    twice = pd.Series(place).duplicated().to_numpy()
    _refuse(file, "impression_id", twice, ids, "is there twice", "give one row an impression")
    lengths = pc.list_value_length(answered["candidates"]).to_numpy()[place]
    wrong = pc.list_value_length(lists).to_numpy() != lengths
    _refuse(file, "probabilities", wrong, lists, "is not as long as the impression's candidates", "give one each")
    values, _ = pad(lists)
    if "candidates" in table.column_names:
        values = _in_order_of(file, values, table["candidates"], answered["candidates"].take(pa.array(place)))
    bad = ~(np.isfinite(values) & (values >= 0)).all(axis=1)
    _refuse(file, "probabilities", bad, lists, "holds what is no probability", "give numbers of 0 to 1")
    total = values.sum(axis=1, keepdims=True)
    off = np.abs(total[:, 0] - 1) > TOLERANCE
    _refuse(file, "probabilities", off, lists, "does not sum to 1", "of scores take a softmax, or 1 for the best")
    values /= total
    if in_order:
        return values
    order = rows_of(ids, asked["impression_id"])
    if (missing := order < 0).any():
        first = asked["impression_id"][int(np.argmax(missing))].as_py()
        raise LogError(
            f"{file}: impression {first!r} is missing (and {missing.sum() - 1:,} more); answer all {len(order):,} "
            f"impressions of the {asked['split'][0].as_py()} split"
        )
    # Those that are not asked about may have more candidates.
    return values[order, : impressions.arrays().mask.shape[1]]


def _table(file: Path) -> pa.Table:
    if not file.is_file():
        raise LogError(f"{file} does not exist; give a Parquet file with {FORMAT}")
    try:
        table = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise LogError(f"{file} cannot be read as Parquet ({error}); write {FORMAT}") from None
    for name, kind in (("impression_id", pa.string()), ("probabilities", pa.list_(pa.float64()))):
        if name not in table.column_names:
            raise LogError(f"{file}: column {name} is missing; it needs {FORMAT}")
        column = table[name]
        bad = pc.is_null(column).to_numpy() | null_inside(column)
        _refuse(file, name, bad, column, "is null, or has a null (NaN) in it", "give a value")
        try:
            table = table.set_column(table.column_names.index(name), name, column.cast(kind))
        except pa.ArrowException:
            raise LogError(
                f"{file}, column {name}: type {column.type} cannot be read as {kind}; write {FORMAT}"
            ) from None
    return table


def _in_order_of(file: Path, values: np.ndarray, given: pa.ChunkedArray, offered: pa.ChunkedArray) -> np.ndarray:
    """Probabilities in the order of the log's candidates."""
    spelt = [[str(name) for name in own or ()] for own in given.to_pylist()]
    pairs = list(zip(spelt, offered.to_pylist(), strict=True))
    other = np.array([sorted(own) != sorted(wanted) for own, wanted in pairs])
    _refuse(file, "candidates", other, given, "are other candidates than the log's", "answer those of the log")
    result = np.zeros_like(values)
    for row, (own, wanted) in enumerate(pairs):
        result[row, : len(wanted)] = [values[row, own.index(name)] for name in wanted]
    return result


def _refuse(file: Path, column: str, bad: np.ndarray, values: pa.ChunkedArray, wrong: str, remedy: str) -> None:
    """Raise for the first True row of `bad`."""
    for fault in first_fault(str(file), column, bad, values, wrong, remedy):
        raise LogError(fault)
