"""Reward models for the model-based estimators, cross-fitted: no row is predicted by a model that saw it."""

import numpy as np
import pandas as pd
from sklearn.base import clone, is_classifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from artlib.ope import validation
from artlib.ope.validation import require


def cross_fit(
    features,
    reward,
    action,
    cluster=None,
    mask=None,
    model=None,
    folds: int = 5,
    sample_weight=None,
    seed: int = 0,
) -> np.ndarray:
    """Reward predictions q(x_i, a) of every candidate, from models fitted on other users' impressions.

    Args:
        features: (n, K, d) finite features of each impression with each candidate; padded cells are ignored.
        reward: (n,) observed reward.
        action: (n,) column of the shown candidate.
        cluster: (n,) user of each impression; all rows of a user fall in the same fold. Default: each row is
            its own.
        mask: (n, K) True where the cell is a candidate. Default: every cell.
        model: a scikit-learn classifier with predict_proba (rewards 0 and 1 only) or regressor, fitted anew per
            fold. Default: logistic regression for rewards in {0, 1}, else ridge regression, on standardised features.
        folds: number of folds.
        sample_weight: (n,) weight of each row in fitting, e.g. Feedback.weight ("more robust DR": Farajtabar,
            Chow and Ghavamzadeh 2018).
        seed: of the assignment of users to folds.

    Returns:
        (n, K) predictions, clipped to the range of the training rewards; 0 in padded cells.

    Raises:
        ValueError: naming the argument, the first faulty row, its value and the remedy.

    Cross-fitting: Chernozhukov et al. 2018, "Double/debiased machine learning".
    """
    reward = validation.vector("reward", reward)
    n = len(reward)
    features = _features(features, n)
    mask = validation.cells(mask, features.shape[:2], "features")
    require(np.isfinite(reward), "reward", reward, "must be finite; repair the row")
    action = validation.column_index(action, mask, "features")
    require(
        np.isfinite(features) | ~mask[:, :, None],
        "features",
        features,
        "must be finite for every candidate; fill the gap, and say so in a feature of its own",
    )
    cluster = validation.labels(cluster, n)
    groups = np.arange(n) if cluster is None else _codes(cluster)
    users = groups.max(initial=-1) + 1
    if folds < 2:
        raise ValueError(f"folds is {folds}: it must be at least 2, one to predict while the others fit")
    if users < folds:
        raise ValueError(f"cluster has {users} users but folds is {folds}: give fewer folds or more users")
    if sample_weight is not None:
        sample_weight = validation.vector("sample_weight", sample_weight, n)
        require(
            np.isfinite(sample_weight) & (sample_weight >= 0), "sample_weight", sample_weight, "must be finite and >= 0"
        )
    model = _default_model(reward) if model is None else _checked_model(model, reward)
    shown = features[np.arange(n), action]
    q_hat = np.zeros(mask.shape)
    for train, test in GroupKFold(folds, shuffle=True, random_state=seed).split(shown, groups=groups):
        weight = None if sample_weight is None else sample_weight[train]
        predict = _fitted(model, shown[train], reward[train], weight)
        cells = mask[test]
        block = np.zeros(cells.shape)
        block[cells] = predict(features[test][cells])
        q_hat[test] = block
    return q_hat


def _codes(cluster: np.ndarray) -> np.ndarray:
    """(n,) the cluster of each row as 0 .. G - 1: in the order of the labels, unless they are of types without one."""
    try:
        return np.unique(cluster, return_inverse=True)[1]
    except TypeError:
        return pd.factorize(cluster)[0]


def _features(values, n: int) -> np.ndarray:
    array = validation.regular("features", values)
    if array.ndim != 3:
        raise ValueError(f"features has shape {array.shape}: it must be (n, K, d)")
    validation.check_rows("features", array, n)
    # float32 features are fitted as they are: they may be large.
    return array if array.dtype.kind in "fiub" else validation.numbers("features", array)


def _default_model(reward: np.ndarray):
    if np.isin(reward, (0, 1)).all():
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return make_pipeline(StandardScaler(), Ridge(1.0))


def _checked_model(model, reward: np.ndarray):
    """A classifier predicts the probability of reward 1, which is the expected reward only if the other is 0."""
    if not is_classifier(model):
        return model
    remedy = "; give a regressor, e.g. model=Ridge()"
    require(
        np.isin(reward, (0, 1)), "reward", reward, f"must be 0 or 1 with a classifier ({type(model).__name__}){remedy}"
    )
    if not hasattr(model, "predict_proba"):
        raise ValueError(f"model is a {type(model).__name__}, a classifier without probabilities{remedy}")
    return model


def _fitted(model, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None):
    """Fit a fresh copy and return its prediction function, clipped to the rewards it was shown."""
    low, high = y.min(), y.max()
    if low == high:
        return lambda new: np.full(len(new), low)
    fresh = clone(model)
    if is_classifier(fresh):
        fresh.fit(x, y.astype(int), **_weight_argument(fresh, weight))
        return lambda new: fresh.predict_proba(new)[:, 1]
    fresh.fit(x, y, **_weight_argument(fresh, weight))
    return lambda new: np.clip(fresh.predict(new), low, high)


def _weight_argument(model, weight: np.ndarray | None) -> dict:
    if weight is None:
        return {}
    name = f"{model.steps[-1][0]}__sample_weight" if hasattr(model, "steps") else "sample_weight"
    return {name: weight}
