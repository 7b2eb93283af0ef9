"""Where, for whom and why a policy chooses badly."""

import html
import math
import os

import numpy as np
import pandas as pd

from artlib import files, ope
from artlib.data import Log, genre_matrix
from artlib.data.oddities import FEW

COLUMNS = ["group", "level", "n", "mean", "lower", "upper"]


def describe(log: Log, test: Log, policy: np.ndarray, production: np.ndarray) -> pd.DataFrame:
    """One row an impression: who was asked about what, what the policy chose, and what that cost.

    Args:
        log: the whole log; test: the impressions that the policy was asked about.
        policy, production: (n, K) probabilities.

    Returns:
        impression_id, user_id, title_id, title, history (titles watched before), candidates, favourites (the member's
        three top genres), match (share of the title's genres among them), cold, chosen, produced (the most probable
        artwork), agrees; and `loss`: in simulated worlds the regret max q - sum_k pi_k q_k, else the
        difference of IPS terms production - policy, whose mean is the estimated loss in value.
    """
    arrays = test.arrays()
    history = log.history
    start, stop = history.spans(test.impressions)
    profile = history.genre_profile(test.impressions)
    top = np.argsort(-profile, axis=1, kind="stable")[:, :3]
    carried = genre_matrix(log.titles)[arrays.title] > 0
    liked = np.take_along_axis(carried, top, axis=1) & (np.take_along_axis(profile, top, axis=1) > 0)
    cold = dict(zip(log.impressions["impression_id"].to_pylist(), log.cold(), strict=True))
    ids = test.impressions["impression_id"].to_pylist()
    rows, artwork = np.arange(len(arrays)), log.artworks["artwork_id"].to_numpy()
    if test.truth is not None:
        q = np.where(arrays.mask, test.expected_reward(), -np.inf)
        loss = q.max(axis=1) - np.where(arrays.mask, policy * np.where(arrays.mask, q, 0), 0).sum(axis=1)
    else:
        test.require_propensities("the estimated loss of an impression")
        gain = (production - policy)[rows, arrays.shown] / arrays.propensity
        loss = gain * arrays.reward
    return pd.DataFrame(
        {
            "impression_id": ids,
            "user_id": test.impressions["user_id"].to_pylist(),
            "title_id": test.impressions["title_id"].to_pylist(),
            "title": [log.titles["name"][int(t)].as_py() for t in arrays.title],
            "history": stop - start,
            "candidates": arrays.mask.sum(axis=1),
            "favourites": [", ".join(names) for names in history.favourites(test.impressions)],
            "match": liked.sum(axis=1) / np.maximum(carried.sum(axis=1), 1),
            "cold": [bool(cold[name]) for name in ids],
            "chosen": artwork[arrays.candidates[rows, policy.argmax(axis=1)]],
            "produced": artwork[arrays.candidates[rows, production.argmax(axis=1)]],
            "agrees": policy.argmax(axis=1) == production.argmax(axis=1),
            "loss": loss,
        }
    )


def measure(test: Log) -> str:
    """What the loss of `describe` is."""
    return "regret (play probability)" if test.truth is not None else "estimated loss against production"


