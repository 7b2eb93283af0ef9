"""Where a run keeps its files, and what it says of itself in `run.json`: what notebooks call."""

import contextlib
import datetime
import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import filelock

from artlib import ArtlibError, files
from artlib.running.parameters import plain_name

PACKAGE = Path(__file__).resolve().parents[1]
LIBRARIES = ("torch", "transformers", "trl", "peft", "unsloth", "vllm")
# Which notebook makes what of a run.
PRODUCTS = {
    "log": "01_explore_data",
    "adapters": "02_train_lora",
    "policies": "03_evaluate",
    "evaluation.parquet": "03_evaluate",
    "errors": "04_analyze_errors",
}


class MissingStep(ArtlibError, FileNotFoundError):
    """A notebook needs what an earlier one makes, and it is not there."""


class RunStopped(ArtlibError, RuntimeError):
    """A run cannot go on; the message is for its user."""


def root() -> Path | None:
    """The repository's root, if artlib is imported from a checkout."""
    return PACKAGE.parent if (PACKAGE.parent / "pyproject.toml").is_file() else None


def runs_folder() -> Path:
    """Where runs lie: the environment's ARTLIB_RUNS, else `runs` in the repository, else `./runs`."""
    return Path(os.environ.get("ARTLIB_RUNS") or (root() or Path.cwd()) / "runs").expanduser().absolute()


def of(run: str, needs: Iterable[str] = ()) -> Path:
    """The folder of a run, made if it is not there.

    Args:
        run: its name.
        needs: what must be there already, relative to the folder: `log`, `adapters/sft`.

    Raises:
        MissingStep: something needed is missing; says which notebook makes it.
    """
    folder = runs_folder() / plain_name(run)
    for need in needs:
        if not (folder / need).exists():
            maker = PRODUCTS.get(Path(need).parts[0], "an earlier one")
            command = read(folder).get("command", f"python -m artlib run --profile demo --run {run}")
            raise MissingStep(
                f"{folder / need} is missing: notebook {maker} makes it. Run all cells of {maker}.ipynb in "
                f"JupyterLab with run = {run!r}, or `{command}`"
            )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def record(folder: Path, notebook: str, /, **results) -> None:
    """Write a notebook's results into its run's `run.json`, beside those already there.

    Args:
        folder: the run's.
        notebook: its name, without `.ipynb`.
        results: plain values, numpy's too; NaN and infinity become null, which is all that JSON has for them.
    """
    plain = {name: _plain(name, value) for name, value in results.items()}
    with changing(folder) as content:
        content.setdefault("results", {}).setdefault(notebook, {}).update(plain)


def versions() -> dict[str, str | None]:
    """Versions of Python and of what decides the results, without importing it; None where not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def heading() -> str:
    """The versions in a line, as a notebook shows them."""
    return ", ".join(f"{name} {version}" for name, version in versions().items() if version)


def commit(folder: Path, but: str = "") -> str | None:
    """The commit of a checkout, with `+changes` when files differ from it; None outside git.

    Args:
        folder: the checkout, or one in it.
        but: a folder at the top of the checkout whose changes do not count, as where results are written.
    """
    counted = [":(top)", *([f":(top,exclude){but}"] if but else [])]
    said = []
    for question in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", *counted]):
        try:
            git = subprocess.run(["git", "-C", folder, *question], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        said.append(git.stdout.strip())
    return said[0] + ("+changes" if said[1] else "")


def read(folder: Path) -> dict:
    """What `run.json` of a run holds; empty where there is none."""
    path = folder / "run.json"
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise RunStopped(f"{path} is not JSON ({error}); delete it, and all notebooks run again") from None


@contextlib.contextmanager
def changing(folder: Path) -> Iterator[dict]:
    """Hold `run.json` while its content is changed, so that two notebooks that record lose no result."""
    with filelock.FileLock(folder / ".run.json.lock"):
        content = read(folder)
        yield content
        files.write_json(folder / "run.json", content)


def _plain(name: str, value: object) -> object:
    """The value as JSON has it. numpy, pandas and torch need not be imported: their values know `tolist`."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(name, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(name, item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (str, int, type(None))):
        return value
    if isinstance(value, (Path, datetime.date)):
        return str(value)
    raise ValueError(f"result {name}: a {type(value).__name__} cannot be written as JSON; give plain values")
