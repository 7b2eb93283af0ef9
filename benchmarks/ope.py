"""Off-policy evaluation: speed, memory, and what each estimator is worth.

    python benchmarks/ope.py speed     1,000-replicate bootstraps on 1 million impressions, against obp's
    python benchmarks/ope.py accuracy  bias, RMSE, coverage over logging policies; figures/ope_bias_rmse.png
    python benchmarks/ope.py scale     the same bootstraps of up to 10 million impressions from Parquet; ope_scale.png
    python benchmarks/ope.py           all three

Results are printed and written beside the figure as JSON with their provenance.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from artlib import ope
from artlib.lm import machine
from artlib.ope import intervals
from artlib.ope.diagnostics import regularisation_shift
from artlib.ope.estimators import value_of_sums
from artlib.ope.selection import summed
from artlib.ope.synthetic import simulate, true_value
from artlib.running import run_folder

ROOT = Path(__file__).resolve().parents[1]
FIGURE = ROOT / "figures" / "ope_bias_rmse.png"
SHARPNESS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
EXPLORATION = 0.05
# (estimator, parameter): defaults, and SLOPE where there is something to choose.
CONTENDERS = [
    *((name, None) for name in ope.ESTIMATORS if name != "on-policy"),
    *((name, rule) for name in ope.PARAMETER for rule in ("slope", "mse")),
]
DRAWN = ("ips", "snips", "dm", "dr", "sndr", "clipped-ips (mse)", "dros (mse)", "replay")


def million_impressions(n: int, policies: int, users: int | None, k: int = 5) -> dict[str, ope.Feedback]:
    """Policies of different sharpness on one uniform log; 5 % rewarded; `users` users, None: a row each."""
    rng = np.random.default_rng(0)
    action, reward = rng.integers(0, k, n), (rng.random(n) < 0.05).astype(float)
    cluster = None if users is None else rng.integers(0, users, n)
    score = rng.normal(size=(n, k))
    feedbacks = {}
    for i in range(policies):
        target = np.exp(score * i / 5)
        target /= target.sum(axis=1, keepdims=True)
        feedbacks[f"policy {i}"] = ope.Feedback(reward, action, np.full(n, 1 / k), target, cluster=cluster)
    return feedbacks


def obp_bootstrap(samples: np.ndarray, n_bootstrap: int, seed: int, alpha: float = 0.05) -> tuple[float, float]:
    """obp's published algorithm: per replicate, choose n of the n per-row values and average them."""
    random = np.random.RandomState(seed)
    means = [np.mean(random.choice(samples, size=len(samples))) for _ in range(n_bootstrap)]
    return float(np.percentile(means, 100 * alpha / 2)), float(np.percentile(means, 100 * (1 - alpha / 2)))


