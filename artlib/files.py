"""Writing to disk so that a killed process never leaves something half-written under a real name; checksums."""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path`, else it is removed.

    The temporary may be made a file or a folder. A folder that stood at `path` before is replaced whole.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    discard(temporary)
    try:
        yield temporary
        if path.is_dir():
            discard(path)
        os.replace(temporary, path)
    finally:
        discard(temporary)


def left_half_written(folder: str | os.PathLike) -> list[Path]:
    """What `replacing` left in a folder in processes that were killed, and papermill in notebooks that were."""
    found = []
    for path in Path(folder).rglob(".*.partial*"):
        writer = re.fullmatch(r"\..*\.(\d+)\.partial", path.name)
        if writer is None or not _is_running(int(writer[1])):
            found.append(path)
    return found


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def discard(path: str | os.PathLike) -> None:
    """Remove a file or folder, if it is there."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sha256(path: str | os.PathLike) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: str | os.PathLike, content: object) -> None:
    """Write `content` as JSON, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True, default=str) + "\n")


def read_json(path: str | os.PathLike) -> dict | None:
    """Read JSON; None where there is none, or none that is whole."""
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def json_lines(path: str | os.PathLike) -> Iterator[Callable[[dict], None]]:
    """Yield a function that adds an entry to a file of JSON lines, so that a killed process loses the last at most."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        if path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            file.write("\n")  # a killed process's last line

        def add(entry: dict) -> None:
            file.write(json.dumps(entry) + "\n")
            file.flush()

        yield add


def read_json_lines(path: str | os.PathLike) -> list[dict]:
    """The entries of a file of JSON lines, if it is there, without a line that a killed process left half-written."""
    path, found = Path(path), []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else ():
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict):
                found.append(entry)
    return found
