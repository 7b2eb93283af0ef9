"""Worlds: each builds a Log. `open_log` builds one into a folder, or opens what a user's own system logged.

registry.py what a world is; the worlds each say that they are one · simulation.py, production.py what simulated ones
share · *_text.py captions · *_posters.py, fiction_layouts.py, poster.py pictures drawn from them · sources.py, tmdb.py
how source data is read.
"""

import dataclasses
import inspect
import os
import sys
from pathlib import Path

from artlib import data as log_package
from artlib import files, fingerprint
from artlib.data import Log, LogError
from artlib.data.columns import replaced
from artlib.data.storage import refuse_to_lose
from artlib.worlds.registry import Frozen, World, build_frozen, find, known, register

__all__ = ["Frozen", "World", "build_frozen", "draw_pictures", "find", "known", "open_log", "register", "source_stamp"]


def open_log(folder: str | os.PathLike, world: str, data: str = "", **parameters) -> Log:
    """Build a world's log into `folder`, unless the same one already lies there; return it.

    Args:
        folder: where the log goes.
        world: its name. "own" takes the log folder `data` as it is, once it validates.
        data: folder of the source data, for the worlds that have any.
        parameters: of the world's `build`; those it does not take are left out.

    Raises:
        LogError: unknown world, missing data, or an own log that breaks the contract.
    """
    folder, found = Path(folder), find(world)
    source = found.source(data) if found.source else None
    takes = inspect.signature(found.build).parameters
    arguments = {name: value for name, value in {"data": data, **parameters}.items() if name in takes}
    asked = {
        "world": world,
        "build": {name: str(value) for name, value in arguments.items()},
        "code": fingerprint.code(sys.modules[__name__], log_package) + fingerprint.code_from_outside(found.build),
        "source": source_stamp(world, data),
    }
    if (folder / "manifest.json").exists():
        log = Log.load(folder, validate=False)  # its checksums show that it is what was validated
        if not fingerprint.changed(log.manifest.get("fingerprint"), asked):
            return _said(log)
    refuse_to_lose(folder)
    log = found.build(**arguments)
    log.manifest["fingerprint"] = asked
    log.validate(source or "")
    log.save(folder)
    return _said(Log.load(folder, validate=False))


def _said(log: Log) -> Log:
    for warning in log.warnings():
        print(f"warning: {warning}")
    return log


def source_stamp(world: str, data: str = "") -> str | None:
    """What tells one state of a world's source data from another: paths, sizes and times of its files; None where
    there are none."""
    found = find(world)
    if found.source is None:
        return None
    folder = found.source(data)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    listed = [(path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return fingerprint.digest([str(folder.absolute()), listed])


def draw_pictures(log: Log, folder: str | os.PathLike) -> Log:
    """Write the pictures that a log's world draws as files, so that something can be tried that looks at pictures.

    Args:
        log: of a world that draws. Artworks that have a picture keep it.
        folder: where they go, as PNG named by the row in `artworks`; not a log's own, which is replaced whole.

    Returns:
        The log with their absolute paths in the column `image`.

    Raises:
        LogError: its world does not draw.
    """
    world = known().get(log.manifest.get("world"))
    if world is None or world.draw is None:
        raise LogError(
            f"world {log.manifest.get('world')!r} does not draw; put paths of pictures into the column image"
        )
    images = log.artworks["image"].to_pylist()
    for row, caption in enumerate(log.artworks["caption"].to_pylist()):
        if images[row] is None and (picture := world.draw(caption)) is not None:
            path = Path(folder).absolute() / f"{row:06d}.png"
            with files.replacing(path) as temporary:
                picture.save(temporary, "PNG")
            images[row] = str(path)
    return dataclasses.replace(log, artworks=replaced(log.artworks, {"image": images}))
