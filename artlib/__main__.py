"""The command line: run the notebooks, import or check a log, export a model, fill in tables, list the parameters."""

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any

from artlib import ArtlibError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns its exit code: 0 done, 1 the work failed, 2 the request is wrong."""
    # As Ctrl-C does, so that a stopped run takes its kernel along.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = _parser().parse_args(arguments)
    try:
        code = options.command(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read has read enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ArtlibError as error:
        code, message = error.exit_code, str(error)
    except KeyboardInterrupt:
        code, message = 130, "interrupted"
    print(f"artlib: {message}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m artlib", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    run = commands.add_parser("run", help="run the notebooks in order; finished ones are skipped")
    run.add_argument("--profile", required=True, help="a file in notebooks/profiles, without .yaml")
    run.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="over it")
    run.add_argument("--run", metavar="NAME", help="name of the run (default: the profile's)")
    run.add_argument("--publish", action="store_true", help="then copy figures and outputs to the repository")
    run.add_argument("--force", action="store_true", help="skip no notebook")
    run.add_argument("--timeout", type=int, metavar="SECONDS", help="the most a cell may take (default: any)")
    run.set_defaults(command=_run)

    validate = commands.add_parser("validate", help="check a log folder against the contract")
    validate.add_argument("folder", type=Path)
    validate.set_defaults(command=_validate)

    import_ = commands.add_parser("import", help="write a log from a folder of your own tables, CSV or Parquet")
    import_.add_argument("folder", type=Path, help="titles, artworks, impressions, histories, plays; mapping.yaml")
    import_.add_argument("out", type=Path, help="the log folder to write")
    import_.add_argument("--mapping", type=Path, metavar="FILE", help="default: mapping.yaml in the folder")
    import_.add_argument(
        "--estimate-propensities", action="store_true", help="where none were logged, from what was shown"
    )
    import_.set_defaults(command=_import)

    export = commands.add_parser("export", help="write the base model with an adapter's weights added in")
    export.add_argument("adapter", type=Path, help="runs/NAME/adapters/METHOD")
    export.add_argument("path", type=Path, help="what to write: a folder, or with --form gguf a file")
    export.add_argument("--form", choices=("merged", "gguf"), default="merged", help="16 bit, or llama.cpp's 8 bit")
    export.add_argument(
        "--llama-cpp",
        metavar="FOLDER",
        default=os.environ.get("LLAMA_CPP"),
        help="llama.cpp's sources, which convert to gguf (default: LLAMA_CPP)",
    )
    export.set_defaults(command=_export)

    report = commands.add_parser("report", help="bring the tables of README and docs up to date with results/")
    report.set_defaults(command=_report)

    parameters = commands.add_parser("parameters", help="list what --set knows")
    parameters.set_defaults(command=_parameters)
    for command in (run, parameters):
        command.add_argument("--notebooks", type=Path, metavar="FOLDER", help="default: the repository's")
    return parser


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


def _validate(options: argparse.Namespace) -> int:
    from artlib.data import Log

    log = Log.load(options.folder, validate=False)
    log.validate(options.folder)
    for name, table in log.tables().items():
        print(f"{name:<12}{table.num_rows:>12,}")
    for warning in log.warnings():
        print(f"warning: {warning}", file=sys.stderr)
    return 0


def _import(options: argparse.Namespace) -> int:
    from artlib.data import importing

    log = importing.import_folder(options.folder, options.out, options.mapping, options.estimate_propensities)
    for warning in log.warnings():
        print(f"warning: {warning}", file=sys.stderr)
    print(f"written: {options.out}")
    return 0


def _export(options: argparse.Namespace) -> int:
    from artlib import files
    from artlib.lm import export

    settings = (files.read_json(options.adapter / "training.json") or {}).get("settings")
    if settings is None:
        print(f"{options.adapter} holds no training.json; give runs/NAME/adapters/METHOD", file=sys.stderr)
        return 2
    export.export(settings["base"], options.adapter, options.path, options.form, settings["dtype"], options.llama_cpp)
    print(f"written: {options.path}")
    return 0


def _report(options: argparse.Namespace) -> int:
    from artlib.running import report, run_folder

    for page in report.write(run_folder.root() or Path.cwd()):
        print(f"written: {page}")
    return 0


def _parameters(options: argparse.Namespace) -> int:
    from artlib.running import parameters, pipeline

    paths = pipeline.notebooks_in(pipeline.notebooks_folder(options.notebooks))
    for known in parameters.known(paths).values():
        where = "through overrides" if known.overrides else ", ".join(known.notebooks)
        print(f"{known.name}: {known.type} = {known.default!r}  # {known.meaning}{_allowed(known.name)}  [{where}]")
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


if __name__ == "__main__":
    sys.exit(main())
