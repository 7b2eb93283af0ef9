"""The notebooks in order, headless, going on where a killed run stopped; and where a run keeps its files.

`run` is what `python -m artlib run` calls. `run_folder` and `record` are what the notebooks themselves call.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import shlex
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import filelock

from artlib import files, notebook, parameters, publish
from artlib.display import duration

PACKAGE = Path(__file__).resolve().parent
LIBRARIES = ("torch", "transformers", "trl", "peft", "unsloth", "vllm")
# Which notebook makes what of a run.
PRODUCTS = {
    "log": "01_explore_data",
    "adapters": "02_train_lora",
    "policies": "03_evaluate",
    "evaluation.parquet": "03_evaluate",
    "errors": "04_analyze_errors",
}
# How long the notebooks of published profiles took, and at which rate of a matrix product.
DURATIONS = "results/durations.json"
# What a notebook reads besides its run, in the repository.
READS = {"05_compare_methods": "figures/methods-*.json"}


class MissingStep(FileNotFoundError):
    """A notebook needs what an earlier one makes, and it is not there."""


class RunStopped(RuntimeError):
    """A run cannot go on; the message is for its user."""


def root() -> Path | None:
    """The repository's root, if artlib is imported from a checkout."""
    return PACKAGE.parent if (PACKAGE.parent / "pyproject.toml").is_file() else None


def runs_folder() -> Path:
    """Where runs lie: the environment's ARTLIB_RUNS, else `runs` in the repository, else `./runs`."""
    return Path(os.environ.get("ARTLIB_RUNS") or (root() or Path.cwd()) / "runs").expanduser().absolute()


def run_folder(run: str, needs: Iterable[str] = ()) -> Path:
    """The folder of a run, made if it is not there.

    Args:
        run: its name.
        needs: what must be there already, relative to the folder: `log`, `adapters/sft`.

    Raises:
        MissingStep: something needed is missing; says which notebook makes it.
    """
    folder = runs_folder() / parameters.plain_name(run)
    for need in needs:
        if not (folder / need).exists():
            maker = PRODUCTS.get(Path(need).parts[0], "an earlier one")
            command = _read(folder).get("command", f"python -m artlib run --profile demo --run {run}")
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
    with _changing(folder) as content:
        content.setdefault("results", {}).setdefault(notebook, {}).update(plain)


def run(
    profile: str,
    settings: Iterable[str] = (),
    name: str | None = None,
    notebooks: Path | None = None,
    force: bool = False,
    publishing: bool = False,
    timeout: int | None = None,
) -> Path:
    """Run the notebooks in order; those that finished before with the same inputs are skipped.

    The environment is changed for the kernels: they start in the notebooks' folder, so paths become absolute.

    Args:
        profile: name of a YAML file in the notebooks' `profiles`.
        settings: `key=value`, over the profile.
        name: the run's; the profile's unless given.
        notebooks: their folder; the repository's unless given.
        force: skip none.
        publishing: afterwards copy figures and outputs into the repository (`artlib.publish`).
        timeout: seconds a cell may take; no limit unless given.

    Returns:
        The run's folder.

    Raises:
        ParameterError: a parameter, profile or name is wrong. Nothing has started.
        NotebookFailed: a cell failed; nothing that looks finished is left of its notebook.
        RunStopped: another process has the run.
    """
    notebooks = notebooks_folder(notebooks)
    paths = notebooks_in(notebooks)
    known = parameters.known(paths)
    _require_run(known, paths)
    values = parameters.resolve(known, notebooks / "profiles" / f"{profile}.yaml", settings, name)
    for given in ("data", "base"):
        path = Path(values.get(given) or "").expanduser()
        if values.get(given) and path.is_dir():
            values[given] = str(path.absolute())
    _set_environment()
    folder = run_folder(values["run"])
    print(f"{len(paths)} notebooks, profile {profile}, into {folder}", flush=True)
    lock = filelock.FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise RunStopped(f"{folder} is in use by another runner; wait, or take another --run") from None
    try:
        with _changing(folder) as content:
            content.update(profile=profile, command=_command(profile, settings, name))
        for left in files.left_half_written(folder):
            files.discard(left)
        _run_steps(paths, known, values, folder, force, timeout, Forecast.of(profile, notebooks))
        if publishing:
            published = publish.publish(folder, _read(folder), paths, known, values)
            print("\n".join(published), flush=True)
            if not list(settings):
                publish.record_durations(notebooks.parent / DURATIONS, profile, _read(folder)["steps"])
    finally:
        lock.release()
    return folder


