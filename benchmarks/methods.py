"""Post-training methods beside each other on one log: value, lifts, share of the gap closed, cost.

    python benchmarks/methods.py runs/demo/log                    every entry of GRID, seed 0
    python benchmarks/methods.py runs/demo/log --seeds 0 1 2 --only "sft 8000" "sft 2000"

Adapters are kept in runs/methods/WORLD, so that a killed comparison goes on. Learned on the train split; validation is
what choices between methods may be made by; test is reported. Values are true ones: simulated worlds only. Results:
figures/methods-WORLD.json and .png.
"""

import argparse
import dataclasses
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from artlib import evaluation, files, policy, train
from artlib.log import Log

ROOT = Path(__file__).resolve().parents[1]
SIZES = (500, 1000, 2000, 4000, 8000)
# name -> settings that differ from the defaults; impressions at most, one pass over them.
REFINE = {"max_examples": 8000, "learning_rate": 5e-4}
GRID = {
    **{f"sft {size}": {"max_examples": size} for size in SIZES},
    "sft-ips 8000": {"method": "sft-ips", "max_examples": 8000},
    "dpo 8000": {"method": "dpo", "beta": 1.0, **REFINE},
    "softmax-dpo 8000": {"method": "softmax-dpo", "beta": 1.0, **REFINE},
    "counterfactual 8000": {"method": "counterfactual", **REFINE},
    "counterfactual 40000": {"method": "counterfactual", **REFINE, "max_examples": 40000},
    "counterfactual-dr 40000": {"method": "counterfactual", "value": "dr", **REFINE, "max_examples": 40000},
    "caption sft 800": {"prompt": "caption", "max_examples": 800, "learning_rate": 5e-4, "batch_size": 8,
                        "micro_batch": 4, "temperature": 8.0},
    "label sft 800": {"prompt": "label", "max_examples": 800, "learning_rate": 5e-4, "batch_size": 8,
                      "micro_batch": 4},
    "sft-reasoning 400": {"method": "sft-reasoning", "prompt": "reasoned", "max_examples": 400,
                          "learning_rate": 5e-4, "batch_size": 8, "micro_batch": 4, "samples": 2,
                          "max_validation": 40, "max_new_tokens": 60},
}  # fmt: skip
ASKED_REASONED = 200  # impressions: written answers are slow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=list(GRID), default=list(GRID))
    arguments = parser.parse_args()
    log = Log.load(arguments.log, validate=False)
    world = log.manifest["world"]
    folder, record = ROOT / "runs" / "methods" / world, ROOT / "figures" / f"methods-{world}.json"
    results = files.read_json(record) or {"rows": []}
    done = {(row["name"], row["seed"]) for row in results["rows"]}
    parts = {split: log.split(split) for split in ("validation", "test")}
    for seed in arguments.seeds:
        for name in ["zero-shot", *(f"text {size}" for size in (*SIZES, 40000)), *arguments.only]:
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
            results |= {"command": " ".join(["python", "benchmarks/methods.py", *sys.argv[1:]]), "commit": _commit(),
                        "date": time.strftime("%Y-%m-%d"), "log": log.manifest.get("files"),
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
        if settings.prompt == "reasoned":
            parts = {split: part.take(np.arange(ASKED_REASONED)) for split, part in parts.items()}
        chosen = {split: policy.llm_scores(log, part, settings, adapter) for split, part in parts.items()}
    return extra | {split: _value(parts[split], policy.greedy(scores)) for split, scores in chosen.items()}


def _folder(name: str, settings: train.Settings) -> str:
    """Refining methods begin from the sft beside them: they share the folder of the largest."""
    return f"sft {SIZES[-1]}" if settings.method in train.objectives.REFINING or name == f"sft {SIZES[-1]}" else name


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
    left.set(xscale="log", xlabel="plays to learn from", ylabel="share of the gap from production to oracle closed")
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


def _commit() -> str | None:
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return found.stdout.strip() or None


if __name__ == "__main__":
    main()
