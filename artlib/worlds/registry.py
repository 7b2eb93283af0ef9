"""What a world is, and which there are: every module of this folder that has a `WORLD`, and what was registered."""

import dataclasses
import difflib
import functools
import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from artlib.data import Log, LogError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclasses.dataclass(frozen=True)
class Frozen:
    """A log that results are compared on: it may never change under its name.

    Attributes:
        parameters: of `World.build`.
        digest: `Log.digest` of what is built.
    """

    parameters: dict
    digest: str


@dataclasses.dataclass(frozen=True)
class World:
    """Something that builds a log.

    Attributes:
        name: as the parameter `world` has it.
        build: makes the log; takes those of the parameters data, n_users, n_titles, n_train, n_validation, n_test,
            seed and genres that it has use for, by name.
        source: the folder of the source data for the parameter `data`; None for a world that reads none.
        read: caption -> the genre it leans to, and the detail that gives it away; LookupError for other captions. Only
            worlds that compose captions know; without it, the teacher "world" has no reasons.
        reason: how a reason puts that detail, with {} in its place.
        draw: caption -> the picture that it describes, always the same; None for captions of other worlds. Worlds that
            do not draw have captions only.
        worth: log of this world -> what knowing each of the things that make members play would be worth; None where
            nobody knows.
        frozen: name -> a log of this world for the benchmark.
    """

    name: str
    build: Callable[..., Log]
    source: Callable[[str], Path] | None = None
    read: Callable[[str], tuple[str, str]] | None = None
    reason: str = ""
    draw: "Callable[[str], Image | None] | None" = None
    worth: Callable[[Log], pd.DataFrame] | None = None
    frozen: dict[str, Frozen] = dataclasses.field(default_factory=dict)


_REGISTERED: dict[str, World] = {}


def register(world: World) -> World:
    """Add a world that is not in this folder, for the time of this process."""
    _REGISTERED[world.name] = world
    return world


def known() -> dict[str, World]:
    """All worlds, by name."""
    return _in_this_folder() | _REGISTERED


def find(name: str) -> World:
    """The world of a name.

    Raises:
        LogError: there is none.
    """
    if name not in known():
        near = difflib.get_close_matches(name, known(), n=1)
        hint = f", did you mean {near[0]}?" if near else ""
        raise LogError(f"world {name!r} is not one of {', '.join(known())}{hint}")
    return known()[name]


def build_frozen(name: str, data: str = "") -> Log:
    """Build a log of the benchmark.

    Args:
        data: folder of the source data, for the worlds that have any.

    Raises:
        LogError: there is none of that name, or what is built is not what is frozen.
    """
    there = {frozen: (world, asked) for world in known().values() for frozen, asked in world.frozen.items()}
    if name not in there:
        raise LogError(f"no log {name!r} of the benchmark; there are {', '.join(there)}")
    world, asked = there[name]
    log = world.build(**asked.parameters, **({"data": data} if world.source else {}))
    if (found := log.digest()) != asked.digest:
        raise LogError(
            f"{name}: what is built has the digest {found}, the benchmark's has {asked.digest}: the code, the source "
            "data, a library's random numbers or the processor's arithmetic is another (x86: set "
            "OPENBLAS_CORETYPE=Haswell); results on it cannot be compared with the published ones"
        )
    log.manifest["benchmark"] = name
    return log


@functools.cache
def _in_this_folder() -> dict[str, World]:
    names = (module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    modules = (importlib.import_module(f"artlib.worlds.{name}") for name in names)
    return {world.name: world for module in modules if (world := getattr(module, "WORLD", None))}