def notebooks_folder(folder: Path | None = None) -> Path:
    """The given folder, or else the repository's `notebooks`."""
    return Path(folder or (root() or Path.cwd()) / "notebooks").absolute()


def notebooks_in(folder: Path) -> list[Path]:
    """The numbered notebooks of a folder, in order."""
    paths = sorted(folder.glob("[0-9]*_*.ipynb"))
    if not paths:
        raise parameters.ParameterError(f"no notebooks in {folder}; give their folder with --notebooks")
    return paths


def fingerprints(paths: list[Path], steps: Mapping[str, dict], package: Path) -> dict[str, str]:
    """What decides whether a finished notebook still holds.

    Args:
        paths: the notebooks, in order.
        steps: parameters by notebook.
        package: whose Python and YAML files the notebooks run.

    Returns:
        By notebook, the SHA-256 of its code cells, its parameters, the package, its source data, what it `READS`,
        and the notebooks before it.
    """
    sources = sorted(p for p in package.rglob("*") if p.suffix in (".py", ".yaml"))
    code = [(p.relative_to(package).as_posix(), files.sha256(p)) for p in sources]
    found: dict[str, str] = {}
    for path in paths:
        cells = notebook.code(notebook.read(path))
        inputs = [cells, steps[path.stem], code, list(found.values())]
        if {"world", "data"} <= steps[path.stem].keys():
            inputs.append(_source_stamp(steps[path.stem]["world"], steps[path.stem]["data"]))
        if path.stem in READS:
            inputs += [files.sha256(read) for read in sorted(path.parent.parent.glob(READS[path.stem]))]
        found[path.stem] = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    return found


def _source_stamp(world: str, data: str) -> str | None:
    from artlib import worlds
    from artlib.log import LogError

    try:
        return worlds.source_stamp(world, data)
    except LogError:
        return None  # the notebook will say what is wrong


@dataclasses.dataclass
class Forecast:
    """How long notebooks will take, from how long they took elsewhere.

    Attributes:
        seconds: by notebook, what it took when its profile was last published; empty if it never was.
        factor: how many times as long it takes here: at first by the rates of a matrix product on both machines, then
            by the notebooks that have run.
    """

    seconds: dict[str, float]
    factor: float = 1.0
    expected: float = 0.0
    took: float = 0.0

    @classmethod
    def of(cls, profile: str, notebooks: Path) -> "Forecast":
        """The forecast for a profile's own settings on this machine, whose rate is measured now."""
        known = (files.read_json(notebooks.parent / DURATIONS) or {}).get(profile)
        if not known:
            return cls({})
        from artlib import machine

        dtype = machine.best_type()
        rate = machine.rate(dtype)
        forecast = cls(known["seconds"], known["flops"] / rate)
        print(
            f"about {duration(forecast.to_go(known['seconds']))} on this machine, with the profile's own settings: "
            f"{machine.described()['device']}, {rate / 1e9:,.0f} GFLOP/s in {dtype}, measured just now",
            flush=True,
        )
        return forecast

    def to_go(self, names: Iterable[str]) -> float:
        """Seconds that these notebooks will take together; 0 if unknown."""
        return sum(self.factor * self.seconds.get(name, 0) for name in names)

    def learn(self, name: str, took: float) -> None:
        """Correct the factor by what a notebook took."""
        if name in self.seconds:
            self.expected, self.took = self.expected + self.seconds[name], self.took + took
            self.factor = self.took / self.expected


