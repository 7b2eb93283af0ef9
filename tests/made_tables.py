"""Somebody's tables, whole and valid, as pandas frames."""

import numpy as np
import pandas as pd

START = pd.Timestamp("2026-01-05", tz="UTC")


def tables(n: int = 60, seed: int = 0, prefix: str = "") -> dict[str, pd.DataFrame]:
    """A whole log as pandas frames: 6 members, 5 titles of two or three artworks, of which the first is preferred."""
    rng = np.random.default_rng(seed)
    titles = pd.DataFrame(
        {"title_id": [f"{prefix}{t + 10}" for t in range(5)], "name": [f"Film {t}" for t in range(5)]}
    )
    titles["year"], titles["genres"] = 2000, [["Drama", "Crime"], ["Comedy"]] * 2 + [["Drama"]]
    titles["synopsis"] = "Something happens."
    owned = {t: [f"{prefix}{100 + 10 * i + k}" for k in range(2 + i % 2)] for i, t in enumerate(titles["title_id"])}
    artworks = pd.DataFrame([(a, t, f"Picture {a}.", None) for t, own in owned.items() for a in own])
    artworks.columns = ["artwork_id", "title_id", "caption", "image"]
    user, title = rng.integers(0, 6, n), rng.integers(0, 5, n)
    impressions = pd.DataFrame({"impression_id": [f"{prefix}{i}" for i in range(n)]})
    impressions["user_id"] = [f"{prefix}{u}" for u in user]
    impressions["title_id"] = titles["title_id"].to_numpy()[title]
    impressions["timestamp"] = START + pd.to_timedelta(rng.permutation(n) * 3600, "s")
    impressions["candidates"] = [owned[t] for t in impressions["title_id"]]
    size = impressions["candidates"].map(len).to_numpy()
    impressions["shown"] = np.floor(rng.random(n) * size).astype(int)
    production = [[0.5, *[0.5 / (k - 1)] * (k - 1)] for k in size.tolist()]
    impressions["propensity"] = [row[s] for row, s in zip(production, impressions["shown"], strict=True)]
    impressions["reward"] = np.round(rng.random(n) * rng.integers(0, 2, n), 3)
    impressions["production"] = production
    impressions["split"] = np.array(["train", "validation", "test"])[(5 * user + title) % 3]
    histories = pd.DataFrame({"user_id": [f"{prefix}{u}" for u in range(6)], "title_id": titles["title_id"].iloc[0]})
    histories["timestamp"], histories["weight"] = START - pd.Timedelta("1D"), 0.5
    return {"titles": titles, "artworks": artworks, "histories": histories, "impressions": impressions}
