"""What it costs to grow: time and memory of each step by the impressions of a log.

    python benchmarks/growth.py                      1 k, 10 k, 100 k and 1 M impressions; about 10 minutes on two cores
    python benchmarks/growth.py --sizes 1000 2000    a try

The logs are of the world `fiction`: 20 impressions a member, 500 titles of 3 to 8 artworks, 20 % for training, 10 % for
validation, 70 % for judging. Each step runs in a process of its own, its modules imported before the clock starts:

- build: draw the log and write it; validate: read it, checksums included, and check the whole contract;
- train: one epoch on the plays of the training split; score: ask what was trained about the judging split. By the tiny
  random model, so that the steps around the model show, and up to `--most` impressions: how it grows, not how fast a
  model is (benchmarks/speed.py says that);
- evaluate: read the log, and judge two given policies beside those that need no training, as `python -m artlib
  evaluate` does.

A slope is the exponent of a power law, seconds or bytes ~ impressions ** slope, fitted by least squares to the
logarithms from a tenth of the step's largest size on, below which fixed costs rule; 1 is linear. That of memory is of
what the step adds to what its imported modules take. Results: results/growth.json, figures/growth.png.
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

from artlib import files

ROOT = Path(__file__).resolve().parents[1]
SIZES = (1000, 10_000, 100_000, 1_000_000)
STEPS = ("build", "validate", "train", "score", "evaluate")
MODEL = ("train", "score")  # steps that ask a language model
GIVEN = ("a", "b")  # policies that are judged


def main(arguments: list[str] | None = None, root: Path = ROOT) -> dict:
    """Measure, write `root`/results/growth.json and draw `root`/figures/growth.png."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="impressions of the logs")
    parser.add_argument(
        "--most", type=int, default=max(SIZES), help="impressions of a log that is trained on and scored"
    )
    given = parser.parse_args(arguments)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for n in sorted(given.sizes):
            for step in STEPS:
                if step not in MODEL or n <= given.most:
                    rows.append(_measured(step, n, Path(folder) / str(n)))
                    print(
                        "{step:<9}{impressions:>11,}{seconds:>10.2f} s{peak_gib:>8.2f} GiB".format(**rows[-1]),
                        flush=True,
                    )
    from artlib.lm import machine
    from artlib.running import run_folder

    record = {
        "command": " ".join(["python", "benchmarks/growth.py", *(sys.argv[1:] if arguments is None else arguments)]),
        "commit": run_folder.commit(ROOT, but="results"),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine.described(),
        "rows": rows,
        "slopes": slopes(rows),
    }
    files.write_json(root / "results" / "growth.json", record)
    draw(record, root)
    return record


def slopes(rows: list[dict]) -> dict[str, dict[str, float | None]]:
    """The exponents of seconds and memory by step; None of a step that was measured at one size only."""
    found = {}
    for step in dict.fromkeys(row["step"] for row in rows):
        own = [row for row in rows if row["step"] == step]
        own = [row for row in own if row["impressions"] >= max(row["impressions"] for row in own) / 10]
        n, seconds = ([row[key] for row in own] for key in ("impressions", "seconds"))
        added = [row["peak_gib"] - row["before_gib"] for row in own]
        found[step] = {"seconds": _exponent(n, seconds), "memory": _exponent(n, added)}
    return found


def _exponent(n: list[int], cost: list[float]) -> float | None:
    return round(float(np.polyfit(np.log(n), np.log(np.maximum(cost, 1e-6)), 1)[0]), 2) if len(n) > 1 else None


