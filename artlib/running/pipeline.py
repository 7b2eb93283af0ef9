"""The notebooks in order, headless, going on where a killed run stopped.

`run` is what `python -m artlib run` calls.
"""

import datetime
import os
import shlex
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import filelock

from artlib import files, fingerprint
from artlib.data import LogError
from artlib.lm import embedded
from artlib.running import forecast, notebook, parameters, publish, report, run_folder
from artlib.running.display import duration
from artlib.running.forecast import DURATIONS, Forecast
from artlib.running.run_folder import RunStopped, changing, commit, read, root

# What a notebook reads besides its run, in the repository.
READS = {"05_compare_methods": "results/methods-*.json"}


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
        publishing: afterwards copy figures and outputs into the repository (`artlib.running.publish`).
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
    asked = dict(values)
    if values.get("data"):
        if not (path := Path(values["data"]).expanduser()).is_dir():
            raise parameters.ParameterError(f"parameter data: {values['data']!r} is not a folder")
        values["data"] = str(path.absolute())
    values |= {name: embedded.absolute(values[name]) for name in ("base", "encoder") if values.get(name)}
    if teacher := (values.get("overrides") or {}).get("teacher"):
        values["overrides"] = values["overrides"] | {"teacher": embedded.absolute(teacher)}
    _set_environment()
    folder = run_folder.of(values["run"])
    print(f"{len(paths)} notebooks, profile {profile}, into {folder}", flush=True)
    lock = filelock.FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise RunStopped(f"{folder} is in use by another runner; wait, or take another --run") from None
    try:
        with changing(folder) as content:
            content.update(profile=profile, command=_command(profile, settings, name))
        for left in files.left_half_written(folder):
            files.discard(left)
        _run_steps(paths, known, values, folder, force, timeout, Forecast.of(profile, notebooks))
        if publishing:
            published = publish.publish(folder, read(folder), paths, known, asked)
            print("\n".join([*published, *(f"written: {page}" for page in report.write(notebooks.parent))]), flush=True)
            if not list(settings):
                forecast.record(notebooks.parent / DURATIONS, profile, read(folder)["steps"])
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
    code = fingerprint.code(package)
    found: dict[str, str] = {}
    for path in paths:
        cells = notebook.code(notebook.read(path))
        inputs = [cells, steps[path.stem], code, list(found.values())]
        if {"world", "data"} <= steps[path.stem].keys():
            inputs.append(_source_stamp(steps[path.stem]["world"], steps[path.stem]["data"]))
        if path.stem in READS:
            inputs += [files.sha256(read) for read in sorted(path.parent.parent.glob(READS[path.stem]))]
        found[path.stem] = fingerprint.digest(inputs)
    return found


def _source_stamp(world: str, data: str) -> str | None:
    from artlib import worlds

    try:
        return worlds.source_stamp(world, data)
    except LogError:
        return None  # the notebook will say what is wrong


def _run_steps(
    paths: list[Path], known: dict, values: dict, folder: Path, force: bool, timeout: int | None, expected: Forecast
) -> None:
    steps = {p.stem: {n: values[n] for n in values if p.stem in known[n].notebooks} for p in paths}
    prints = fingerprints(paths, steps, run_folder.PACKAGE)
    outputs = folder / "notebooks"
    for number, path in enumerate(paths):
        label = f"[{number + 1}/{len(paths)}] {path.stem}"
        if not force and _is_finished(folder, path.stem, prints[path.stem]):
            print(f"{label} ... unchanged, skipped", flush=True)
            continue
        own, rest = (expected.to_go(p.stem for p in part) for part in (paths[number : number + 1], paths[number:]))
        about = f" (about {duration(own)}; {duration(rest)} to the end)" if own else ""
        print(f"{label} ...{about}", flush=True)
        _forget(folder, [later.stem for later in paths[number:]])
        started, begun, clock = _now(), time.time(), time.monotonic()
        notebook.execute(path, outputs / path.name, steps[path.stem], label, timeout, own or None)
        seconds = time.monotonic() - clock
        expected.learn(path.stem, seconds)
        with changing(folder) as content:
            content.setdefault("steps", {})[path.stem] = {
                "fingerprint": prints[path.stem],
                "parameters": steps[path.stem],
                "started": started,
                "seconds": round(seconds, 1),
                "versions": run_folder.versions(),
                "commit": commit(path.parent),
                "products": [p for p, by in run_folder.PRODUCTS.items() if by == path.stem and (folder / p).exists()],
                "figures": sorted(p.name for p in folder.glob("figures/*.png") if p.stat().st_mtime >= begun),
            }
        print(f"{label} ... {duration(seconds)}", flush=True)


def _is_finished(folder: Path, notebook: str, fingerprint: str) -> bool:
    step = read(folder).get("steps", {}).get(notebook, {})
    made = [f"notebooks/{notebook}.ipynb", f"notebooks/{notebook}.html", *step.get("products", [])]
    return step.get("fingerprint") == fingerprint and all((folder / path).exists() for path in made)


def _forget(folder: Path, notebooks: list[str]) -> None:
    """Take back what says that these are finished: their inputs are about to change."""
    with changing(folder) as content:
        for notebook in notebooks:
            content.get("steps", {}).pop(notebook, None)
            content.get("results", {}).pop(notebook, None)
    for notebook in notebooks:
        for left in (folder / "notebooks").glob(f"*{notebook}.*"):
            files.discard(left)


def _set_environment() -> None:
    os.environ["ARTLIB_RUNS"] = str(run_folder.runs_folder())
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


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
