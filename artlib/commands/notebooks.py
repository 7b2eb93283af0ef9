"""Commands on notebooks and pages: run, parameters, report."""

import argparse
from pathlib import Path
from typing import Any


def add(commands) -> None:
    """Add them to the command line."""
    run = commands.add_parser("run", help="run the notebooks in order; finished ones are skipped")
    run.add_argument("--profile", required=True, help="a file in notebooks/profiles, without .yaml")
    run.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="over it")
    run.add_argument("--run", metavar="NAME", help="name of the run (default: the profile's)")
    run.add_argument("--publish", action="store_true", help="then copy figures and outputs to the repository")
    run.add_argument("--force", action="store_true", help="skip no notebook")
    run.add_argument("--timeout", type=int, metavar="SECONDS", help="the most a cell may take (default: any)")
    run.set_defaults(command=_run)

    parameters = commands.add_parser("parameters", help="list what --set knows")
    parameters.set_defaults(command=_parameters)

    report = commands.add_parser("report", help="bring the tables of README and docs up to date with results/")
    report.set_defaults(command=_report)
    for command in (run, parameters):
        command.add_argument("--notebooks", type=Path, metavar="FOLDER", help="default: the repository's")


def _run(options: argparse.Namespace) -> int:
    from artlib.running import pipeline

    folder = pipeline.run(
        options.profile,
        options.set,
        options.run,
        options.notebooks,
        force=options.force,
        publishing=options.publish,
        timeout=options.timeout,
    )
    print(f"run finished: {folder}")
    return 0


def _parameters(options: argparse.Namespace) -> int:
    from artlib.running import parameters, pipeline

    paths = pipeline.notebooks_in(pipeline.notebooks_folder(options.notebooks))
    for known in parameters.known(paths).values():
        where = "through overrides" if known.overrides else ", ".join(known.notebooks)
        print(f"{known.name}: {known.type} = {known.default!r}  # {known.meaning}{_allowed(known.name)}  [{where}]")
    return 0


def _report(options: argparse.Namespace) -> int:
    from artlib.running import report, run_folder

    for page in report.write(run_folder.root() or Path.cwd()):
        print(f"written: {page}")
    return 0


def _allowed(name: str) -> str:
    """What a parameter may be, for a reader."""
    from artlib.posttrain.settings import FIELDS, Range
    from artlib.running.parameters import ALLOWED

    allowed: Any = FIELDS[name].metadata["allowed"] if name in FIELDS else ALLOWED.get(name)
    if allowed is None:
        return ""
    if isinstance(allowed, Range):
        return f" ({allowed})"
    return f" ({', '.join(allowed() if callable(allowed) else allowed)})"
