"""The steps that simulated worlds share: show an earlier period at random, fit production on it, log the rest."""

import dataclasses

import numpy as np
import pyarrow as pa

from artlib.data import table, unpad
from artlib.worlds import production


@dataclasses.dataclass(frozen=True)
class Offers:
    """n impressions before anything is shown, with K candidates at most. T titles, G genres.

    Attributes:
        user_id: (n,) members.
        title: (n,) row in `title_ids`, which is (T,).
        time: (n,) microseconds since 1970.
        split: (n,) names; "" for the earlier period, whose rows come first.
        candidates: (n, K) artworks, -1 where padded.
        truth: (n, K) probability of a play, 0 where padded.
        profile: (n, G) member's genre profile at the impression.
        n_artworks: in the whole catalogue.
    """

    user_id: np.ndarray
    title: np.ndarray
    title_ids: np.ndarray
    time: np.ndarray
    split: np.ndarray
    candidates: np.ndarray
    truth: np.ndarray
    profile: np.ndarray
    n_artworks: int

    @property
    def mask(self) -> np.ndarray:
        """(n, K) True where there is a candidate."""
        return self.candidates >= 0

    @property
    def early(self) -> np.ndarray:
        """(n,) True in the earlier period."""
        return self.split == ""


def feedback(offers: Offers, rng: np.random.Generator) -> tuple[dict[str, pa.Table], production.Production]:
    """Simulate what is shown and played.

    The earlier period is shown uniformly at random; production learns from it and logs all the rest.

    Args:
        rng: of what is shown and played.

    Returns:
        The log's tables earlier, impressions and truth; and the fitted production policy.
    """
    early, mask = offers.early, offers.mask
    policy = mask / mask.sum(axis=1, keepdims=True)
    first = _show(policy, offers.truth, rng, early)
    bandit = _fitted(offers, *first)
    policy[~early] = bandit.probabilities(offers.profile[~early], offers.candidates[~early], mask[~early])
    later = _show(policy, offers.truth, rng, ~early)
    shown, reward = (np.where(early, before, after) for before, after in zip(first, later, strict=True))
    return _tables(offers, policy, shown, reward), bandit


def _fitted(offers: Offers, shown: np.ndarray, reward: np.ndarray) -> production.Production:
    rows = np.flatnonzero(offers.early)
    return production.fit(
        offers.profile[rows],
        offers.title[rows],
        offers.candidates[rows, shown[rows]],
        reward[rows],
        n_titles=len(offers.title_ids),
        n_artworks=offers.n_artworks,
    )


def _tables(offers: Offers, policy: np.ndarray, shown: np.ndarray, reward: np.ndarray) -> dict[str, pa.Table]:
    """The log's tables, given (n, K) what the logging policy was, (n,) what was shown and (n,) what came of it."""
    early = offers.early
    columns = {
        "impression_id": np.concatenate([ids("e", np.arange(early.sum())), ids("i", np.arange((~early).sum()))]),
        "user_id": offers.user_id,
        "title_id": offers.title_ids[offers.title],
        "timestamp": offers.time,
        "shown": shown,
        "propensity": policy[np.arange(len(shown)), shown],
        "reward": reward,
        "split": offers.split,
    }
    artwork_ids = pa.array(ids("a", np.arange(offers.n_artworks)))
    padded = {"candidates": offers.candidates, "production": policy, "expected_reward": offers.truth}

    def rows(part: np.ndarray) -> dict:
        lists = {name: unpad(values[part], offers.mask[part]) for name, values in padded.items()}
        offered = lists["candidates"]
        lists["candidates"] = pa.ListArray.from_arrays(offered.offsets, artwork_ids.take(offered.values))
        return {name: values[part] for name, values in columns.items()} | lists

    later = rows(~early)
    return {
        "earlier": table("earlier", rows(early)),
        "impressions": table("impressions", later),
        "truth": table("truth", later),
    }


def _show(
    policy: np.ndarray, truth: np.ndarray, rng: np.random.Generator, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What is shown and whether it is played, (n,) each; only `rows` mean anything."""
    shown = np.zeros(len(policy), dtype=int)
    shown[rows] = production.draw(policy[rows], rng)
    chance = truth[np.arange(len(policy)), shown]
    return shown, (rng.random(len(policy)) < chance).astype(float)


def ids(letter: str, numbers: np.ndarray) -> np.ndarray:
    """Ids such as u000042."""
    return np.char.add(letter, np.char.zfill(np.asarray(numbers).astype(str), 6))
