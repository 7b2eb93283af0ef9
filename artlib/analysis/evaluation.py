"""What every policy is worth: the table evaluation.parquet, from the test impressions and the policies' answers."""

import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from artlib import files, ope
from artlib.data import Log, oddities
from artlib.ope.selection import used_by_each
from artlib.policies.baselines import popular_scores

ESTIMATORS = ("ips", "snips", "dr")
# What stands in the column production, by the entry production_is of the manifest, and what it means for estimates.
PRODUCTION = {
    "shown": "only production's probability of what was shown is known: no DR, which asks for that of every candidate",
    "random": "production is not known; a choice at random stands in for it, and lifts are over that",
}
ROWS = 250_000  # impressions that are summed at once
COLUMNS = [
    "policy",
    "slice",
    "estimator",
    "n",
    "value",
    "lower",
    "upper",
    "lift",
    "lift_lower",
    "lift_upper",
    "ess",
    "match_rate",
    "true_value",
    "p_value",
    "p_holm",
    "max_weight_share",
    "mean_weight",
    "verdict",
]


def slices(log: Log, test: Log) -> dict[str, np.ndarray]:
    """Parts of the test split, (n,) masks: all, warm and cold titles, short and long histories.

    A title is cold when it was neither shown in the earlier period nor is in training; a history is short when it
    is no longer than the median.
    """
    unseen = pc.unique(log.impressions["title_id"].filter(pa.array(log.cold())))
    cold = pc.is_in(test.impressions["title_id"], unseen).to_numpy()
    start, stop = log.history.spans(test.impressions)
    short = stop - start <= np.median(stop - start)
    parts = {
        "all": np.ones(len(cold), bool),
        "warm titles": ~cold,
        "cold titles": cold,
        "short histories": short,
        "long histories": ~short,
    }
    return {name: part for name, part in parts.items() if part.any()}


def reward_model(log: Log, test: Log, seed: int = 0) -> np.ndarray:
    """(n, K) predicted reward of every candidate, for DR: logistic regression cross-fitted by user.

    Features: what a system knows that reads no caption: an artwork's past play rate and production's own preference.
    They are the same whichever policies are judged, so that what DR says of one does not hang on the others.
    """
    arrays = test.arrays()
    made = [lambda: np.where(arrays.mask, popular_scores(log, test), 0)]
    if test.manifest.get("production_is") not in PRODUCTION:  # else it would tell what was shown, or nothing
        made.append(lambda: np.log(np.maximum(arrays.production, 1e-6)))
    features = np.empty((*arrays.mask.shape, len(made)))
    for column, make in enumerate(made):  # one after the other, for the sake of memory
        features[:, :, column] = make()
    folds = max(2, min(5, len(np.unique(arrays.user))))
    return ope.cross_fit(features, arrays.reward, arrays.shown, arrays.user, arrays.mask, folds=folds, seed=seed)


def feedbacks(
    test: Log, policies: Mapping[str, np.ndarray], q_hat: np.ndarray | None, rows=slice(None), cluster: str = "user"
) -> dict:
    """Each policy's `ope.Feedback` on some rows of the test split, clustered by "user" or "title"."""
    arrays = test.arrays()
    shared = {  # once for all policies, for the sake of memory
        "reward": arrays.reward[rows],
        "action": arrays.shown[rows],
        "propensity": None if test.propensities == "none" else arrays.propensity[rows],
        "q_hat": None if q_hat is None else q_hat[rows],
        "mask": arrays.mask[rows],
        "cluster": getattr(arrays, cluster)[rows],
        "propensities": "estimated" if test.propensities == "estimated" else "logged",
    }
    return {name: ope.Feedback(target=target[rows], **shared) for name, target in policies.items()}


