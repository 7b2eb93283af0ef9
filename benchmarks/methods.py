"""Post-training methods beside each other on one log: value, lifts, share of the gap closed, cost.

    python benchmarks/methods.py                             every entry of the grid on a small fiction world, seed 0
    python benchmarks/methods.py --seeds 0 1 2 --only "sft 2000" "dpo 2000"
    python benchmarks/methods.py --world movielens --data FOLDER
    timeout -s KILL 570 python benchmarks/methods.py --world paper      again and again, until it exits with 0

The last is the paper's scale, 110,000 training and 5,000 test impressions, for one GPU. Whatever is killed goes on:
adapters and their checkpoints are kept in runs/methods/WORLD, finished entries in the results. Methods learn from the
train split, one pass over equally many impressions; choices between methods may be made by validation; test is
reported, in true value and as the log's own estimates see it. Results: figures/methods-WORLD.json, which notebook
05_compare_methods reads.
"""

import argparse
import dataclasses
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from artlib import evaluation, files, machine, model, ope, pipeline, policy, train
from artlib.log import Log
from artlib.worlds import fiction, movielens

ROOT = Path(__file__).resolve().parents[1]
CAPTION = {"prompt": "caption", "learning_rate": 5e-4, "batch_size": 8, "micro_batch": 4, "temperature": 8.0}
LABEL = {"prompt": "label", "learning_rate": 5e-4, "batch_size": 8, "micro_batch": 4}
REASONED = {**LABEL, "method": "sft-reasoning", "prompt": "reasoned", "samples": 2, "max_new_tokens": 60}
# Where a title has one or two plays, a step over few titles follows their noise.
FEW_PLAYS = {"batch_size": 32, "learning_rate": 1e-3, "max_validation": 200}
REFINE = {"learning_rate": 5e-4}
DPO = {"method": "dpo", "beta": 1.0, **REFINE}
COUNTERFACTUAL = {"method": "counterfactual", **REFINE}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What is compared on one world.

    Attributes:
        build: makes the log, given the folder of the data that it needs, if any.
        sizes: plays that the text baseline learns from; the refining methods begin from sft on the largest.
        grid: name -> settings that differ from the defaults; the last word of a name is `max_examples`.
        few: test impressions for prompts that take long (one pass a rotation, or written answers); 0 for all.
        checked: validation plays for those prompts.
        validated: validation impressions on which choices are valued; 0 for all.
    """

    build: Callable[[str], Log]
    sizes: tuple[int, ...]
    grid: dict[str, dict]
    few: int = 0
    checked: int = 500
    validated: int = 0

    def settings(self, name: str, seed: int, base: str) -> train.Settings:
        own = self.grid.get(name, {})
        size = int(name.split()[-1]) if name in self.grid else self.sizes[-1]
        checked = {"max_validation": self.checked} if own.get("prompt", "audience") != "audience" else {}
        return train.Settings(base=base, seed=seed, **({"max_examples": size} | checked | own))


def _fiction(**sizes: int) -> Callable[[str], Log]:
    return lambda data: fiction.build(**sizes)


WORLDS = {
    "tiny": Comparison(  # to try the comparison out
        _fiction(n_users=100, n_titles=60, n_train=600, n_validation=200, n_test=200),
        sizes=(20, 40), few=20, checked=20,
        grid={"sft 40": {}, "counterfactual 80": COUNTERFACTUAL, "label sft 20": LABEL},
    ),
    "fiction": Comparison(
        _fiction(n_users=2000, n_titles=300, n_train=12_000, n_validation=2000, n_test=2000, seed=11),
        sizes=(250, 500, 1000, 2000), few=300, checked=40,
        grid={
            "sft twice 2000": {"epochs": 2},  # a second pass, as the methods that go on from sft have
            **{f"sft {size}": {} for size in (250, 500, 1000, 2000)},
            "sft-ips 2000": {"method": "sft-ips"},
            "dpo 2000": DPO,
            "softmax-dpo 2000": {**DPO, "method": "softmax-dpo"},
            "counterfactual 2000": COUNTERFACTUAL,
            "counterfactual 12000": COUNTERFACTUAL,
            "counterfactual-dr 12000": {"value": "dr", **COUNTERFACTUAL},
            "caption sft 500": {**CAPTION, "max_validation": 100},
            "label sft 500": LABEL,
            "label dpo 200": {**LABEL, "method": "dpo", "learning_rate": 1e-4},
            "sft-reasoning 300": REASONED,
        },
    ),
    "movielens": Comparison(
        lambda data: movielens.build(data, n_train=20_000, n_validation=3000, n_test=2000),
        sizes=(800, 3000), few=300, checked=120, validated=500,
        grid={
            "sft by 4 titles 800": {},  # a step, as elsewhere
            "sft 3000": FEW_PLAYS,  # not last: others go on from sft on 800
            "sft 800": FEW_PLAYS,
            "sft-ips 800": {**FEW_PLAYS, "method": "sft-ips"},
            "dpo 800": {**FEW_PLAYS, **DPO},
            "softmax-dpo 800": {**FEW_PLAYS, **DPO, "method": "softmax-dpo"},
            "counterfactual 2400": {**FEW_PLAYS, **COUNTERFACTUAL},
            "label sft 200": LABEL,
            "sft-reasoning 200": REASONED,
            "caption sft 800": CAPTION,
        },
    ),
    "paper": Comparison(
        _fiction(n_users=20_000, n_titles=3000, n_train=110_000, n_validation=5000, n_test=5000),
        sizes=(800, 5000, 110_000),
        grid={
            "sft 110000": {},
            "label sft 110000": LABEL,
            "caption sft 110000": CAPTION,
            "sft-reasoning 110000": REASONED,
            "dpo 110000": DPO,
            "counterfactual 110000": COUNTERFACTUAL,
        },
    ),
}  # fmt: skip


def main(arguments: list[str] | None = None, root: Path = ROOT) -> dict:
    """Run what is missing of a comparison.

    Args:
        arguments: of the command line.
        root: where runs/ and figures/ are.

    Returns:
        The results, as written to figures/.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--world", choices=list(WORLDS), default="fiction")
    parser.add_argument("--data", default="", help="folder of the data that the world needs; default: ARTLIB_DATA")
    parser.add_argument("--base", default=model.EMBEDDED, help="the model; results of another get its name")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", metavar="ENTRY", help="entries of the grid; default: all")
    given = parser.parse_args(arguments)
    comparison = WORLDS[given.world]
    only = given.only or list(comparison.grid)
    if unknown := set(only) - set(comparison.grid):
        parser.error(f"--only: {min(unknown)!r} is none of {', '.join(comparison.grid)}")
    name = given.world + ("" if given.base == model.EMBEDDED else "-" + given.base.rpartition("/")[2])
    folder, record = root / "runs" / "methods" / name, root / "figures" / f"methods-{name}.json"
    if not (folder / "log" / "manifest.json").exists():
        comparison.build(given.data).save(folder / "log")
    log = Log.load(folder / "log", validate=False)
    results = files.read_json(record) or {"rows": []}
    if results["rows"] and results["log"] != log.manifest["files"]:
        raise SystemExit(f"{record} is of another log than {folder / 'log'}: move one of them away")
    largest = f"text {comparison.sizes[-1]}"
    done = {
        (row["name"], row["seed"]) for row in results["rows"]
        if row["settings"] == comparison.grid.get(row["name"], {})
        # Lifts over the baseline need its choices, which are kept in runs/ only.
        and (row["name"] != largest or (folder / f"seed-{row['seed']}" / "policies" / "text.parquet").exists())
    }  # fmt: skip
    artworks = np.arange(len(log.artworks))
    embeddings = functools.cache(
        lambda: policy.caption_embeddings(log, artworks, comparison.settings("", 0, given.base))
    )
    for seed in given.seeds:
        for entry in ["zero-shot", *(f"text {size}" for size in comparison.sizes), *only]:
            # Nothing in zero-shot is random: one seed does for all.
            asked = entry == "zero-shot" and any(row["name"] == entry for row in results["rows"])
            if asked or (entry, seed) in done:
                continue
            print(f"== {entry}, seed {seed}", flush=True)
            started = time.perf_counter()
            row = {"name": entry, "seed": seed, "settings": comparison.grid.get(entry, {})}
            settings = comparison.settings(entry, seed, given.base)
            row |= _evaluated(log, entry, folder / f"seed-{seed}", settings, comparison, embeddings)
            row["seconds_in_all"] = round(time.perf_counter() - started, 1)
            row |= {"commit": pipeline.commit(ROOT, but="figures"), "date": time.strftime("%Y-%m-%d")}
            row["machine"] = {**machine.described(), "dtype": machine.resolve(settings.dtype)}
            results["rows"] = [r for r in results["rows"] if (r["name"], r["seed"]) != (entry, seed)] + [row]
            results |= {
                "command": f"python benchmarks/methods.py --world {given.world}",
                "log": log.manifest["files"],
            }
            files.write_json(record, results)
            print(json.dumps({key: value for key, value in row.items() if key != "settings"}), flush=True)
    return results


