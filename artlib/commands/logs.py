"""Commands on logs: import, caption, validate, build."""

import argparse
import sys
from pathlib import Path


def add(commands) -> None:
    """Add them to the command line."""
    import_ = commands.add_parser("import", help="write a log from a folder of your own tables, CSV or Parquet")
    import_.add_argument("folder", type=Path, help="titles, artworks, impressions, histories, plays; mapping.yaml")
    import_.add_argument("out", type=Path, help="the log folder to write")
    import_.add_argument("--mapping", type=Path, metavar="FILE", help="default: mapping.yaml in the folder")
    import_.add_argument(
        "--estimate-propensities", action="store_true", help="where none were logged, from what was shown"
    )
    import_.set_defaults(command=_import)

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

    validate = commands.add_parser("validate", help="check a log folder against the contract")
    validate.add_argument("folder", type=Path)
    validate.set_defaults(command=_validate)

    build = commands.add_parser(
        "build", help="write a log of the benchmark (docs/benchmark.md), and check that it is the one"
    )
    build.add_argument("name", help="fiction-1, fiction-broad-1, movielens-1, upworthy-1")
    build.add_argument("folder", type=Path)
    build.add_argument("--data", default="", metavar="FOLDER", help="source data, for those that have any")
    build.set_defaults(command=_build)


def _import(options: argparse.Namespace) -> int:
    from artlib.data.tables import importing

    log = importing.import_folder(options.folder, options.out, options.mapping, options.estimate_propensities)
    for warning in log.warnings():
        print(f"warning: {warning}", file=sys.stderr)
    print(f"written: {options.out}")
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
    for line in work.refused_in_words():
        print(line, file=sys.stderr)
    return 1 if work.failed else 0


def _validate(options: argparse.Namespace) -> int:
    from artlib.data import Log

    log = Log.load(options.folder, validate=False)
    log.validate(options.folder)
    for name, table in log.tables().items():
        print(f"{name:<12}{table.num_rows:>12,}")
    print("valid")
    for warning in log.warnings():
        print(f"warning: {warning}", file=sys.stderr)
    return 0


def _build(options: argparse.Namespace) -> int:
    from artlib.worlds import build_frozen

    log = build_frozen(options.name, options.data)
    log.save(options.folder)
    print(f"written: {options.folder} ({len(log.impressions):,} impressions, digest {log.digest()})")
    return 0