def by_group(cases: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Mean loss by candidates, history, match of genres, warm or cold, and agreement with production.

    Returns:
        group, level, n, mean and its 95 % interval clustered by user; `attrs["measure"]` says what the loss is.
    """
    groups = {
        "candidates": cases["candidates"],
        "history": _quartiles(cases["history"]),
        "favourite genres in the title": np.where(cases["match"] > 0, "some", "none"),
        "title": np.where(cases["cold"], "cold", "warm"),
        "production": np.where(cases["agrees"], "chooses the same", "chooses another"),
    }
    rows = []
    for group, level in groups.items():
        for name, part in cases.groupby(level, observed=True):  # quartiles in their order
            mean, lower, upper = _clustered_mean(part["loss"].to_numpy(), part["user_id"].to_numpy())
            rows.append((group, str(name), len(part), mean, lower, upper))
    table = pd.DataFrame(rows, columns=COLUMNS)
    table.attrs["measure"] = measure
    return table


def _quartiles(history: pd.Series) -> pd.Series:
    """Each history's quarter by length, in words."""
    if history.nunique() == 1:
        return history.map("{} titles".format)
    edges = np.unique(np.floor(history.quantile([0, 0.25, 0.5, 0.75, 1])))  # of whole numbers: as qcut's, named apart
    quartiles = pd.cut(history, edges, include_lowest=True)
    return quartiles.cat.rename_categories(lambda part: f"{math.floor(part.left) + 1} to {int(part.right)} titles")


def _clustered_mean(values: np.ndarray, cluster: np.ndarray) -> tuple[float, float, float]:
    """A mean and its 95 % interval: `ope`'s delta method, every row shown by the only candidate it has."""
    n = len(values)
    one = np.ones((n, 1))
    feedback = ope.Feedback(values, np.zeros(n, dtype=int), np.ones(n), one, cluster=cluster)
    if len(np.unique(cluster)) < 2:
        return float(values.mean()), np.nan, np.nan
    found = ope.estimate(feedback, "ips", method="normal")
    return found.value, found.lower, found.upper


def most_chosen_shares(cases: pd.DataFrame, least: int = FEW) -> pd.DataFrame:
    """How often a title's most chosen artwork is chosen: 1 if every member gets the same one, as from a popularity
    model in disguise.

    Args:
        cases: from `describe`.
        least: impressions that a title must have to count.

    Returns:
        A row a title, the policy's share in `chosen` and production's in `produced`; none where no title has enough.
    """
    by = cases[cases.groupby("title_id")["title_id"].transform("size") >= least].groupby("title_id")
    titles = {title: part for title, part in by}
    shares = {
        column: [part[column].value_counts(normalize=True).iloc[0] for part in titles.values()]
        for column in ("chosen", "produced")
    }
    return pd.DataFrame(shares, index=pd.Index(titles, name="title_id"), dtype=float)


def to_read(cases: pd.DataFrame, cost: pd.Series, n: int) -> list[tuple[int, str]]:
    """The n cases of the highest cost: their rows, and a sentence on each.

    Args:
        cases: from `describe`.
        cost: by row: the loss, or what was won.
    """
    found = []
    for row in cost.sort_values(ascending=False).index[:n]:
        case = cases.loc[row]
        title, loves = html.escape(case["title"]), html.escape(case["favourites"]) or "nothing yet"
        found.append((int(row), f"**{title}** for a member who loves {loves}; loss {case['loss']:.3f}"))
    return found


def save(folder: str | os.PathLike, cases: pd.DataFrame, groups: pd.DataFrame) -> None:
    """Write errors/ of a run: cases.parquet and groups.parquet, whole or not at all."""
    with files.replacing(folder) as temporary:
        temporary.mkdir()
        cases.to_parquet(temporary / "cases.parquet", index=False)
        groups.to_parquet(temporary / "groups.parquet", index=False)


def read_case(log: Log, test: Log, row: int, policies: dict[str, np.ndarray]) -> pd.DataFrame:
    """One impression to read: a row a candidate with its caption, each policy's probability, and the true reward."""
    arrays = test.arrays()
    mask = arrays.mask[row]
    frame = pd.DataFrame({"caption": [log.artworks["caption"][int(a)].as_py() for a in arrays.candidates[row][mask]]})
    for name, policy in policies.items():
        frame[name] = policy[row][mask].round(3)
    if test.truth is not None:
        frame["true reward"] = test.expected_reward()[row][mask].round(3)
    frame["shown"] = np.where(np.arange(len(frame)) == arrays.shown[row], f"reward {arrays.reward[row]:g}", "")
    return frame
