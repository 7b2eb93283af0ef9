"""A clustered bandit whose truth is known, for checking estimators and trying them out."""

from dataclasses import dataclass

import numpy as np

from artlib.ope.feedback import Feedback


@dataclass(frozen=True, eq=False)
class Simulation:
    """A simulated log.

    Attributes:
        feedback: the log with its target policy; q_hat is the true expected reward, logging is complete.
        features: (n, K, d) what a reward model may see: the user's tastes times the candidate's traits.
    """

    feedback: Feedback
    features: np.ndarray


def simulate(
    users: int,
    *,
    sharpness: float = 1.0,
    exploration: float = 0.1,
    target: str = "softmax",
    k: int = 5,
    ragged: bool = True,
    seed: int | np.random.Generator = 0,
) -> Simulation:
    """Users with tastes see candidates with traits; they differ in how often and how readily they play.

    Reward is Bernoulli with log-odds -0.8 + taste . traits + mood, the mood being the user's own, so that
    a user's impressions are dependent. The logging policy is softmax(sharpness * distorted taste . traits)
    mixed with uniform exploration; the target knows the tastes.

    Args:
        users: number of users; each has 1 + Poisson(4) impressions.
        sharpness: of the logging policy: 0 is uniform, 10 nearly deterministic.
        exploration: share of impressions in which a uniformly drawn candidate is shown.
        target: "softmax" (stochastic), "greedy" (deterministic) or "logging" (the logging policy itself).
        k: columns; with `ragged` impressions have 2 to k candidates, else all have k.
        ragged: whether candidate sets differ in size.
        seed: or a Generator.
    """
    rng = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(users), 1 + rng.poisson(4, users))
    n = len(cluster)
    taste, mood = rng.normal(size=(users, 3))[cluster], rng.normal(0, 1.5, users)[cluster]
    features = taste[:, None, :] * rng.normal(size=(n, k, 3))
    mask = np.arange(k) < rng.integers(2, k + 1, n)[:, None] if ragged else np.ones((n, k), dtype=bool)
    appeal = features.sum(axis=2)
    expected = np.where(mask, 1 / (1 + np.exp(0.8 - appeal - mood[:, None])), 0.0)
    uniform = mask / mask.sum(axis=1, keepdims=True)
    distorted = features @ np.array([1.0, -0.5, 1.0])
    logging = (1 - exploration) * softmax(sharpness * distorted, mask) + exploration * uniform
    action = _draw(logging, rng)
    rows = np.arange(n)
    reward = (rng.random(n) < expected[rows, action]).astype(float)
    policies = {"softmax": softmax(appeal, mask), "greedy": _greedy(appeal, mask), "logging": logging}
    feedback = Feedback(reward, action, logging[rows, action], policies[target], expected, mask, cluster, logging)
    return Simulation(feedback, features)


def true_value(users: int = 100_000, seed: int = 12345, **settings) -> float:
    """The target policy's value: its exact expected reward, averaged over many users."""
    return float(simulate(users, seed=seed, **settings).feedback.q_target.mean())


def softmax(score: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(n, K) softmax over the candidates; padded cells are 0."""
    shifted = np.where(mask, score, -np.inf)
    exponential = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    return exponential / exponential.sum(axis=1, keepdims=True)


def _greedy(score: np.ndarray, mask: np.ndarray) -> np.ndarray:
    best = np.where(mask, score, -np.inf).argmax(axis=1)
    return np.eye(score.shape[1])[best]


def _draw(probability: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n,) one column per row, drawn by inverting the cumulative distribution."""
    cumulative = probability.cumsum(axis=1)
    u = rng.random(len(probability)) * cumulative[:, -1]
    return (u[:, None] >= cumulative).sum(axis=1)
