"""Captions into a log's artworks.parquet and manifest, so that the log loads wherever this is killed."""

import datetime
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from artlib import files
from artlib.data import LogError

TABLE = "artworks.parquet"


def write(folder: Path, captions: Mapping[int, str], before: str, captioner: dict) -> None:
    """Fill captions in.

    While it is at work the manifest says so, and has no checksum of artworks.parquet, so that the log loads with the
    old file and with the new one. A log without checksums, its owner's own, gets none: it would be refused when they
    write it anew.

    Args:
        captions: by row.
        before: sha256 of artworks.parquet when its rows were read.
        captioner: who wrote them, for the manifest.

    Raises:
        LogError: artworks.parquet changed meanwhile.
    """
    path, place = folder / TABLE, folder / "manifest.json"
    manifest = files.read_json(place) or {"world": "own"}
    entry = manifest.get("files", {}).get(TABLE, {})
    if not captions and manifest.get("captioner", {}).get("written", True):
        return
    if files.sha256(path) != before:
        raise LogError(f"{path} changed while its pictures were described; run this again: the answers are kept")
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    manifest["captioner"] = captioner | {"date": today, "written": False}
    if "sha256" in entry:
        entry["sha256"] = None
    files.write_json(place, manifest)
    with files.replacing(path) as temporary:
        pq.write_table(_filled(pq.read_table(path), captions), temporary, compression="zstd")
    if "sha256" in entry:
        entry["sha256"] = files.sha256(path)
    manifest["captioner"]["written"] = True
    files.write_json(place, manifest)


def _filled(table: pa.Table, captions: Mapping[int, str]) -> pa.Table:
    """The file's own table, with the columns that the contract does not know."""
    kind = table["caption"].type
    kind = kind if pa.types.is_string(kind) or pa.types.is_large_string(kind) else pa.string()
    texts = [captions.get(row, text) for row, text in enumerate(table["caption"].to_pylist())]
    place = table.schema.get_field_index("caption")
    return table.set_column(place, pa.field("caption", kind), pa.array(texts, kind))