def _evaluated(
    log: Log, name: str, folder: Path, settings: train.Settings, comparison: Comparison, embeddings: Callable
) -> dict:
    """Train if there is something to train, choose the best candidate on both splits, and value the choices."""
    parts = {split: log.split(split) for split in ("validation", "test")}
    if comparison.validated:
        parts["validation"] = _some(parts["validation"], comparison.validated)
    extra, started = {}, None
    if name.startswith("text"):
        plays = train.plays(log, "train", int(name.split()[1]), settings.seed)
        check = train.plays(log, "validation", settings.max_validation, settings.seed)
        extra["examples"] = len(plays.impressions)
        chosen = {s: policy.text_scores(log, part, embeddings(), plays, check) for s, part in parts.items()}
    elif name == "zero-shot":
        chosen = {s: policy.llm_scores(log, part, settings, None) for s, part in parts.items()}
    else:
        if settings.method in train.objectives.REFINING:  # their start has settings of its own
            start = comparison.settings(_folder(name, settings, comparison), settings.seed, settings.base)
            started = train.post_train(log, folder / _folder(name, settings, comparison) / "sft", start)
            extra["start_seconds"] = started["seconds"]
        adapter = folder / _folder(name, settings, comparison) / settings.method
        training = train.post_train(log, adapter, settings)
        kept = ("examples", "seconds", "resumed", "tokens_per_second", "order_sensitivity", "teacher", "valid_answers")
        extra |= {key: training[key] for key in kept}
        extra["resumed"] |= bool(started and started["resumed"])  # then the minutes are not all that it took
        extra["validation_loss"] = [entry["eval_loss"] for entry in training["curve"] if "eval_loss" in entry]
        if settings.prompt != "audience" and comparison.few:
            parts = {"test": _some(parts["test"], comparison.few)}
        chosen = {split: policy.llm_scores(log, part, settings, adapter) for split, part in parts.items()}
    policies = {split: policy.greedy(scores) for split, scores in chosen.items()}
    if name == f"text {comparison.sizes[-1]}":  # for lifts over it
        policy.save(folder / "policies", "text", parts["test"], policies["test"])
    found = {split: _value(log, parts[split], policies[split], folder) for split in parts}
    if name not in comparison.grid:  # asked before the baseline, whose choices may be those of an earlier run
        found["test"].pop("over_text", None)
    return extra | found


