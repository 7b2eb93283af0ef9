"""Columns of Arrow tables as arrays, and back."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def codes(ids: pa.ChunkedArray, values: pa.ChunkedArray) -> np.ndarray:
    """The row in `ids` of each value (lists are flattened); -1 where unknown."""
    if pa.types.is_list(values.type):
        values = pc.list_flatten(values)
    return pc.fill_null(pc.index_in(values, value_set=ids.combine_chunks()), -1).to_numpy().astype(np.int64)


def rows_of(ids: pa.ChunkedArray, wanted: pa.ChunkedArray) -> np.ndarray:
    """The row in `ids`, which differ, of each of the wanted ids; -1 where unknown. Nothing is looked up if both are the
    same."""
    return np.arange(len(ids)) if ids.equals(wanted) else codes(ids, wanted)


def take(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """Some rows of a table, in that order; without a copy where they follow each other."""
    if len(rows) and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
        return table.slice(rows[0], len(rows))
    return table.take(pa.array(rows))


def pad(lists: pa.ChunkedArray, values: np.ndarray | None = None, fill: float = 0) -> tuple[np.ndarray, np.ndarray]:
    """Turn a column of lists into a padded array.

    Args:
        lists: n lists.
        values: their flattened values, where others than the lists' own are wanted.
        fill: for padded cells.

    Returns:
        (n, K) values and (n, K) mask, K the longest list.
    """
    values = pc.list_flatten(lists).to_numpy() if values is None else values
    lengths = pc.list_value_length(lists).to_numpy()
    mask = np.arange(lengths.max(initial=0)) < lengths[:, None]
    padded = np.full(mask.shape, fill, dtype=values.dtype)
    padded[mask] = values
    return padded, mask


def unpad(array: np.ndarray, mask: np.ndarray) -> pa.ListArray:
    """The inverse of `pad`: a list column from an (n, K) array and its mask."""
    offsets = np.concatenate([[0], np.cumsum(mask.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(array[mask]))


def replaced(table: pa.Table, columns: Mapping[str, Any]) -> pa.Table:
    """A table with other values in some of its columns, whose places and types stay."""
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        field = table.schema.field(place)
        values = values if isinstance(values, (pa.Array, pa.ChunkedArray)) else pa.array(values)
        table = table.set_column(place, field, values.cast(field.type))
    return table
