"""What knowing is worth in `fiction`: ids, genres, themes, tones, cast; with tastes known, or read off histories.

    python benchmarks/worth.py                 both kinds of catalogue at the size of `make run`, seeds 0, 1, 2; 2 min

No model is asked. Results: results/worth.json.
"""

import time
from pathlib import Path

import pandas as pd

from artlib import files
from artlib.lm import machine
from artlib.running import run_folder
from artlib.worlds import fiction

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"n_users": 2000, "n_titles": 200, "n_train": 20_000, "n_validation": 2000, "n_test": 2000}
SEEDS = (0, 1, 2)


def main(sizes: dict[str, int] = SIZES, seeds: tuple[int, ...] = SEEDS, root: Path = ROOT) -> dict:
    kinds = {}
    for kind in fiction.KINDS:
        tables = []
        for seed in seeds:
            print(f"{kind} genres, seed {seed}", flush=True)
            tables.append(fiction.worth(fiction.build(**sizes, seed=seed, genres=kind)))
        mean = sum(tables) / len(tables)
        print((100 * mean).round(1).to_string(na_rep=""), flush=True)
        kinds[kind] = mean.reset_index().astype(object).where(lambda frame: frame.notna(), None).to_dict("records")
    record = {
        "command": "python benchmarks/worth.py",
        "commit": run_folder.commit(ROOT, but="results"),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine.described(),
        "sizes": sizes,
        "seeds": list(seeds),
        "kinds": kinds,
    }
    files.write_json(root / "results" / "worth.json", record)
    return record


if __name__ == "__main__":
    pd.set_option("display.width", 200)
    main()