def _some(part: Log, most: int) -> Log:
    return part.take(np.random.default_rng(0).permutation(len(part.impressions))[:most])


def _folder(name: str, settings: train.Settings, comparison: Comparison) -> str:
    """Where an adapter lies: in a folder of its entry. Refining methods begin from the sft beside them, and so get a
    folder in that of the last sft of the same prompt."""
    if settings.method not in train.objectives.REFINING:
        return name
    prefix = "" if settings.prompt == "audience" else f"{settings.prompt} "
    return [entry for entry in comparison.grid if entry.startswith(f"{prefix}sft ")][-1]


def _value(log: Log, part: Log, chosen: np.ndarray, folder: Path) -> dict:
    """True value; paired lifts over production, true and as IPS, SNIPS and DR see them, and over text, if that has
    been asked about the same impressions; 95 % intervals; the share of the gap from production to the oracle."""
    arrays, truth = part.arrays(), part.expected_reward()
    policies = {"production": arrays.production, "policy": chosen}
    shown = chosen, arrays.production, policy.oracle(part)
    value, production, best = (float((probability * truth).sum(axis=1).mean()) for probability in shown)
    found = {"n": len(arrays), "value": value, "production": production, "oracle": best}
    found |= _lift(evaluation.paired_lift(part, policies, "production", ["policy"]).iloc[0])
    found["gap_closed"] = (value - production) / (best - production)
    if part.impressions["split"][0].as_py() != "test":
        return found
    q_hat = evaluation.reward_model(log, part, policies)
    table = ope.compare(evaluation.feedbacks(part, policies, q_hat), "production", list(evaluation.ESTIMATORS))
    for _, row in table[table["policy"] == "policy"].iterrows():
        found[row["estimator"]] = _lift(row) | {"verdict": row["verdict"]}
    text = policy.read(folder / "policies", part)  # of this seed; asked first
    if text and not np.array_equal(text["text"], chosen):
        compared = evaluation.paired_lift(part, text | {"policy": chosen}, "text", ["policy"])
        found["over_text"] = _lift(compared.iloc[0])
    return found


def _lift(row) -> dict:
    return {name: float(row[name]) for name in ("lift", "lift_lower", "lift_upper")}


if __name__ == "__main__":
    main()