def evaluate(
    log: Log,
    test: Log,
    policies: Mapping[str, np.ndarray],
    estimators=ESTIMATORS,
    n_bootstrap: int = 1000,
    seed: int = 0,
    baseline: str = "production",
) -> pd.DataFrame:
    """Estimate every policy's value and its lift over one of them, on every slice.

    Args:
        log: the whole log; test: the impressions that the policies were asked about.
        policies: name -> (n, K); "production" among them. Each is asked for when its turn comes.
        estimators: names in `ope.ESTIMATORS`; none of them for the truth alone. Of a log without propensities "dm".
        n_bootstrap: replicates, clustered by user, paired over policies.
        baseline: over which policy lifts are.

    Returns:
        A row per policy, slice and estimator (`COLUMNS`). In simulated worlds there is also the estimator "truth":
        the mean true expected reward of what the policy shows, with the sampling interval over the test users, and
        every row carries it as `true_value`. Verdicts say so where propensities are estimated or production is unknown.

    Raises:
        LogError: the log has no propensities (`Log.propensities`), and an estimator divides by them.
    """
    if divide := [name for name in estimators if name != "dm"]:
        test.require_propensities(", ".join(divide))
    production = PRODUCTION.get(test.manifest.get("production_is"), "")
    if production:
        print(f"warning: {production}")
    if test.manifest.get("production_is") == "shown":
        estimators = [name for name in estimators if name not in ("dr", "dm")]
    for warning in oddities.other_order(test.impressions):
        print(f"warning: {warning}")
    q_hat = reward_model(log, test, seed) if len(np.unique(test.arrays().user)) > 1 else None
    if q_hat is None:
        estimators = [name for name in estimators if name not in ("dr", "dm")]
        print("warning: all test impressions are of one user: no DR or DM, whose reward model is fitted on other users")
    truth = test.expected_reward() if test.truth is not None else None
    parts = {name: _Part.of(test, rows) for name, rows in slices(log, test).items()}
    estimated: dict[str, dict[str, ope.Sums]] = {name: {} for name in parts}
    known: dict[str, dict[str, ope.Sums]] = {name: {} for name in parts}
    for policy, target in policies.items():  # one after the other, for the sake of memory
        for name, part in parts.items():
            if estimators:
                estimated[name][policy] = _sums(test, target, q_hat, part, [*estimators])
            if truth is not None:
                # The direct method with the true rewards for a model: sum_k pi_k q_k, without any noise of rewards.
                known[name][policy] = _sums(test, target, truth, part, ["dm"])
    frames = []
    for name in parts:
        frame = pd.DataFrame(columns=COLUMNS)
        if estimators:
            frame = ope.compare(estimated[name], baseline, [*estimators], n_bootstrap=n_bootstrap, seed=seed)
        if test.manifest.get("production_is") == "random" and baseline == "production":
            frame["verdict"] = "lifts over a random choice: " + frame["verdict"]
        if truth is not None:
            true = ope.compare(known[name], baseline, "dm", n_bootstrap=n_bootstrap, seed=seed)
            true = true.assign(estimator="truth", verdict="ok: known truth")
            frame = pd.concat([part for part in (frame, true) if len(part)], ignore_index=True)
            frame["true_value"] = frame["policy"].map(true.set_index("policy")["value"])
        frames.append(frame.assign(slice=name))
    return pd.concat(frames, ignore_index=True).reindex(columns=COLUMNS)


class _Part(NamedTuple):
    """Some of the test impressions: (n,) rows, (n,) the cluster of each as 0 .. G - 1, (G,) rows of each cluster."""

    rows: np.ndarray
    codes: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, test: Log, chosen: np.ndarray) -> "_Part":
        rows = np.flatnonzero(chosen)
        codes = pd.factorize(test.arrays().user[rows])[0]
        return cls(rows, codes, np.bincount(codes).astype(float))


def _sums(test: Log, target: np.ndarray, q_hat: np.ndarray | None, part: _Part, estimators: list[str]) -> ope.Sums:
    """What estimates need of a policy on a part of the test split: sums over users, ROWS impressions at a time."""
    of_all_rows = any(ope.PARAMETER.get(name) == "lam" for name in estimators)  # whose default all rows decide
    step, found = len(part.rows) if of_all_rows else ROWS, None
    for start in range(0, len(part.rows), step):
        feedback = feedbacks(test, {"": target}, q_hat, part.rows[start : start + step])[""]
        used = used_by_each(estimators, None, feedback)
        sums = ope.Sums.of(feedback, used, part.codes[start : start + step], part.sizes)
        found = sums if found is None else found + sums
    return found


def paired_lift(
    test: Log,
    policies: dict[str, np.ndarray],
    baseline: str,
    names: list[str],
    n_bootstrap: int = 1000,
    seed: int = 0,
    cluster: str = "user",
) -> pd.DataFrame:
    """The lift in true value of some policies over a baseline, paired.

    Args:
        cluster: "user", for an interval that holds for other members and these titles, or "title", the reverse.
    """
    chosen = {name: policies[name] for name in [baseline, *names]}
    return ope.compare(
        feedbacks(test, chosen, test.expected_reward(), cluster=cluster),
        baseline,
        "dm",
        n_bootstrap=n_bootstrap,
        seed=seed,
    ).iloc[1:]


