"""Anyone's policy beside the built-in ones: what `python -m artlib evaluate` prints, and an entry of the benchmark."""

import functools
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from artlib import files
from artlib.analysis import evaluation
from artlib.data import Log, LogError
from artlib.policies import baselines, given

SHOWN = ["policy", "estimator", "n", "value", "lift", "95 % interval", "ess", "verdict"]


def judge(
    log: Log,
    policies: Sequence[str | os.PathLike] = (),
    split: str = "test",
    n_bootstrap: int = 1000,
    seed: int = 0,
    baseline: str = "production",
) -> pd.DataFrame:
    """Value and lift of given policies and of those that need no training.

    Args:
        policies: files as `given.read` takes them, named by their stems, and folders of such files.
        split: whose impressions judge.
        n_bootstrap, seed: of the intervals.
        baseline: over which policy lifts are, a given one or not.

    Returns:
        `evaluation.evaluate`'s table, and a column with the baseline's name.

    Raises:
        LogError: a file does not answer the split's impressions, or no policy is called as the baseline.
    """
    part = log.split(split)
    if not len(part.impressions):
        raise LogError(f"the log has no impressions in its {split} split: nothing can be judged")
    made = dict(baselines.untrained(log, part).made)
    for name, file in _files(policies, taken=given.BUILT_IN).items():
        made[name] = functools.partial(given.read, file, log, part)
    if baseline not in made:
        raise LogError(f"--baseline {baseline!r} is none of the policies: {', '.join(sorted(made))}")
    table = evaluation.evaluate(
        log, part, baselines.OnDemand(made), n_bootstrap=n_bootstrap, seed=seed, baseline=baseline
    )
    return table.assign(baseline=baseline)


def _files(policies: Sequence[str | os.PathLike], taken: set[str]) -> dict[str, Path]:
    """The files to read, by the policy's name; a run's folder holds the built-in policies, too, which are left out."""
    found: dict[str, Path] = {}
    for path in map(Path, policies):
        inside = sorted(file for file in path.glob("*.parquet") if file.stem not in taken) if path.is_dir() else [path]
        if not inside:
            raise LogError(f"{path} holds no policy, a Parquet file with {given.FORMAT}")
        for file in inside:
            if file.stem in taken | found.keys():
                raise LogError(f"{file}: there is a policy {file.stem!r} already; give the file another name")
            found[file.stem] = file
    return found


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """The estimates on all impressions, for a terminal, the worst policy first."""
    rows = table[table["slice"] == "all"].copy()
    best = "truth" if (rows["estimator"] == "truth").any() else "snips"
    order = rows[rows["estimator"] == best].set_index("policy")["value"].rank()
    rows["place"] = rows["policy"].map(order)
    rows = rows.sort_values(["place", "estimator"])
    rows["95 % interval"] = [_interval(*pair) for pair in zip(rows["lift_lower"], rows["lift_upper"], strict=True)]
    rows["lift"] = [_percent(lift) for lift in rows["lift"]]
    rows["ess"], rows["value"] = rows["ess"].round(1), rows["value"].round(4)
    over = rows["baseline"].iloc[0]
    return rows[SHOWN].rename(columns={"lift": f"lift over {over}"}).reset_index(drop=True)


def _percent(lift: float) -> str:
    return f"{100 * lift:+.1f} %" if np.isfinite(lift) else ""


def _interval(lower: float, upper: float) -> str:
    return f"({100 * lower:+.1f}, {100 * upper:+.1f})" if np.isfinite(lower) and np.isfinite(upper) else ""


def require_form(file: str | os.PathLike, baseline: str = "production") -> None:
    """Raise a LogError if a table of lifts over a baseline cannot be written under a name."""
    if Path(file).suffix not in (".json", ".parquet", ".csv"):
        raise LogError(f"{file}: its name must end in .parquet, .csv or .json")
    if Path(file).suffix == ".json" and baseline != "production":
        raise LogError(f"{file}: an entry's lifts are over production, not {baseline}; write .parquet or .csv")


def save(file: str | os.PathLike, log: Log, table: pd.DataFrame, split: str = "test") -> None:
    """Write all estimates as Parquet or CSV, or, as .json, those on all impressions with the log's digest: an entry of
    the benchmark.

    Raises:
        LogError: the name ends otherwise.
    """
    require_form(file)
    file = Path(file)
    if file.suffix == ".json":
        rows = table[table["slice"] == "all"].replace({np.nan: None}).to_dict("records")
        log_is = {"name": log.manifest.get("benchmark"), "digest": log.digest()}
        files.write_json(file, {"log": log_is, "split": split, "date": time.strftime("%Y-%m-%d"), "rows": rows})
    else:
        with files.replacing(file) as temporary:
            table.to_parquet(temporary, index=False) if file.suffix == ".parquet" else table.to_csv(
                temporary, index=False
            )
