"""The steps that simulated worlds share: show an earlier period at random, fit production on it, log the rest."""

import numpy as np
import pyarrow as pa

from artlib import log as logs
from artlib.worlds import production


def feedback(
    user_id: np.ndarray,
    title: np.ndarray,
    title_ids: np.ndarray,
    time: np.ndarray,
    split: np.ndarray,
    candidates: np.ndarray,
    truth: np.ndarray,
    profile: np.ndarray,
    n_artworks: int,
    rng: np.random.Generator,
) -> tuple[dict[str, pa.Table], production.Production]:
    """Simulate what is shown and played. n impressions, K candidates, T titles, G genres.

    Args:
        user_id: (n,) members.
        title: (n,) row in `title_ids`, which is (T,).
        time: (n,) microseconds since 1970.
        split: (n,) names; "" for the earlier period, whose rows come first.
        candidates: (n, K) artworks, -1 where padded.
        truth: (n, K) probability of a play, 0 where padded.
        profile: (n, G) member's genre profile at the impression.
        n_artworks: in the whole catalogue.
        rng: of what is shown and played.

    Returns:
        The log's tables earlier, impressions and truth; and the fitted production policy.
    """
    mask = candidates >= 0
    early = split == ""
    # The earlier period was shown uniformly at random; production learns from it and logs all the rest.
    policy = mask / mask.sum(axis=1, keepdims=True)
    shown, reward = _show(policy, truth, rng, early)
    first = np.flatnonzero(early)
    bandit = production.fit(
        profile[first], title[first], candidates[first, shown[first]], reward[first],
        n_titles=len(title_ids), n_artworks=n_artworks,
    )  # fmt: skip
    policy[~early] = bandit.probabilities(profile[~early], candidates[~early], mask[~early])
    later_shown, later_reward = _show(policy, truth, rng, ~early)
    shown, reward = np.where(early, shown, later_shown), np.where(early, reward, later_reward)
    columns = {
        "impression_id": np.concatenate([ids("e", np.arange(early.sum())), ids("i", np.arange((~early).sum()))]),
        "user_id": user_id,
        "title_id": title_ids[title],
        "timestamp": time,
        "shown": shown,
        "propensity": policy[np.arange(len(title)), shown],
        "reward": reward,
        "split": split,
    }

    def rows(part: np.ndarray) -> dict:
        lists = {
            "candidates": logs.unpad(ids("a", candidates), mask & part[:, None]),
            "production": logs.unpad(policy, mask & part[:, None]),
            "expected_reward": logs.unpad(truth, mask & part[:, None]),
        }
        return {k: v[part] for k, v in columns.items()} | {k: v.filter(pa.array(part)) for k, v in lists.items()}

    later = rows(~early)
    tables = {
        "earlier": logs.table("earlier", rows(early)),
        "impressions": logs.table("impressions", later),
        "truth": logs.table("truth", later),
    }
    return tables, bandit


def _show(
    policy: np.ndarray, truth: np.ndarray, rng: np.random.Generator, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What is shown and whether it is played, (n,) each; only `rows` mean anything."""
    shown = np.zeros(len(policy), dtype=int)
    shown[rows] = production.draw(policy[rows], rng)
    chance = truth[np.arange(len(policy)), shown]
    return shown, (rng.random(len(policy)) < chance).astype(float)


def ids(letter: str, numbers: np.ndarray) -> np.ndarray:
    """Ids such as u000042; numbers below 0 (padding) give ids that are never read."""
    return np.char.add(letter, np.char.zfill(np.asarray(numbers).astype(str), 6))