def best_estimator(test: Log) -> str:
    """What to go by: the truth where it is known, else SNIPS."""
    return "truth" if test.truth is not None else "snips"


def values(table: pd.DataFrame, estimator: str) -> pd.DataFrame:
    """What every policy is worth on all test impressions by one estimator, the worst first."""
    columns = [
        "policy",
        "estimator",
        "n",
        "value",
        "lower",
        "upper",
        "lift",
        "lift_lower",
        "lift_upper",
        "ess",
        "match_rate",
    ]
    rows = table[(table["slice"] == "all") & (table["estimator"] == estimator)]
    estimated = rows["verdict"].str.startswith("estimated propensities")
    rows = rows.assign(estimator=np.where(estimated, f"{estimator} (estimated propensities)", estimator))
    return rows.sort_values("value")[columns]


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """What the log alone says of the learned policies, and whether to believe it."""
    columns = [
        "policy",
        "estimator",
        "lift",
        "lift_lower",
        "lift_upper",
        "p_holm",
        "ess",
        "max_weight_share",
        "verdict",
    ]
    learned = table["policy"].str.startswith(("llm", "text", "encoder")) & table["estimator"].isin(ESTIMATORS)
    return table[(table["slice"] == "all") & learned][columns]


def against(
    test: Log, policies: dict[str, np.ndarray], names: list[str], n_bootstrap: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """The paired lifts in true value of some policies over each baseline, clustered by user and by title; empty where
    the truth is not known."""
    baselines = ("production", "llm-zero-shot", "popular", "encoder-zero-shot", "text", "text-whole-log")
    columns = ["policy", "baseline", "cluster", "lift", "lift_lower", "lift_upper"]
    if test.truth is None:
        return pd.DataFrame(columns=columns)
    parts = [
        paired_lift(test, policies, baseline, names, n_bootstrap, seed, cluster).assign(
            baseline=baseline, cluster=cluster
        )
        for baseline in baselines
        if baseline in policies
        for cluster in ("user", "title")
    ]
    return pd.concat(parts)[columns].reset_index(drop=True)


def power(
    log: Log, test: Log, policies: dict[str, np.ndarray], name: str, lift: float, n: int, seed: int = 0
) -> pd.DataFrame:
    """Whether n impressions of a log like this could show a policy's lift over production: `ope.power`.

    Returns:
        A row an estimator; none where the log cannot say, and then `attrs["reason"]`. Estimators by estimated
        propensities are named so.
    """
    arrays = test.arrays()
    reason = "it takes test impressions of several users, and a reward above 0 among them"
    if test.propensities == "none":
        reason = "it has no propensities"
    elif len(np.unique(arrays.user)) > 1 and arrays.reward.any():
        found = feedbacks(test, policies, reward_model(log, test, seed))
        names = ESTIMATORS[:2] if test.manifest.get("production_is") == "shown" else ESTIMATORS
        try:
            table = ope.power(found[name], found["production"], lift=lift, n=n, estimators=names)
        except ValueError as error:  # nothing that was played is what production shows
            reason = str(error)
        else:
            if test.propensities == "estimated":
                table["estimator"] += " (estimated propensities)"
            return table
    nothing = pd.DataFrame(columns=["estimator", "power", "impressions", "detectable_lift"])
    nothing.attrs["reason"] = reason
    return nothing


def power_in_words(table: pd.DataFrame, lift: float, n: int) -> str:
    """What `power` says, a line of Markdown an estimator."""
    lines = [
        f"- {row.estimator}: {n:,} impressions would show a true lift of {lift:.0%} in {row.power:.0%} of experiments; "
        f"it takes {row.impressions:,.0f} impressions, or a lift of {row.detectable_lift:.0%}"
        for row in table.itertuples()
    ]
    return "\n".join(lines) or f"This log cannot say: {table.attrs['reason']}"


def save(path: str | os.PathLike, table: pd.DataFrame) -> None:
    """Write evaluation.parquet, whole or not at all."""
    with files.replacing(path) as temporary:
        table.to_parquet(temporary, index=False)