def speed(n: int, policies: int, replicates: int, rounds: int = 3, obp_replicates: int = 10) -> dict:
    """Seconds for `compare` and for obp's bootstrap of the same policies, alternating, medians of the rounds.

    obp's time is linear in the replicates, so a few of its replicates are timed and scaled up.
    """
    results = {"impressions": n, "policies": policies, "replicates": replicates, "rounds": rounds}
    for label, users in (("clustered by user", n // 5), ("every row its own cluster", None)):
        feedbacks = million_impressions(n, policies, users)
        ours, theirs = [], []
        for seed in range(rounds):
            start = time.perf_counter()
            ope.compare(feedbacks, "policy 0", "snips", n_bootstrap=replicates, seed=seed)
            ours.append(time.perf_counter() - start)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            start = time.perf_counter()
            for feedback in feedbacks.values():
                obp_bootstrap(feedback.weight * feedback.reward / feedback.weight.mean(), obp_replicates, seed)
            theirs.append((time.perf_counter() - start) * replicates / obp_replicates)
        results[label] = {
            "clusters": next(iter(feedbacks.values())).n_clusters,
            "artlib_seconds": round(float(np.median(ours)), 2),
            "obp_seconds": round(float(np.median(theirs)), 1),
            "ratio": round(float(np.median(np.array(theirs) / np.array(ours))), 1),
            "peak_gib": round(peak, 2),
        }
        del feedbacks
    return results


def write_log(folder: Path, n: int, policies: int, k: int = 5, partitions: int = 10, rows: int = 2**17) -> None:
    """As `million_impressions`, n / 5 users who come back in every partition, to Parquet in folders day=0, 1, ..."""
    rng = np.random.default_rng(0)
    for day in range(partitions):
        path = folder / f"day={day}" / "part.parquet"
        path.parent.mkdir(parents=True)
        left, writer = (day + 1) * n // partitions - day * n // partitions, None
        while left:
            size = min(left, rows)
            left -= size
            score = rng.normal(size=(size, k))
            offsets = pa.array(np.arange(size + 1, dtype=np.int32) * k)
            columns = {
                "reward": (rng.random(size) < 0.05).astype(float),
                "action": rng.integers(0, k, size),
                "propensity": np.full(size, 1 / k),
                "user": rng.integers(0, n // 5, size),
            }
            for i in range(policies):
                target = np.exp(score * i / 5)
                target /= target.sum(axis=1, keepdims=True)
                columns[f"policy {i}"] = pa.ListArray.from_arrays(offsets, pa.array(target.ravel()))
            table = pa.table(columns)
            # Probabilities hardly compress, and are of as many values as there are rows.
            writer = writer or pq.ParquetWriter(path, table.schema, compression="none", use_dictionary=["user"])
            writer.write_table(table)
        if writer:
            writer.close()


def read_and_compare(folder: str, policies: int, replicates: int, rounds: int) -> None:
    """Print as JSON the seconds to read a log's sums, those to compare them, and the peak of resident memory in GiB."""
    reading, comparing = [], []
    for seed in range(rounds):
        start = time.perf_counter()
        sums = ope.read_sums(folder, [f"policy {i}" for i in range(policies)], "snips", cluster="user")
        reading.append(time.perf_counter() - start)
        start = time.perf_counter()
        ope.compare(sums, "policy 0", "snips", n_bootstrap=replicates, seed=seed)
        comparing.append(time.perf_counter() - start)
    found = {
        "clusters": sums["policy 0"].n_clusters,
        "read_seconds": float(np.median(reading)),
        "compare_seconds": float(np.median(comparing)),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    print(json.dumps(found))


def obp_seconds(n: int, policies: int, replicates: int, timed: int = 5) -> float:
    """Seconds of obp's bootstrap of n values in memory for all policies, scaled up from a few replicates of one."""
    samples = np.random.default_rng(0).random(n)
    start = time.perf_counter()
    obp_bootstrap(samples, timed, seed=0)
    return (time.perf_counter() - start) / timed * policies * replicates


def scale(largest: int, policies: int, replicates: int) -> dict:
    """Seconds an impression and peak memory from Parquet to the table of lifts, each size in a process of its own."""
    table = []
    for n in sorted({max(largest // 100, 10), max(largest // 10, 10), largest}):
        with tempfile.TemporaryDirectory() as folder:
            write_log(Path(folder), n, policies)
            rounds = int(np.clip(1_000_000 // n, 1, 9))
            call = f"import ope; ope.read_and_compare({folder!r}, {policies}, {replicates}, {rounds})"
            run = subprocess.run(
                [sys.executable, "-c", call], cwd=Path(__file__).parent, check=True, capture_output=True, text=True
            )
        found = json.loads(run.stdout.splitlines()[-1])
        seconds, obp = found["read_seconds"] + found["compare_seconds"], obp_seconds(n, policies, replicates)
        table.append(
            {"impressions": n, "rounds": rounds, **found}
            | {"microseconds_an_impression": seconds / n * 1e6, "obp_seconds": obp, "ratio": obp / seconds}
        )
        print(pd.Series(table[-1]).round(2).to_string(), end="\n\n")
    cost = [row["microseconds_an_impression"] for row in table]
    return {"table": table, "dearest_over_cheapest": max(cost) / min(cost)}


def draw_scale(table: list[dict], path: Path) -> None:
    """Cost of an impression, ours and obp's, and peak memory, over the length of the log."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import seaborn as sns

    found, (blue, orange) = pd.DataFrame(table), sns.color_palette("colorblind", 2)
    figure, (cost, memory) = plt.subplots(1, 2, figsize=(9, 3.6), constrained_layout=True)
    reading, obp = found.read_seconds / found.impressions * 1e6, found.obp_seconds / found.impressions * 1e6
    cost.plot(found.impressions, found.microseconds_an_impression, "o-", color=blue, label="artlib, from Parquet")
    cost.plot(found.impressions, reading, "o:", color=blue, label="of that, reading to sums")
    cost.plot(found.impressions, obp, "s--", color=orange, label="obp's bootstrap, in memory")
    cost.set(xscale="log", yscale="log", xlabel="impressions", ylabel="time per impression (µs)")
    cost.yaxis.set_major_formatter("{x:g}")
    cost.legend(frameon=False)
    memory.plot(found.impressions, found.peak_gib, "o-", color=blue)
    memory.axhline(4, color="0.5", linewidth=0.8)
    memory.set(xscale="log", ylim=(0, 4.3), xlabel="impressions", ylabel="peak resident memory (GiB)")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def accuracy(replications: int, users: int, n_bootstrap: int = 400) -> pd.DataFrame:
    """Bias, RMSE and coverage of 95 % percentile intervals, per target, logging policy and estimator.

    The reward model is cross-fitted and misspecified: it sees two of three tastes and no moods.
    """
    rows = []
    for sharpness in SHARPNESS:
        settings = {"sharpness": sharpness, "exploration": EXPLORATION}
        truths = {target: true_value(target=target, **settings) for target in ("softmax", "greedy")}
        found = []
        for seed in range(replications):
            found += _one_log(seed, users, settings, truths, n_bootstrap)
        rows.append(pd.DataFrame(found).assign(sharpness=sharpness))
    return _summary(pd.concat(rows))


def _one_log(seed: int, users: int, settings: dict, truths: dict, n_bootstrap: int) -> list[dict]:
    rows, q_hat = [], None
    for target, truth in truths.items():
        simulation = simulate(users, target=target, seed=seed, **settings)
        log = simulation.feedback
        if q_hat is None:  # the log is the same for every target
            seen = simulation.features[:, :, :2]
            q_hat = ope.cross_fit(seen, log.reward, log.action, log.cluster, log.mask, seed=seed)
        log = ope.Feedback(
            log.reward, log.action, log.propensity, log.target, q_hat, log.mask, log.cluster, log.logging
        )
        rows += _estimates(log, truth, target, n_bootstrap, seed)
    return rows


def _estimates(log: ope.Feedback, truth: float, target: str, n_bootstrap: int, seed: int) -> list[dict]:
    diagnostics = ope.diagnose(log)
    sums = {(name, rule): summed({target: log}, [name], rule)[target] for name, rule in CONTENDERS}
    blocks = {contender: each.block(contender[0]) for contender, each in sums.items()}
    sizes = intervals.cluster_sizes(log)
    drawn = intervals.replicate_sums([sizes, *blocks.values()], n_bootstrap, seed)
    rows, start = [], 1
    for (name, rule), block in blocks.items():
        own = sums[name, rule]
        value, error = own.value(name), intervals.standard_error(intervals.influence(block, sizes))
        replicates = value_of_sums(drawn[:, start : start + block.shape[1]], drawn[:, 0])
        start += block.shape[1]
        lower, upper = intervals.percentile_interval(replicates, 0.05)
        rows.append(
            {
                "target": target,
                "estimator": f"{name} ({rule})" if rule else name,
                "error": value - truth,
                "covered": lower <= truth <= upper,
                "trusted": ope.verdict(diagnostics, name, regularisation_shift(own, name), error) == "ok",
            }
        )
    return rows


def _summary(found: pd.DataFrame) -> pd.DataFrame:
    grouped = found.groupby(["target", "sharpness", "estimator"], sort=False)
    squared = grouped["error"].agg(lambda e: np.mean(e**2))
    # Monte Carlo standard errors; the RMSE's by the delta method.
    squared_se = grouped["error"].agg(lambda e: np.std(e**2) / np.sqrt(len(e)))
    return pd.DataFrame(
        {
            "bias": grouped["error"].mean(),
            "bias_se": grouped["error"].agg(lambda e: np.std(e) / np.sqrt(len(e))),
            "rmse": np.sqrt(squared),
            "rmse_se": squared_se / (2 * np.sqrt(squared)),
            "coverage": grouped["covered"].mean(),
            "coverage_se": grouped["covered"].agg(lambda c: np.sqrt(c.mean() * (1 - c.mean()) / len(c))),
            "trusted": grouped["trusted"].mean(),
            "coverage_trusted": grouped.apply(lambda g: g.covered[g.trusted].mean(), include_groups=False),
            "coverage_untrusted": grouped.apply(lambda g: g.covered[~g.trusted].mean(), include_groups=False),
        }
    ).reset_index()


def draw(table: pd.DataFrame, path: Path) -> None:
    """Bias, RMSE and coverage over the logging policy's sharpness, a row of panels per target."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import seaborn as sns

    colours = dict(zip(DRAWN, sns.color_palette("colorblind", len(DRAWN)), strict=True))
    figure, axes = plt.subplots(2, 3, figsize=(13, 7.5), sharex=True, constrained_layout=True)
    at = np.arange(len(SHARPNESS))
    for row, (target, title) in enumerate((("softmax", "stochastic target"), ("greedy", "deterministic target"))):
        for name in DRAWN:
            part = (
                table[(table.target == target) & (table.estimator == name)].set_index("sharpness").loc[list(SHARPNESS)]
            )
            style = {"color": colours[name], "marker": "o", "markersize": 3, "linewidth": 1.3, "capsize": 2}
            axes[row, 0].errorbar(at, part.bias, 1.96 * part.bias_se, label=name, **style)
            axes[row, 1].errorbar(at, part.rmse, 1.96 * part.rmse_se, **style)
            axes[row, 2].errorbar(at, part.coverage, 1.96 * part.coverage_se, **style)
        axes[row, 0].axhline(0, color="0.5", linewidth=0.8)
        axes[row, 0].set_ylabel(f"{title}\nbias (reward per impression)")
        axes[row, 1].set(ylabel="RMSE (reward per impression)", yscale="log")
        axes[row, 1].yaxis.set_major_formatter("{x:g}")
        axes[row, 1].yaxis.set_minor_formatter("{x:g}")
        axes[row, 2].axhline(0.95, color="0.5", linewidth=0.8)
        axes[row, 2].set(ylabel="95 % intervals that hold the truth (share)", ylim=(0, 1.02))
    for axis in axes[1]:
        axis.set_xlabel("sharpness of the logging policy\n(0 uniform, 8 nearly deterministic)")
        axis.set_xticks(at, [f"{s:g}" for s in SHARPNESS])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(DRAWN), frameon=False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def provenance(arguments: argparse.Namespace) -> dict:
    return {
        "command": " ".join(["python", "benchmarks/ope.py", *sys.argv[1:]]),
        "commit": run_folder.commit(ROOT, but="figures"),
        "parameters": vars(arguments),
        "machine": machine.described() | {"numpy": np.__version__},
        "date": time.strftime("%Y-%m-%d"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=("all", "speed", "accuracy", "scale"), default="all")
    parser.add_argument("--impressions", type=int, default=1_000_000, help="of speed")
    parser.add_argument("--largest", type=int, default=10_000_000, help="impressions of the largest log of scale")
    parser.add_argument("--policies", type=int, default=10)
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--logs", type=int, default=300, help="simulated logs per logging policy")
    parser.add_argument("--users", type=int, default=400, help="users per simulated log, 5 impressions each")
    arguments = parser.parse_args()
    record = FIGURE.with_suffix(".json")
    results = json.loads(record.read_text()) if record.exists() else {}
    if arguments.what in ("all", "speed"):
        results["speed"] = provenance(arguments) | speed(
            arguments.impressions, arguments.policies, arguments.replicates
        )
        print(json.dumps(results["speed"], indent=2))
    if arguments.what in ("all", "accuracy"):
        table = accuracy(arguments.logs, arguments.users)
        draw(table, FIGURE)
        results["accuracy"] = provenance(arguments) | {"table": json.loads(table.round(5).to_json(orient="records"))}
        with pd.option_context("display.width", 160, "display.max_rows", None):
            print(table.round(4).to_string(index=False))
    if arguments.what in ("all", "scale"):
        results["scale"] = provenance(arguments) | scale(arguments.largest, arguments.policies, arguments.replicates)
        draw_scale(results["scale"]["table"], FIGURE.with_name("ope_scale.png"))
    record.parent.mkdir(exist_ok=True)
    record.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
