"""One's own log in a dozen lines of pandas, validated, and judged without a language model.

python examples/own_log.py [FOLDER]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from artlib.analysis import evaluation
from artlib.data import Log
from artlib.policies import baselines


def write(folder: Path, n: int = 3000, seed: int = 0) -> None:
    """What a system might have logged: 40 members, 12 titles of three artworks, shown at random."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    titles = pd.DataFrame({"title_id": [f"t{t}" for t in range(12)], "name": [f"Film {t}" for t in range(12)]})
    titles["year"], titles["genres"], titles["synopsis"] = 2020, [["Drama"], ["Comedy"]] * 6, "A film."
    pictures = [(f"t{t}a{k}", f"t{t}", f"Picture {k} of film {t}.", None) for t in range(12) for k in range(3)]
    artworks = pd.DataFrame(pictures, columns=["artwork_id", "title_id", "caption", "image"])
    start = pd.Timestamp("2026-01-01", tz="UTC")
    user, title, shown = rng.integers(0, 40, n), rng.integers(0, 12, n), rng.integers(0, 3, n)
    impressions = pd.DataFrame({"impression_id": np.arange(n), "user_id": user, "title_id": [f"t{t}" for t in title]})
    impressions["timestamp"] = start + pd.to_timedelta(np.arange(n), "h")
    impressions["candidates"] = [[f"t{t}a{k}" for k in range(3)] for t in title]
    impressions["shown"], impressions["propensity"] = shown, 1 / 3
    impressions["reward"] = (rng.random(n) < np.array([0.1, 0.2, 0.3])[shown]).astype(float)
    impressions["production"] = [[1 / 3, 1 / 3, 1 / 3]] * n
    # A (user, title) pair stays in one split.
    impressions["split"] = np.array(["train", "validation", "test"])[(7 * user + title) % 3]
    histories = pd.DataFrame({"user_id": np.arange(40), "title_id": "t0", "timestamp": start - pd.Timedelta("1D")})
    histories["weight"] = 1.0
    for name, table in {"titles": titles, "artworks": artworks, "histories": histories}.items():
        table.to_parquet(folder / f"{name}.parquet", index=False)
    impressions.to_parquet(folder / "impressions.parquet", index=False)


def main(folder: Path) -> pd.DataFrame:
    """Write a log, read it as anybody's, and judge the most popular artwork of each title on its test split."""
    write(folder)
    log = Log.load(folder)
    test = log.split("test")
    popular = baselines.greedy(baselines.popular_scores(log, test))
    policies = {"production": test.arrays().production, "popular": popular}
    table = evaluation.evaluate(log, test, policies, n_bootstrap=200)
    return table[table["slice"] == "all"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as somewhere:
        print(main(Path(sys.argv[1] if len(sys.argv) > 1 else somewhere)).iloc[:, :11].round(4).to_string())
