"""Commands on policies: train, evaluate, choose, export."""

import argparse
import dataclasses
import os
import sys
from pathlib import Path


def add(commands) -> None:
    """Add them to the command line."""
    train = commands.add_parser(
        "train", help="post-train an adapter on a log; in several processes, too (docs/scale.md); a killed one goes on"
    )
    train.add_argument("log", type=Path, metavar="LOG")
    train.add_argument("folder", type=Path, metavar="FOLDER", help="for the adapter: runs/NAME/adapters/METHOD")
    train.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="settings, as of run: method=sft"
    )
    train.set_defaults(command=_train)

    evaluate = commands.add_parser("evaluate", help="judge policies on a log: values and paired lifts")
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
    evaluate.add_argument(
        "--baseline", default="production", metavar="NAME", help="over which policy lifts are (default: production)"
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
        "requests", type=Path, help="Parquet, see docs/serving.md, a file or a folder of them; or a log, for its split"
    )
    choose.add_argument("folder", type=Path, metavar="out", help="a folder for the choices; a killed run goes on")
    choose.add_argument(
        "--explore", choices=("none", "epsilon", "softmax"), default="none", help="how choices are drawn"
    )
    choose.add_argument("--epsilon", type=float, help="of epsilon: share of any candidate (default: 0.05)")
    choose.add_argument("--temperature", type=float, help="of softmax: above 1 explores more (default: 1)")
    choose.add_argument("--seed", type=int, default=0, help="of the draws")
    choose.add_argument("--batch", type=int, default=1024, help="requests at once")
    choose.add_argument("--split", help="of a log (default: test)")
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


def _train(options: argparse.Namespace) -> int:
    from artlib.data import Log
    from artlib.posttrain import processes, train

    with processes.together():
        settings = processes.on_main(_trainable, options.set)
        log = processes.main_first(Log.load, options.log)
        training = train.post_train(log, options.folder, settings)
    if processes.is_main():
        before, *_, after = training["curve"]
        how = f"{settings.method} of {settings.base} by {settings.prompt}"
        print(f"{how}: {training['examples']:,} examples, {after['step']:,} steps, processes: {processes.count()}")
        print(f"validation loss {before['eval_loss']:.4f} before, {after['eval_loss']:.4f} after")
        print(f"written: {options.folder}")
    return 0


def _trainable(given: list[str]):
    """The settings of a training that needs no code."""
    from artlib.lm import embedded
    from artlib.posttrain.settings import METHODS
    from artlib.running import parameters

    settings = parameters.settings_of(given)
    settings = dataclasses.replace(settings, base=embedded.absolute(settings.base))
    if METHODS[settings.method].given_targets:
        raise parameters.ParameterError(
            f"method={settings.method} learns from targets, which code gives to artlib.posttrain.train.post_train"
        )
    return settings


def _evaluate(options: argparse.Namespace) -> int:
    from artlib.analysis import entries
    from artlib.data import Log

    if options.out:
        entries.require_form(options.out, options.baseline)
    log = Log.load(options.log)
    table = entries.judge(
        log, options.policy, options.split, options.bootstrap, options.seed, baseline=options.baseline
    )
    print(entries.shown(table).to_string(index=False))
    if options.out:
        entries.save(options.out, log, table, options.split)
        print(f"written: {options.out}")
    return 0


def _choose(options: argparse.Namespace) -> int:
    import artlib
    from artlib.policies import chooser

    file = options.requests
    is_log = (file / "impressions.parquet").exists()
    for name, belongs, given in (
        ("epsilon", "--explore epsilon", options.explore == "epsilon"),
        ("temperature", "--explore softmax", options.explore == "softmax"),
        ("split", "a log", is_log),
    ):
        if getattr(options, name) is not None and not given:
            raise chooser.ChoiceError(f"--{name} goes with {belongs} only; leave it out, or give that")
    how = {name: value for name in ("epsilon", "temperature") if (value := getattr(options, name)) is not None}
    policy = artlib.load_policy(options.adapter, options.explore, seed=options.seed, **how)
    if is_log:
        file = chooser.requests_of(file, options.split or "test", options.folder)
    answer = chooser.answer_folder if file.is_dir() else chooser.answer_file
    total, kept = answer(policy, file, options.folder, options.batch)
    print(f"{total:,} requests, {kept:,} of them answered before: {options.folder}")
    return 0


def _export(options: argparse.Namespace) -> int:
    from artlib import files
    from artlib.lm import export

    settings = (files.read_json(options.adapter / "training.json") or {}).get("settings")
    if settings is None:
        print(f"{options.adapter} holds no training.json; give runs/NAME/adapters/METHOD", file=sys.stderr)
        return 2
    export.export(
        settings["base"],
        options.adapter,
        options.path,
        options.form,
        settings["dtype"],
        options.llama_cpp,
        settings["max_tokens"],
    )
    print(f"written: {options.path}")
    return 0
