"""A log that another system wrote, taken as it is once it validates."""

from pathlib import Path

from artlib.data import Log, LogError
from artlib.worlds.registry import World


def build(data: str = "") -> Log:
    """Open the log in the folder `data`."""
    return Log.load(source(data), validate=False)


def source(data: str = "") -> Path:
    """The folder of the log."""
    if not data:
        raise LogError("world 'own' needs the parameter data: the folder of your log")
    return Path(data).expanduser()


WORLD = World("own", build, source)
