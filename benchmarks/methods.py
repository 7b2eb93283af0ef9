"""Post-training methods beside each other on one log: value, lifts, share of the gap closed, cost.

    python benchmarks/methods.py                             every entry of GRID on a small fiction world, seed 0
    python benchmarks/methods.py --seeds 0 1 2 --only "sft 2000" "dpo 2000"
    python benchmarks/methods.py --log runs/movielens/log --name movielens --only "sft 2000"

Adapters are kept in runs/methods/NAME, so that a killed comparison goes on. Methods learn from the train split, one
pass over equally many impressions; choices between methods may be made by validation; test is reported. Values are
true ones: simulated worlds only. Results: figures/methods-NAME.json and .png.
"""

import argparse
import dataclasses
import json
import platform
import sys
import time
from pathlib import Path

import numpy as np

from artlib import evaluation, files, pipeline, policy, train
from artlib.log import Log
from artlib.worlds import fiction

ROOT = Path(__file__).resolve().parents[1]
WORLD = {"n_users": 2000, "n_titles": 300, "n_train": 12_000, "n_validation": 2000, "n_test": 2000, "seed": 11}
SIZES = (250, 500, 1000, 2000)
# name -> settings that differ from the defaults. A number is how many impressions are used at most.
REFINE = {"max_examples": 2000, "learning_rate": 5e-4}
GRID = {
    **{f"sft {size}": {"max_examples": size} for size in SIZES},
    "sft-ips 2000": {"method": "sft-ips", "max_examples": 2000},
    "dpo 2000": {"method": "dpo", "beta": 1.0, **REFINE},
    "softmax-dpo 2000": {"method": "softmax-dpo", "beta": 1.0, **REFINE},
    "counterfactual 2000": {"method": "counterfactual", **REFINE},
    "counterfactual 12000": {"method": "counterfactual", **REFINE, "max_examples": 12_000},
    "counterfactual-dr 12000": {"method": "counterfactual", "value": "dr", **REFINE, "max_examples": 12_000},
    "caption sft 500": {"prompt": "caption", "max_examples": 500, "learning_rate": 5e-4, "batch_size": 8,
                        "micro_batch": 4, "temperature": 8.0, "max_validation": 100},
    "label sft 500": {"prompt": "label", "max_examples": 500, "learning_rate": 5e-4, "batch_size": 8,
                      "micro_batch": 4, "max_validation": 40},
    "label dpo 200": {"prompt": "label", "method": "dpo", "max_examples": 200, "learning_rate": 1e-4,
                      "batch_size": 8, "micro_batch": 4, "max_validation": 40},
    "sft-reasoning 300": {"method": "sft-reasoning", "prompt": "reasoned", "max_examples": 300,
                          "learning_rate": 5e-4, "batch_size": 8, "micro_batch": 4, "samples": 2,
                          "max_validation": 40, "max_new_tokens": 60},
}  # fmt: skip
FEW = 300  # test impressions for prompts that take long: one pass a rotation, or written answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--log", type=Path, help="default: a small fiction world, built anew")
    parser.add_argument("--name", default="fiction", help="of the results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=list(GRID), default=list(GRID))
    arguments = parser.parse_args()
    folder, record = ROOT / "runs" / "methods" / arguments.name, ROOT / "figures" / f"methods-{arguments.name}.json"
    if arguments.log is None and not (folder / "log").exists():
        fiction.build(**WORLD).save(folder / "log")
    log = Log.load(arguments.log or folder / "log", validate=False)
    results = files.read_json(record) or {"rows": []}
    done = {(row["name"], row["seed"]) for row in results["rows"]}
    parts = {split: log.split(split) for split in ("validation", "test")}
    for seed in arguments.seeds:
        for name in ["zero-shot", *(f"text {size}" for size in SIZES), *arguments.only]:
            if (name, seed) in done:
                continue
            started = time.perf_counter()
            settings = dataclasses.replace(
                train.Settings(), **({"epochs": 1, "seed": seed} | GRID.get(name, {}))
            )  # fmt: skip
            print(f"== {name}, seed {seed}", flush=True)
            row = {"name": name, "seed": seed, "settings": GRID.get(name, {})}
            row |= _evaluated(log, parts, name, folder, settings)
            row["seconds_in_all"] = round(time.perf_counter() - started, 1)
            results["rows"].append(row)
            results["command"] = " ".join(["python", "benchmarks/methods.py", *sys.argv[1:]])
            results |= {"commit": pipeline.commit(ROOT), "date": time.strftime("%Y-%m-%d"),
                        "log": log.manifest["files"],
                        "machine": f"{platform.machine()}, Python {platform.python_version()}"}  # fmt: skip
            files.write_json(record, results)
            print(json.dumps({key: value for key, value in row.items() if key != "settings"}), flush=True)
    draw(results["rows"], record.with_suffix(".png"))


def _evaluated(log: Log, parts: dict[str, Log], name: str, folder: Path, settings: train.Settings) -> dict:
    """Train if there is something to train, choose the best candidate on both splits, and value the choices."""
    extra = {}
    if name.startswith("text"):
        plays = train.plays(log, "train", int(name.split()[1]), settings.seed)
        check = train.plays(log, "validation", settings.max_validation, settings.seed)
        embeddings = policy.caption_embeddings(log, settings)
        extra["examples"] = len(plays.impressions)
        chosen = {s: policy.text_scores(log, part, embeddings, plays, check) for s, part in parts.items()}
    elif name == "zero-shot":
        chosen = {s: policy.llm_scores(log, part, settings, None) for s, part in parts.items()}
    else:
        adapter = folder / f"seed-{settings.seed}" / _folder(name, settings) / settings.method
        training = train.post_train(log, adapter, settings)
        kept = ("examples", "seconds", "tokens_per_second", "order_sensitivity", "teacher")
        extra = {key: training[key] for key in kept}
        extra["validation_loss"] = [entry["eval_loss"] for entry in training["curve"] if "eval_loss" in entry]
        if settings.prompt in ("caption", "label", "reasoned"):
            few = np.random.default_rng(0).permutation(len(parts["test"].impressions))[:FEW]
            parts = {"test": parts["test"].take(few)}
        chosen = {split: policy.llm_scores(log, part, settings, adapter) for split, part in parts.items()}
    return extra | {split: _value(parts[split], policy.greedy(scores)) for split, scores in chosen.items()}


def _folder(name: str, settings: train.Settings) -> str:
    """Refining methods begin from the sft beside them: that of the largest size, or of the same prompt."""
    refined = {"audience": f"sft {SIZES[-1]}", "label": "label sft 500"}
    return refined[settings.prompt] if settings.method in train.objectives.REFINING else name


def _value(part: Log, chosen: np.ndarray) -> dict:
    """True value, paired lift over production with its 95 % interval, and the share of the gap to the oracle."""
    arrays, truth = part.arrays(), part.expected_reward()
    policies = {"production": arrays.production, "policy": chosen}
    lift = evaluation.paired_lift(part, policies, "production", ["policy"]).iloc[0]
    production, best = float((arrays.production * truth).sum(axis=1).mean()), float(truth.max(axis=1).mean())
    value = float((chosen * truth).sum(axis=1).mean())
    return {"n": len(arrays), "value": value, "lift": lift["lift"], "lift_lower": lift["lift_lower"],
            "lift_upper": lift["lift_upper"], "gap_closed": (value - production) / (best - production)}  # fmt: skip


def draw(rows: list[dict], path: Path) -> None:
    """Left: value by number of plays, LLM and text. Right: lift over production of every method, test split."""
    import matplotlib

    matplotlib.use("Agg")
    import pandas as pd
    import seaborn as sns
    from matplotlib import pyplot as plt

    sns.set_theme(style="whitegrid", palette="colorblind")
    flat = pd.DataFrame(
        [{"name": row["name"], "seed": row["seed"], "plays": row.get("examples"), **row["test"]} for row in rows]
    )
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5), constrained_layout=True)
    for kind, label in (("sft", "llm-sft (audience)"), ("text", "text")):
        curve = flat[flat["name"].str.fullmatch(rf"{kind} \d+")].groupby("plays")["gap_closed"].mean()
        left.plot(curve.index, curve, "o-", label=label)
    for zero in flat[flat["name"] == "zero-shot"]["gap_closed"].head(1):
        left.axhline(zero, color="0.5", linestyle="--", label="llm-zero-shot")
    left.set_xscale("log", base=2)
    left.set_xticks(SIZES, [f"{size:,}" for size in SIZES])
    left.minorticks_off()
    left.set(xlabel="plays to learn from", ylabel="share of the gap from production to oracle closed")
    left.legend()
    order = flat.groupby("name")["lift"].mean().sort_values()
    one = flat.sort_values("seed").groupby("name").first().loc[order.index]
    error = [one["lift"] - one["lift_lower"], one["lift_upper"] - one["lift"]]
    right.errorbar(one["lift"], range(len(one)), xerr=error, fmt="o", capsize=3)
    right.set_yticks(range(len(one)), one.index)
    right.axvline(0, color="0.5")
    right.set(xlabel="lift over production in true value, 95 % interval")
    figure.savefig(path, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    main()