def _measured(step: str, n: int, folder: Path) -> dict:
    """Run a step in a fresh process; its last line says what it took."""
    command = [sys.executable, "-c", f"import growth; growth.take({step!r}, {n}, {str(folder)!r})"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{step} of {n:,} impressions failed:\n{done.stderr}")
    return {"step": step, "impressions": n, **json.loads(done.stdout.splitlines()[-1])}


def take(step: str, n: int, folder: str) -> None:
    """Do a step on the log of n impressions in a folder, and print its seconds and memory as JSON."""
    work = _prepared(step, n, Path(folder))
    before, start = _peak_gib(), time.perf_counter()
    then = work()
    seconds, peak = time.perf_counter() - start, _peak_gib()
    if then:
        then()
    print(json.dumps({"seconds": round(seconds, 3), "before_gib": round(before, 3), "peak_gib": round(peak, 3)}))


def _peak_gib() -> float:
    """The largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def _prepared(step: str, n: int, folder: Path):
    """What does a step, its modules imported; it returns what is left to do when the clock has stopped."""
    from artlib.data import Log
    from artlib.worlds import fiction

    if step == "build":
        import sklearn.linear_model  # noqa: F401  production's

        def build():
            sizes = {"n_train": n // 5, "n_validation": n // 10, "n_test": n - n // 5 - n // 10}
            log = fiction.build(n_users=max(50, n // 20), n_titles=500, **sizes)
            log.save(folder / "log")
            return lambda: _give_policies(log, folder)

        return build

    def validate() -> None:
        Log.load(folder / "log")

    if step == "validate":
        return validate
    if step == "evaluate":
        from artlib.analysis import entries

        def evaluate() -> None:
            policies = [folder / f"{name}.parquet" for name in GIVEN]
            entries.judge(Log.load(folder / "log", validate=False), policies)

        return evaluate

    from artlib.lm import embedded, model
    from artlib.policies import answers, baselines, llm
    from artlib.posttrain import train
    from artlib.posttrain.settings import Settings

    model.load(embedded.TINY, dtype="float32")
    settings = Settings(base=embedded.TINY, dtype="float32", max_examples=n, max_tokens=8192)
    log, adapter = Log.load(folder / "log", validate=False), folder / "sft"

    def learn() -> None:
        train.post_train(log, adapter, settings)

    def score() -> None:
        test = log.split("test")
        frame = files.read_json(adapter / "training.json")["frame"]
        answers.save(folder, "llm", test, baselines.greedy(llm.llm_scores(log, test, settings, adapter, frame)))

    return learn if step == "train" else score


def _give_policies(log, folder: Path) -> None:
    """Write policies of random probabilities over the candidates of the judging split."""
    from artlib.policies import answers

    test, rng = log.split("test"), np.random.default_rng(0)
    mask = test.arrays().mask
    for name in GIVEN:
        policy = np.where(mask, rng.random(mask.shape), 0)
        answers.save(folder, name, test, policy / policy.sum(axis=1, keepdims=True))


def draw(record: dict, root: Path) -> None:
    """Seconds and peak memory by impressions, a line a step."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from artlib.analysis import plots

    @plots.themed
    def drawn():
        figure, axes = plt.subplots(1, 2, figsize=(12, 5.5), constrained_layout=True)
        kinds = (("seconds", "seconds"), ("peak_gib", "peak resident memory (GiB)"))
        for axis, (column, label) in zip(axes, kinds, strict=True):
            for place, (step, slope) in enumerate(record["slopes"].items()):
                own = [row for row in record["rows"] if row["step"] == step]
                n, cost = ([row[key] for row in own] for key in ("impressions", column))
                name = f"{step}, tiny random model" if step in MODEL else step
                if slope["seconds"] is not None:
                    name += " (time {seconds:.2f}, memory {memory:.2f})".format(**slope)
                dashes = "--" if step in MODEL else "-"
                axis.plot(n, cost, dashes, marker="o", color=plots.PALETTE[place], label=name)
            axis.set(xscale="log", yscale="log", xlabel="impressions of the log (500 titles)", ylabel=label)
            axis.xaxis.set_major_formatter(lambda n, _: f"{n:,.0f}")
            axis.yaxis.set_major_formatter("{x:g}")
            low, high = axis.get_ylim()
            if high < 30 * low:  # too few powers of ten
                axis.set_yticks([tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if low <= tick <= high])
                axis.yaxis.set_minor_formatter("")
        title = "step (slope of seconds, and of the memory that the step adds, over the last tenfold; 1 is linear)"
        figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=11, title=title
        )
        return figure

    plots.save(drawn(), root, "growth")


if __name__ == "__main__":
    main()
