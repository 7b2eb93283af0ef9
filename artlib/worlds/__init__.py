"""Worlds: each builds a Log. `open_log` builds one into a folder, or opens what a user's own system logged."""

import hashlib
import importlib
import inspect
import os
from pathlib import Path

from artlib.log import Log, LogError
from artlib.ranges import CHOICES

WORLDS = CHOICES["world"]


def open_log(folder: str | os.PathLike, world: str, data: str = "", **parameters) -> Log:
    """Build a world's log into `folder`, unless the same one already lies there; return it.

    Args:
        folder: where the log goes.
        world: one of `WORLDS`. "own" takes the log folder `data` as it is, once it validates.
        data: folder of the source data, for the worlds that have any.
        parameters: of the world's `build`; those it does not take are left out.

    Raises:
        LogError: unknown world, missing data, or an own log that breaks the contract.
    """
    if world not in WORLDS:
        raise LogError(f"world {world!r} is not one of {', '.join(WORLDS)}")
    folder = Path(folder)
    _require_own(world, data)
    if world == "own":
        log = Log.load(data, validate=False)
        log.validate(data)
        log.save(folder)
        return _said(log)
    build = importlib.import_module(f"artlib.worlds.{world}").build
    takes = inspect.signature(build).parameters
    arguments = {name: value for name, value in {"data": data, **parameters}.items() if name in takes}
    asked = {"world": world, "build": {name: str(value) for name, value in arguments.items()}}
    asked |= {"code": _code(), "source": source_stamp(world, data)}
    if (folder / "manifest.json").exists():
        log = Log.load(folder, validate=False)  # its checksums show that it is what was validated
        if {key: log.manifest.get(key) for key in asked} == asked:
            return _said(log)
    log = build(**arguments)
    log.manifest.update(asked)
    log.validate()
    log.save(folder)
    return _said(Log.load(folder, validate=False))


def _said(log: Log) -> Log:
    for warning in log.warnings():
        print(f"warning: {warning}")
    return log


def _require_own(world: str, data: str) -> None:
    if world == "own" and not data:
        raise LogError("world 'own' needs the parameter data: the folder of your log")


def source_stamp(world: str, data: str = "") -> str | None:
    """What tells one state of a world's source data from another: paths, sizes and times of its files; None where
    there are none."""
    if world == "fiction":
        return None
    from artlib.worlds import sources

    _require_own(world, data)
    folder = sources.folder(data)
    found = sorted((path.relative_to(folder).as_posix(), path.stat()) for path in folder.rglob("*") if path.is_file())
    listed = "".join(f"{name} {stat.st_size} {stat.st_mtime_ns}\n" for name, stat in found)
    return hashlib.sha256(f"{folder.absolute()}\n{listed}".encode()).hexdigest()


def _code() -> str:
    """sha256 of all that worlds are made of: a log built, or checked, by other code is another log."""
    folder = Path(__file__).parent
    sources = sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".yaml"))
    sources += [folder.parent / name for name in ("log.py", "log_faults.py")]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
