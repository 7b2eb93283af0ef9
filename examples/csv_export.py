"""From a CSV export to a judged policy: what a database might have given, imported, and judged on its test split.

The policy is written as `python -m artlib evaluate LOG --policy FILE` takes it, to mine.parquet.

python examples/csv_export.py [FOLDER]
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from artlib.analysis import entries
from artlib.data import Log
from artlib.data.tables import importing
from artlib.policies import baselines

MAPPING = """\
files: {titles: catalogue.csv, impressions: events.csv, histories: views.csv}
columns:
  user_id: uid
  title_id: film
  titles: {name: film_name}
  artworks: {artwork_id: picture}
  impressions: {timestamp: shown_at, shown_artwork: picture, reward: played}
  histories: {timestamp: watched_at, weight: stars}
timezone: Europe/Berlin
logging: uniform
manifest: {reward: "1 if the member played the film", licence: "ours"}
"""


def export(folder: Path, n: int = 8000, seed: int = 0) -> None:
    """What a database might have given: 2,000 members, 20 films of three pictures, shown at random."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    film, picture = np.arange(20), np.arange(60)
    titles = pd.DataFrame({"film": film, "film_name": [f"Film {f}" for f in film]})
    titles["genres"] = np.where(film % 2, "Drama|Crime", "Comedy")
    artworks = pd.DataFrame({"picture": picture, "film": picture // 3})
    artworks["caption"] = [f"Picture {p % 3} of film {p // 3}." for p in picture]
    uid, shown_film, k = rng.integers(0, 2000, n), rng.integers(0, 20, n), rng.integers(0, 3, n)
    events = pd.DataFrame({"uid": uid, "film": shown_film, "picture": 3 * shown_film + k})
    events["shown_at"] = pd.Timestamp("2026-01-05 18:00") + pd.to_timedelta(np.arange(n), "min")  # local time
    events["played"] = rng.random(n) < np.array([0.1, 0.2, 0.3])[k]
    views = pd.DataFrame({"uid": rng.integers(0, 2000, 9000), "film": rng.integers(0, 20, 9000)})
    views["watched_at"] = 1_767_225_600 - rng.integers(1, 10_000_000, 9000)  # seconds since 1970
    views["stars"] = rng.integers(1, 6, 9000)
    for name, table in {"catalogue": titles, "artworks": artworks, "events": events, "views": views}.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    (folder / "mapping.yaml").write_text(MAPPING)


def main(folder: Path) -> pd.DataFrame:
    """Export, import, and judge the most popular picture of each film on the test split, from a file as anyone's."""
    export(folder / "export")
    importing.import_folder(folder / "export", folder / "log")
    log = Log.load(folder / "log")
    test = log.split("test")
    popular = baselines.greedy(baselines.popular_scores(log, test))
    offered, rows = test.arrays().mask, test.impressions["impression_id"].to_numpy()
    lists = [list(row[there]) for row, there in zip(popular, offered, strict=True)]  # in the order of candidates
    pd.DataFrame({"impression_id": rows, "probabilities": lists}).to_parquet(folder / "mine.parquet")
    return entries.judge(log, [folder / "mine.parquet"], n_bootstrap=200)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as somewhere:
        print(entries.shown(main(Path(sys.argv[1] if len(sys.argv) > 1 else somewhere))).to_string())
