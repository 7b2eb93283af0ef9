"""Somebody's tables on their way into a log: what is in them, what was derived from it, what is wrong with it."""

import dataclasses
import difflib
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from artlib.data.contract import LogError, first_fault


@dataclasses.dataclass
class Report:
    """What an import says, in one screen.

    Attributes:
        counts: rows of each table, and of each split.
        derived: what was not there and could be worked out, or was read in another form; a line each.
        missing: what could not, what that means, and how to get it; a line each.
        faults: what stands in the way; an import with any ends in a LogError that lists them all.
    """

    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    derived: list[str] = dataclasses.field(default_factory=list)
    missing: list[str] = dataclasses.field(default_factory=list)
    faults: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        lines = [", ".join(f"{count:,} {name}" for name, count in self.counts.items()) or "nothing was read"]
        for title, found in (("derived", self.derived), ("missing, and how to get it", self.missing)):
            lines += [f"{title}:", *(f"- {line}" for line in found)] if found else [f"{title}: nothing"]
        return "\n".join(lines)

    def refuse(self) -> None:
        """Raise a LogError with all faults, if there are any."""
        if self.faults:
            raise LogError("this cannot be made a log\n" + "\n".join(f"- {fault}" for fault in self.faults))


@dataclasses.dataclass
class Source:
    """One of somebody's tables.

    Attributes:
        name: which of ours it is to become, or "plays".
        label: what messages call it: its file, or its name.
        table: as it came, in plain Arrow types; see `arrow`.
        columns: our names -> theirs, where they differ.
        options: those of `from_frames`, as they hold for this table.
    """

    name: str
    label: str
    table: pa.Table
    columns: dict[str, str]
    options: dict[str, Any]
    report: Report

    def __len__(self) -> int:
        return self.table.num_rows

    def theirs(self, ours: str) -> str:
        return self.columns.get(ours, ours)

    def get(self, ours: str) -> pa.ChunkedArray | None:
        """The column of our name; None where there is none."""
        return self.table[self.theirs(ours)] if self.theirs(ours) in self.table.column_names else None

    def need(self, ours: str, remedy: str = "") -> pa.ChunkedArray | None:
        """The same; a fault where there is none."""
        column = self.get(ours)
        if column is None:
            near = difflib.get_close_matches(ours, self.table.column_names, n=1, cutoff=0.5)
            near = near or [name for name in self.table.column_names if ours.partition("_")[0] in name.lower()]
            example = near[0] if near else "its name in your table"
            remedy = remedy or f"give its name, columns: {{{self.name}: {{{ours}: {example}}}}}"
            there = ", ".join(self.table.column_names)
            self.report.faults.append(f"{self.label}: no column {self.theirs(ours)!r} (there are {there}); {remedy}")
        return column

    def fault(self, ours: str, bad: np.ndarray, values, wrong: str, remedy: str) -> None:
        """Note the first row of `bad`, if there is one."""
        self.report.faults += first_fault(self.label, self.theirs(ours), bad, values, wrong, remedy)

    def derived(self, ours: str, how: str) -> None:
        self.report.derived.append(f"{self.label}, {ours}: {how}")

    def missing(self, ours: str, what: str) -> None:
        self.report.missing.append(f"{self.label}, {ours}: {what}")


def arrow(label: str, frame: Any) -> pa.Table:
    """A table of whatever library as Arrow, in plain types: no dictionaries, views or large lists.

    Args:
        frame: pandas, Polars (lazy, too), a DuckDB relation, a pyarrow table, dataset or reader, or anything else with
            `__arrow_c_stream__`; or a dictionary of columns.

    Raises:
        LogError: it is none of these, or a column holds what Arrow cannot.
    """
    if isinstance(frame, dict):
        frame = pd.DataFrame(frame)
    if isinstance(frame, pd.DataFrame):
        columns = [_of_pandas(label, str(name), frame.iloc[:, place]) for place, name in enumerate(frame.columns)]
        table = pa.table(columns, names=[str(name) for name in frame.columns])
    elif hasattr(frame, "__arrow_c_stream__"):
        table = pa.table(frame)
    elif hasattr(frame, "to_table"):  # pyarrow's datasets
        table = frame.to_table()
    elif hasattr(frame, "collect"):  # Polars' lazy frames
        return arrow(label, frame.collect())
    else:
        raise LogError(
            f"{label} is a {type(frame).__name__}; give a pandas or Polars frame, a DuckDB relation, a pyarrow "
            "table or dataset, or anything else that has __arrow_c_stream__"
        )
    for name in table.column_names:
        if table.column_names.count(name) > 1:
            raise LogError(f"{label}: two columns are called {name!r}; rename one")
    return pa.table({name: _plain(table[name]) for name in table.column_names})


def _of_pandas(label: str, name: str, values: pd.Series) -> pa.ChunkedArray:
    try:
        column = pa.array(values, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        try:  # ids of several types, or of one that Arrow does not know
            column = pa.array([None if np.ndim(v) == 0 and pd.isna(v) else str(v) for v in values], pa.string())
        except (TypeError, ValueError) as error:
            raise LogError(f"{label}, column {name}: holds what Arrow cannot ({error}); make it text") from None
    return column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if isinstance(column.type, pa.BaseExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
    if pa.types.is_dictionary(column.type):  # there is no cast of a dictionary of views
        values = [chunk.dictionary.cast(_plain_type(chunk.type.value_type)) for chunk in column.chunks]
        taken = [value.take(chunk.indices) for value, chunk in zip(values, column.chunks, strict=True)]
        return pa.chunked_array(taken, _plain_type(column.type))
    return column.cast(_plain_type(column.type))


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if hasattr(kind, "value_type") and "list" in str(kind):
        return pa.list_(_plain_type(kind.value_type))
    return pa.string() if pa.types.is_null(kind) else kind
