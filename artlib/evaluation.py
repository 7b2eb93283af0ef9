"""What every policy is worth: the table evaluation.parquet, from the test impressions and the policies' answers."""

import os

import numpy as np
import pandas as pd

from artlib import files, log_faults, ope, train
from artlib.log import History, Log
from artlib.policy import popular_scores

ESTIMATORS = ("ips", "snips", "dr")
COLUMNS = [
    "policy", "slice", "estimator", "n", "value", "lower", "upper", "lift", "lift_lower", "lift_upper", "ess",
    "match_rate", "true_value", "p_value", "p_holm", "max_weight_share", "mean_weight", "verdict",
]  # fmt: skip
METHODS = [
    "entry", "method", "seed", "examples", "kind", "n", "value", "lift", "lift_lower", "lift_upper", "over_text",
    "over_text_lower", "over_text_upper", "gap_closed", "gap_on_validation", "minutes", "order_before", "order_after",
    "valid_answers", "commit",
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
    folds = max(2, min(5, len(np.unique(arrays.user))))
    return ope.cross_fit(
        np.stack(features, axis=2), arrays.reward, arrays.shown, arrays.user, arrays.mask, folds=folds, seed=seed
    )


def feedbacks(
    test: Log, policies: dict[str, np.ndarray], q_hat: np.ndarray | None, rows=slice(None), cluster: str = "user"
) -> dict:
    """Each policy's `ope.Feedback` on some rows of the test split, clustered by "user" or "title"."""
    arrays = test.arrays()
    return {
        name: ope.Feedback(
            reward=arrays.reward[rows], action=arrays.shown[rows], propensity=arrays.propensity[rows],
            target=target[rows], q_hat=None if q_hat is None else q_hat[rows], mask=arrays.mask[rows],
            cluster=getattr(arrays, cluster)[rows],
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
    for warning in log_faults.other_order(test.impressions):
        print(f"warning: {warning}")
    q_hat = reward_model(log, test, policies, seed) if len(np.unique(test.arrays().user)) > 1 else None
    if q_hat is None:
        estimators = [name for name in estimators if name != "dr"]
        print("warning: all test impressions are of one user: no DR, whose reward model is fitted on other users")
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
                n_bootstrap: int = 1000, seed: int = 0, cluster: str = "user") -> pd.DataFrame:  # fmt: skip
    """The lift in true value of some policies over a baseline, paired.

    Args:
        cluster: "user", for an interval that holds for other members and these titles, or "title", the reverse.
    """
    chosen = {name: policies[name] for name in [baseline, *names]}
    return ope.compare(
        feedbacks(test, chosen, test.expected_reward(), cluster=cluster), baseline, "dm", n_bootstrap=n_bootstrap,
        seed=seed,
    ).iloc[1:]  # fmt: skip


def power(
    log: Log, test: Log, policies: dict[str, np.ndarray], name: str, lift: float, n: int, seed: int = 0
) -> pd.DataFrame:
    """Whether n impressions of a log like this could show a policy's lift over production: `ope.power`.

    Returns:
        A row an estimator; none where the log cannot say, and then `attrs["reason"]`.
    """
    arrays = test.arrays()
    if len(np.unique(arrays.user)) > 1 and arrays.reward.any():
        found = feedbacks(test, policies, reward_model(log, test, policies, seed))
        return ope.power(found[name], found["production"], lift=lift, n=n, estimators=ESTIMATORS)
    nothing = pd.DataFrame(columns=["estimator", "power", "impressions", "detectable_lift"])
    nothing.attrs["reason"] = "it takes test impressions of several users, and a reward above 0 among them"
    return nothing


def methods(path: str | os.PathLike) -> pd.DataFrame:
    """What benchmarks/methods.py measured on one log, a row per entry and seed.

    Args:
        path: its record, figures/methods-WORLD.json.

    Returns:
        `METHODS`: the entry's name, and its method; examples of the last stage of training, and of which kind (plays,
        or impressions played or not); n, the test impressions; true value, lift over production, share of the gap from
        production to the oracle that is closed, and the same on the validation split; over_text, the lift over the text
        baseline; minutes from the bare model on, with validation, NaN where a training was interrupted; order
        sensitivity (`label`) before and after training; valid_answers (`reasoned`). Intervals are `_lower` and
        `_upper`, 95 %. The file's SHA-256 is in `attrs`.

    Raises:
        FileNotFoundError: nothing was measured; says how to.
    """
    record = files.read_json(path)
    if not record:
        raise FileNotFoundError(f"{path} is missing or no JSON: python benchmarks/methods.py --world WORLD writes it")
    found = []
    for row in record["rows"]:
        test, trained = row["test"], "seconds" in row
        flat = {"entry": row["name"], "method": row["name"].rpartition(" ")[0] or row["name"]}
        flat |= {name: row.get(name) for name in ("seed", "examples", "valid_answers", "commit")}
        every = trained and train.Settings(**row["settings"]).all_impressions
        flat["kind"] = ("impressions" if every else "plays") if row.get("examples") else None
        flat |= {name: test[name] for name in ("n", "value", "lift", "lift_lower", "lift_upper", "gap_closed")}
        flat["gap_on_validation"] = row.get("validation", {}).get("gap_closed")
        flat |= {"over_text" + name.removeprefix("lift"): value for name, value in test.get("over_text", {}).items()}
        if trained and not row.get("resumed"):
            flat["minutes"] = (row["seconds"] + row.get("start_seconds", 0)) / 60
        flat["order_before"], flat["order_after"] = row.get("order_sensitivity") or (None, None)
        found.append(flat)
    table = pd.DataFrame(found).reindex(columns=METHODS)
    numbers = [name for name in METHODS if name not in ("entry", "method", "kind", "commit")]
    table[numbers] = table[numbers].astype(float)
    table.attrs["sha256"] = files.sha256(path)
    return table.astype({"seed": int, "n": int})


def save(path: str | os.PathLike, table: pd.DataFrame) -> None:
    """Write evaluation.parquet, whole or not at all."""
    with files.replacing(path) as temporary:
        table.to_parquet(temporary, index=False)