def _run_steps(
    paths: list[Path], known: dict, values: dict, folder: Path, force: bool, timeout: int | None, forecast: Forecast
) -> None:
    steps = {p.stem: {n: values[n] for n in known if p.stem in known[n].notebooks} for p in paths}
    prints = fingerprints(paths, steps, PACKAGE)
    outputs = folder / "notebooks"
    for number, path in enumerate(paths):
        label = f"[{number + 1}/{len(paths)}] {path.stem}"
        if not force and _is_finished(folder, path.stem, prints[path.stem]):
            print(f"{label} ... unchanged, skipped", flush=True)
            continue
        own, rest = (forecast.to_go(p.stem for p in part) for part in (paths[number : number + 1], paths[number:]))
        about = f" (about {duration(own)}; {duration(rest)} to the end)" if own else ""
        print(f"{label} ...{about}", flush=True)
        _forget(folder, [later.stem for later in paths[number:]])
        started, begun, clock = _now(), time.time(), time.monotonic()
        notebook.execute(path, outputs / path.name, steps[path.stem], label, timeout, own or None)
        seconds = time.monotonic() - clock
        forecast.learn(path.stem, seconds)
        with _changing(folder) as content:
            content.setdefault("steps", {})[path.stem] = {
                "fingerprint": prints[path.stem],
                "parameters": steps[path.stem],
                "started": started,
                "seconds": round(seconds, 1),
                "versions": versions(),
                "commit": commit(path.parent),
                "products": [p for p, by in PRODUCTS.items() if by == path.stem and (folder / p).exists()],
                "figures": sorted(p.name for p in folder.glob("figures/*.png") if p.stat().st_mtime >= begun),
            }
        print(f"{label} ... {duration(seconds)}", flush=True)


def _is_finished(folder: Path, notebook: str, fingerprint: str) -> bool:
    step = _read(folder).get("steps", {}).get(notebook, {})
    made = [f"notebooks/{notebook}.ipynb", f"notebooks/{notebook}.html", *step.get("products", [])]
    return step.get("fingerprint") == fingerprint and all((folder / path).exists() for path in made)


def _forget(folder: Path, notebooks: list[str]) -> None:
    """Take back what says that these are finished: their inputs are about to change."""
    with _changing(folder) as content:
        for notebook in notebooks:
            content.get("steps", {}).pop(notebook, None)
            content.get("results", {}).pop(notebook, None)
    for notebook in notebooks:
        for left in (folder / "notebooks").glob(f"*{notebook}.*"):
            files.discard(left)


def versions() -> dict[str, str | None]:
    """Versions of Python and of what decides the results, without importing it; None where not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def _set_environment() -> None:
    os.environ["ARTLIB_RUNS"] = str(runs_folder())
    if os.environ.get("ARTLIB_DATA"):
        os.environ["ARTLIB_DATA"] = str(Path(os.environ["ARTLIB_DATA"]).expanduser().absolute())
    if root():  # the artlib that was fingerprinted, whichever is installed
        others = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p != str(root())]
        os.environ["PYTHONPATH"] = os.pathsep.join([str(root()), *others])


def _require_run(known: dict, paths: list[Path]) -> None:
    having = known["run"].notebooks if "run" in known and known["run"].type == "str" else ()
    for path in paths:
        if path.stem not in having:
            raise parameters.ParameterError(f"{path}: declares no parameter `run: str`, the run's name")


def _command(profile: str, settings: Iterable[str], name: str | None) -> str:
    words = ["python", "-m", "artlib", "run", "--profile", profile]
    words += ["--run", name] if name else []
    return shlex.join(words + [word for setting in settings for word in ("--set", setting)])


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


def _read(folder: Path) -> dict:
    path = folder / "run.json"
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise RunStopped(f"{path} is not JSON ({error}); delete it, and all notebooks run again") from None


@contextlib.contextmanager
def _changing(folder: Path) -> Iterator[dict]:
    """Hold `run.json` while its content is changed, so that two notebooks that record lose no result."""
    with filelock.FileLock(folder / ".run.json.lock"):
        content = _read(folder)
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


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
