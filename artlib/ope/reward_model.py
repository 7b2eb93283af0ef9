"""Reward models for the model-based estimators, cross-fitted: no row is predicted by a model that saw it."""

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


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
        features: (n, K, d) features of each impression with each candidate; padded cells are ignored.
        reward: (n,) observed reward.
        action: (n,) column of the shown candidate.
        cluster: (n,) user of each impression; all rows of a user fall in the same fold. Default: each row is
            its own.
        mask: (n, K) True where the cell is a candidate. Default: every cell.
        model: a scikit-learn classifier (rewards 0 and 1) or regressor, fitted anew per fold. Default:
            logistic regression for rewards in {0, 1}, else ridge regression, on standardised features.
        folds: number of folds.
        sample_weight: (n,) weight of each row in fitting, e.g. Feedback.weight ("more robust DR": Farajtabar,
            Chow and Ghavamzadeh 2018).
        seed: of the assignment of users to folds.

    Returns:
        (n, K) predictions, clipped to the range of the training rewards; 0 in padded cells.

    Raises:
        ValueError: when shapes disagree or there are fewer users than folds.

    Cross-fitting: Chernozhukov et al. 2018, "Double/debiased machine learning".
    """
    features, reward, action = np.asarray(features), np.asarray(reward, dtype=float), np.asarray(action)
    n, k = _checked_shape(features, reward, action)
    mask = np.ones((n, k), dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    groups = np.arange(n) if cluster is None else np.unique(np.asarray(cluster), return_inverse=True)[1]
    if groups.max() + 1 < folds:
        raise ValueError(
            f"cluster has {groups.max() + 1} users but folds is {folds}: give fewer folds or more users"
        )
    model = _default_model(reward) if model is None else model
    shown = features[np.arange(n), action]
    q_hat = np.zeros((n, k))
    for train, test in GroupKFold(folds, shuffle=True, random_state=seed).split(shown, groups=groups):
        weight = None if sample_weight is None else np.asarray(sample_weight)[train]
        predict = _fitted(model, shown[train], reward[train], weight)
        cells = mask[test]
        block = np.zeros(cells.shape)
        block[cells] = predict(features[test][cells])
        q_hat[test] = block
    return q_hat


def _checked_shape(features: np.ndarray, reward: np.ndarray, action: np.ndarray) -> tuple[int, int]:
    if features.ndim != 3:
        raise ValueError(f"features has shape {features.shape}: it must be (n, K, d)")
    if not len(features) == len(reward) == len(action):
        raise ValueError(
            f"features has {len(features)} rows, reward {len(reward)} and action {len(action)}: give all "
            "for the same impressions"
        )
    return features.shape[:2]


def _default_model(reward: np.ndarray):
    if np.isin(reward, (0, 1)).all():
        return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return make_pipeline(StandardScaler(), Ridge(1.0))


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
