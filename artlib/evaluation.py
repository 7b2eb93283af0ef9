"""What every policy is worth: the table evaluation.parquet, from the test impressions and the policies' answers."""

import os

import numpy as np
import pandas as pd

from artlib import files, ope
from artlib.log import History, Log
from artlib.policy import popular_scores

ESTIMATORS = ("ips", "snips", "dr")
COLUMNS = [
    "policy", "slice", "estimator", "n", "value", "lower", "upper", "lift", "lift_lower", "lift_upper", "ess",
    "match_rate", "true_value", "p_value", "p_holm", "max_weight_share", "mean_weight", "verdict",
]  # fmt: skip


def slices(log: Log, test: Log) -> dict[str, np.ndarray]:
    """Parts of the test split, (n,) masks: all, warm and cold titles, short and long histories.

    A title is cold when it was neither shown in the earlier period nor is in training; a history is short when it
    is no longer than the median.
    """
    cold = np.isin(test.impressions["impression_id"].to_numpy(),
                   log.impressions["impression_id"].to_numpy()[log.cold()])  # fmt: skip
    start, stop = History(log.titles, log.histories).spans(test.impressions)
    short = stop - start <= np.median(stop - start)
    parts = {"all": np.ones(len(cold), bool), "warm titles": ~cold, "cold titles": cold,
             "short histories": short, "long histories": ~short}  # fmt: skip
    return {name: part for name, part in parts.items() if part.any()}


def reward_model(log: Log, test: Log, policies: dict[str, np.ndarray], seed: int = 0) -> np.ndarray:
    """(n, K) predicted reward of every candidate, for DR: logistic regression cross-fitted by user.

    Features: what a system knows without the LLM: an artwork's past play rate and production's own preference.
    """
    arrays = test.arrays()
    rate = np.where(arrays.mask, popular_scores(log, test), 0)
    features = [rate, np.log(np.maximum(arrays.production, 1e-6))]
    features += [policies[name] for name in ("text",) if name in policies]
    return ope.cross_fit(np.stack(features, axis=2), arrays.reward, arrays.shown, arrays.user, arrays.mask, seed=seed)


def feedbacks(test: Log, policies: dict[str, np.ndarray], q_hat: np.ndarray | None, rows=slice(None)) -> dict:
    """Each policy's `ope.Feedback` on some rows of the test split."""
    arrays = test.arrays()
    return {
        name: ope.Feedback(
            reward=arrays.reward[rows], action=arrays.shown[rows], propensity=arrays.propensity[rows],
            target=target[rows], q_hat=None if q_hat is None else q_hat[rows], mask=arrays.mask[rows],
            cluster=arrays.user[rows],
        )
        for name, target in policies.items()
    }  # fmt: skip


def evaluate(
    log: Log, test: Log, policies: dict[str, np.ndarray], estimators=ESTIMATORS, n_bootstrap: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Estimate every policy's value and its lift over production, on every slice.

    Args:
        log: the whole log; test: the impressions that the policies were asked about.
        policies: name -> (n, K); "production" among them.
        estimators: names in `ope.ESTIMATORS`.
        n_bootstrap: replicates, clustered by user, paired over policies.

    Returns:
        A row per policy, slice and estimator (`COLUMNS`). In simulated worlds there is also the estimator "truth":
        the mean true expected reward of what the policy shows, with the sampling interval over the test users, and
        every row carries it as `true_value`.
    """
    q_hat = reward_model(log, test, policies, seed)
    truth = test.expected_reward() if test.truth is not None else None
    frames = []
    for name, rows in slices(log, test).items():
        frame = ope.compare(
            feedbacks(test, policies, q_hat, rows), "production", list(estimators), n_bootstrap=n_bootstrap, seed=seed
        )
        if truth is not None:
            # The direct method with the true rewards for a model: sum_k pi_k q_k, without any noise of rewards.
            known = ope.compare(
                feedbacks(test, policies, truth, rows), "production", "dm", n_bootstrap=n_bootstrap, seed=seed
            ).assign(estimator="truth", verdict="ok: known truth")
            frame = pd.concat([frame, known], ignore_index=True)
            frame["true_value"] = frame["policy"].map(known.set_index("policy")["value"])
        frames.append(frame.assign(slice=name))
    return pd.concat(frames, ignore_index=True).reindex(columns=COLUMNS)


def paired_lift(test: Log, policies: dict[str, np.ndarray], baseline: str, names: list[str],
                n_bootstrap: int = 1000, seed: int = 0) -> pd.DataFrame:  # fmt: skip
    """The lift in true value of some policies over a baseline other than production, paired, clustered by user."""
    chosen = {name: policies[name] for name in [baseline, *names]}
    return ope.compare(
        feedbacks(test, chosen, test.expected_reward()), baseline, "dm", n_bootstrap=n_bootstrap, seed=seed
    ).iloc[1:]


def save(path: str | os.PathLike, table: pd.DataFrame) -> None:
    """Write evaluation.parquet, whole or not at all."""
    with files.replacing(path) as temporary:
        table.to_parquet(temporary, index=False)
