"""How a log is stored: its tables and their columns, its manifest; how they are read, and what of a folder may go."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from artlib.data.contract import LogError

_TIME = pa.timestamp("us", tz="UTC")
_FEEDBACK = [
    pa.field("impression_id", pa.string(), nullable=False),
    pa.field("user_id", pa.string(), nullable=False),
    pa.field("title_id", pa.string(), nullable=False),
    pa.field("timestamp", _TIME, nullable=False),
    pa.field("candidates", pa.list_(pa.string()), nullable=False),
    pa.field("shown", pa.int32(), nullable=False),
    pa.field("propensity", pa.float64()),  # null in all rows where nobody knows: `Log.propensities`
    pa.field("reward", pa.float64(), nullable=False),
]
SCHEMAS = {
    "titles": pa.schema(
        [
            pa.field("title_id", pa.string(), nullable=False),
            pa.field("name", pa.string(), nullable=False),
            pa.field("year", pa.int32()),
            pa.field("genres", pa.list_(pa.string()), nullable=False),
            pa.field("synopsis", pa.string(), nullable=False),
        ]
    ),
    "artworks": pa.schema(
        [
            pa.field("artwork_id", pa.string(), nullable=False),
            pa.field("title_id", pa.string(), nullable=False),
            pa.field("caption", pa.string(), nullable=False),
            pa.field("image", pa.string()),
        ]
    ),
    "histories": pa.schema(
        [
            pa.field("user_id", pa.string(), nullable=False),
            pa.field("title_id", pa.string(), nullable=False),
            pa.field("timestamp", _TIME, nullable=False),
            pa.field("weight", pa.float64(), nullable=False),
        ]
    ),
    "impressions": pa.schema(
        [
            *_FEEDBACK,
            pa.field("production", pa.list_(pa.float64()), nullable=False),
            pa.field("split", pa.string(), nullable=False),
        ]
    ),
    # Optional: the period before the log, on which the production policy was fitted. It tells warm titles from cold.
    "earlier": pa.schema(_FEEDBACK),
    # Simulated worlds only.
    "truth": pa.schema(
        [
            pa.field("impression_id", pa.string(), nullable=False),
            pa.field("expected_reward", pa.list_(pa.float64()), nullable=False),
        ]
    ),
}
OPTIONAL = ("earlier", "truth")


def refuse_to_lose(folder: str | os.PathLike, keep: Sequence[str] = ()) -> None:
    """Raise a LogError if there is anything in a folder that is not a log's, and that `Log.save` would not `keep`; or
    if it is the one that the process works in, which is not replaced under its feet."""
    folder = Path(folder)
    if Path.cwd().is_relative_to(folder.resolve()):
        raise LogError(f"{folder} is the folder that you are in, or one around it; name a folder in it, such as log")
    own = {*(f"{name}.parquet" for name in SCHEMAS), "manifest.json", "README.md", *keep}
    others = sorted(path.name for path in folder.iterdir() if path.name not in own) if folder.is_dir() else []
    if folder.exists() and not folder.is_dir():
        raise LogError(f"{folder} is a file; name a folder for the log")
    if others or (folder.is_dir() and any(folder.iterdir()) and not (folder / "impressions.parquet").exists()):
        what = others[0] if others else "README.md"
        raise LogError(f"{folder} holds other files than a log's, {what} among them, which would be lost; name another")


def table(name: str, columns: dict) -> pa.Table:
    """An Arrow table of one of the log's files from columns (arrays, lists), cast to its schema."""
    schema = SCHEMAS[name]
    return pa.table({field.name: _column(columns[field.name]) for field in schema}).cast(schema)


def _column(values) -> pa.Array:
    return values if isinstance(values, (pa.Array, pa.ChunkedArray)) else pa.array(values)


def read_manifest(folder: Path) -> dict:
    """manifest.json; of a folder without one, that of a log of somebody's own."""
    path = folder / "manifest.json"
    if not folder.is_dir():
        raise LogError(f"{folder} is not a folder; a log is a folder of Parquet files")
    if not path.exists():
        return {"world": "own"}
    try:
        manifest = json.loads(path.read_text())
    except ValueError as error:
        raise LogError(f"{path} is not JSON ({error}); build the log again, or delete it") from None
    recorded = manifest.get("files", {}) if isinstance(manifest, dict) else None
    if not isinstance(recorded, dict) or not all(isinstance(entry, dict) for entry in recorded.values()):
        raise LogError(f"{path} is not a log's manifest, but another tool's; move it out of the folder")
    return manifest


def _refuse_float_ids(path: Path, field: pa.Field, column: pa.ChunkedArray) -> None:
    """Ids that are floats would be written 2.0000000015e+10, and match those of no other file."""
    texts, given = (kind.value_type if pa.types.is_list(kind) else kind for kind in (field.type, column.type))
    if pa.types.is_string(texts) and (pa.types.is_floating(given) or pa.types.is_decimal(given)):
        first = next((value for value in column.to_pylist() if value is not None), None)
        raise LogError(
            f"{path}, column {field.name}: type {column.type} (first value {first!r}); ids are strings or integers: a "
            "column of integers in which some are missing becomes float in pandas; store it as Int64 or string"
        )


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """A Parquet file with the columns and types of a schema; its columns may still hold nulls."""
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise LogError(f"{path} cannot be read as Parquet ({error}); write it again") from None
    missing = [field.name for field in schema if field.name not in table.column_names]
    if missing:
        raise LogError(f"{path}: column {missing[0]} is missing; its columns must be {', '.join(schema.names)}")
    columns = []
    for field in schema:
        column = table[field.name]
        _refuse_float_ids(path, field, column)
        if pa.types.is_timestamp(field.type) and not getattr(column.type, "tz", None):
            raise LogError(f"{path}, column {field.name}: type {column.type} has no time zone; store UTC timestamps")
        try:
            columns.append(column.cast(field.type))
        except pa.ArrowException as error:
            raise LogError(
                f"{path}, column {field.name}: type {column.type} cannot be read as {field.type} ({error}); "
                f"store it as {field.type}"
            ) from None
    # A column that may not be null is checked by `contract`, which can name the row; Arrow would not.
    return pa.table(columns, schema=pa.schema([field.with_nullable(True) for field in schema]))
