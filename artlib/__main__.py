"""The command line: run the notebooks, check and caption a log, export a model, fill in tables, list parameters."""

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

    caption = commands.add_parser("caption", help="describe the artworks that have a picture and no caption")
    caption.add_argument("folder", type=Path, metavar="LOG")
    caption.add_argument("--captioner", metavar="NAME", help="an endpoint's URL, or a folder or hub id of a model")
    caption.add_argument("--model", default="", metavar="NAME", help="the endpoint's (its key: OPENAI_API_KEY)")
    caption.add_argument("--workers", type=int, metavar="N", help="questions at once (default: 8)")
    caption.add_argument("--words", type=int, metavar="N", help="of a caption, at most (default: 60)")
    caption.add_argument("--side", type=int, metavar="PIXELS", help="longer side, as sent (default: 768)")
    caption.add_argument("--limit", type=int, metavar="N", help="only so many artworks, to try it")
    caption.add_argument("--dry-run", action="store_true", help="ask nobody; say what would be asked")
    caption.set_defaults(command=_caption)

    build = commands.add_parser(
        "build", help="write a log of the benchmark (docs/benchmark.md), and check that it is the one"
    )
    build.add_argument("name", help="fiction-1, fiction-broad-1, movielens-1, upworthy-1")
    build.add_argument("folder", type=Path)
    build.add_argument("--data", default="", metavar="FOLDER", help="source data, for those that have any")
    build.set_defaults(command=_build)

    evaluate = commands.add_parser("evaluate", help="judge policies on a log: values and lifts over production")
    evaluate.add_argument("log", type=Path, metavar="LOG")
    evaluate.add_argument(
        "--policy",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="Parquet: impression_id, probabilities; or a folder of such files, as runs/NAME/policies",
    )
    evaluate.add_argument("--split", default="test", help="which impressions judge (default: test)")
    evaluate.add_argument("--bootstrap", type=int, default=1000, metavar="N", help="replicates, clustered by user")
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument(
        "--out", type=Path, metavar="FILE", help="all estimates: .parquet, .csv, or .json for an entry"
    )
    evaluate.set_defaults(command=_evaluate)

    choose = commands.add_parser("choose", help="answer requests with a post-trained model: what to show, how probably")
    choose.add_argument("adapter", type=Path, help="runs/NAME/adapters/METHOD")
    choose.add_argument(
        "requests", type=Path, help="Parquet, see docs/serving.md; or a log, whose split is asked about"
    )
    choose.add_argument("folder", type=Path, metavar="out", help="a folder for the choices; a killed run goes on")
    choose.add_argument(
        "--explore", choices=("none", "epsilon", "softmax"), default="none", help="how choices are drawn"
    )
    choose.add_argument("--epsilon", type=float, default=0.05, help="of epsilon: share of any candidate")
    choose.add_argument("--temperature", type=float, default=1.0, help="of softmax: above 1 explores more")
    choose.add_argument("--seed", type=int, default=0, help="of the draws")
    choose.add_argument("--batch", type=int, default=1024, help="requests at once")
    choose.add_argument("--split", default="test", help="of a log")
    choose.set_defaults(command=_choose)

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


def _build(options: argparse.Namespace) -> int:
    from artlib.worlds import build_frozen

    log = build_frozen(options.name, options.data)
    log.save(options.folder)
    print(f"written: {options.folder} ({len(log.impressions):,} impressions, digest {log.digest()})")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from artlib.analysis import entries
    from artlib.data import Log

    log = Log.load(options.log)
    table = entries.judge(log, options.policy, options.split, options.bootstrap, options.seed)
    print(entries.shown(table).to_string(index=False))
    if options.out:
        entries.save(options.out, log, table)
        print(f"written: {options.out}")
    return 0


def _choose(options: argparse.Namespace) -> int:
    import artlib
    from artlib.policies import chooser

    how = {name: getattr(options, name) for name in ("epsilon", "temperature", "seed")}
    policy = artlib.load_policy(options.adapter, options.explore, **how)
    file = options.requests
    if file.is_dir():
        file = chooser.requests_of(file, options.split, options.folder)
    total, kept = chooser.answer_file(policy, file, options.folder, options.batch)
    print(f"{total:,} requests, {kept:,} of them answered before: {options.folder}")
    return 0


def _caption(options: argparse.Namespace) -> int:
    from artlib.captions import fill

    given = {name: getattr(options, name) for name in ("words", "side", "limit", "workers")}
    given = {name: number for name, number in given.items() if number is not None}  # the rest has defaults
    if wrong := [name for name, number in given.items() if number < 1]:
        print(f"artlib: --{wrong[0]} {given[wrong[0]]} must be at least 1", file=sys.stderr)
        return 2
    workers = given.pop("workers", 8)
    if options.dry_run:
        work = fill.plan(options.folder, options.model or options.captioner or "", **given)
        print(work.todo())
    elif not options.captioner:
        print("artlib: say who describes the pictures with --captioner, or give --dry-run", file=sys.stderr)
        return 2
    else:
        asked = fill.captioner(options.captioner, options.model, workers)
        work = fill.fill(options.folder, asked, **given)
        print(work.done())
    said, warnings = work.audit()
    print(said)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for artwork, reason in list(work.refused.items())[:20]:
        print(f"no caption: {artwork}: {reason}", file=sys.stderr)
    if len(work.failed) > 20:
        print(f"no caption: and {len(work.failed) - 20:,} more artworks", file=sys.stderr)
    return 1 if work.failed else 0


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
