"""Logged bandit feedback and the one validator every number in this package has passed through."""

import warnings
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import pandas as pd

from artlib.ope import frames, validation
from artlib.ope.validation import LARGEST, TOLERANCE, CellError, require

ROUNDED = "Rounding to four decimals does this: log the probabilities in full"


@dataclass(frozen=True, eq=False)
class Feedback:
    """Logged impressions together with what a target policy would have shown.

    Candidate sets may differ between impressions: rows are padded to K columns and `mask` says which
    cells are candidates. Arrays are stored as float64, int64 and bool and are not copied when they
    already have that type and need no correction.

    Probabilities may be rounded: rows of target and logging are divided by their sum where it is within
    1e-4 of 1, or K / 2 units of the fourth decimal for an impression of K candidates (at most 0.01), and a
    propensity of up to 1.0001 is 1. One UserWarning names what was more than 1e-6 (float32) off.

    Args:
        reward: (n,) observed reward r_i of the shown candidate; may be fractional or negative. Adding c to all
            rewards moves SNIPS by c, but IPS by c mean(w), which is c in expectation only.
        action: (n,) column a_i of the shown candidate, in 0 .. K - 1.
        propensity: (n,) probability pi_b(a_i | x_i) with which the logging policy showed it, in [1e-50, 1]. None where
            nobody knows: of the estimators, only dm and on-policy do without, and diagnostics are NaN.
        target: (n, K) target policy pi_e(a | x_i); rows sum to 1, padded cells are 0.
        q_hat: (n, K) reward model q(x_i, a), needed by the model-based estimators. Predict each row with
            a model that was not fitted on it (see `cross_fit`).
        mask: (n, K) True where the cell is a candidate. Default: every cell is one.
        cluster: (n,) label of the independent unit, usually the user. Default: every row is its own.
        logging: (n, K) the whole logging policy pi_b(a | x_i), if known. Only diagnostics read it: with it
            the target's mass on candidates that the log could never show is exact, not estimated.
        propensities: "logged", or "estimated" by a model of what was shown: then every verdict says so.

    Raises:
        ValueError: naming the argument, the first faulty row, its value and the remedy.
    """

    reward: np.ndarray
    action: np.ndarray
    propensity: np.ndarray | None
    target: np.ndarray
    q_hat: np.ndarray | None = None
    mask: np.ndarray | None = None
    cluster: np.ndarray | None = None
    logging: np.ndarray | None = None
    propensities: str = "logged"

    def __post_init__(self):
        corrections = self._check()
        if corrections:
            warnings.warn(
                f"{'; '.join(corrections)}. {ROUNDED}",
                UserWarning,
                stacklevel=3,
            )

    @classmethod
    def checked(cls, **arguments) -> tuple["Feedback", list[str]]:
        """A Feedback of these arguments, and in place of a warning what was corrected: for who makes many of them."""
        new = cls._bare(arguments)
        return new, new._check()

    def with_target(self, target: np.ndarray) -> tuple["Feedback", list[str]]:
        """The same log under another (n, K) target, the only thing checked, and what was corrected; as `checked`."""
        array, correction = validation.distribution(
            "target", validation.matrix("target", target, *self.mask.shape), self.mask
        )
        new = self._bare(vars(self) | {"target": array})
        new.__dict__["candidates"] = self.candidates
        return new, [correction] if correction else []

    @classmethod
    def _bare(cls, arguments: dict) -> "Feedback":
        new = object.__new__(cls)
        for field in fields(cls):
            object.__setattr__(new, field.name, arguments.get(field.name, field.default))
        return new

    def _check(self) -> list[str]:
        """Store every argument with its type; say what was corrected."""
        found, corrections = _validated(self)
        for name, value in found.items():
            object.__setattr__(self, name, value)
        return corrections

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        *,
        reward: str = "reward",
        action: str = "action",
        propensity: str = "propensity",
        target: str | list[str] = "target",
        q_hat: str | list[str] | None = "q_hat",
        cluster: str | None = "cluster",
        logging: str | list[str] | None = "logging",
        candidates: str | None = None,
        propensities: str = "logged",
    ) -> "Feedback":
        """Feedback from a data frame with a row per impression; rows are padded and the mask is made here.

        >>> frame = pd.DataFrame({
        ...     "played": [1.0, 0.0], "shown": ["b", "x"], "candidates": [["a", "b", "c"], ["x", "y"]],
        ...     "propensity": [0.2, 0.5], "target": [[0.1, 0.8, 0.1], [0.5, 0.5]], "user": ["ann", "bob"],
        ... })
        >>> log = Feedback.from_frame(frame, reward="played", action="shown", candidates="candidates", cluster="user")
        >>> log.action.tolist(), log.candidates.tolist(), log.weight.tolist()
        ([1, 0], [3, 2], [4.0, 1.0])

        Args:
            frame: n impressions; its index is only read for messages.
            reward, propensity: columns of numbers.
            action: column with the shown candidate's index, 0 for the first; with `candidates`, with its id.
            target, q_hat, logging: a column of lists, a number per candidate; or a list of columns, one per
                candidate, empty (NaN) where an impression has no such candidate. q_hat and logging are left out
                where there is no column of the default name.
            cluster: column of labels, usually the user. Default: "cluster" if there is one, else every row is its own.
            candidates: column with lists of ids, in the order of target.
            propensities: "logged" or "estimated".

        Raises:
            ValueError: naming the argument, the frame's column, the row, its index label and the remedy.
        """
        columns = {
            "reward": reward,
            "action": action,
            "propensity": propensity,
            "target": target,
            "q_hat": q_hat,
            "cluster": cluster,
            "logging": logging,
            "candidates": candidates,
        }
        try:
            return cls(**frames.arguments(frame, columns), propensities=propensities)
        except CellError as error:
            raise ValueError(frames.located(error, frame, columns)) from None

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def n(self) -> int:
        return len(self.reward)

    @cached_property
    def target_propensity(self) -> np.ndarray:
        """(n,) pi_e(a_i | x_i), the target's probability of what was shown."""
        return self.target[np.arange(self.n), self.action]

    @cached_property
    def weight(self) -> np.ndarray:
        """(n,) importance weight w_i = pi_e(a_i | x_i) / pi_b(a_i | x_i)."""
        if self.propensity is None:
            raise ValueError(
                "propensity is None: this estimator divides by the probability with which the log showed what it "
                "showed; give it, or choose an estimator without (dm, on-policy)"
            )
        return self.target_propensity / self.propensity

    @cached_property
    def weighted_reward(self) -> np.ndarray:
        """(n,) w_i r_i."""
        return self.weight * self.reward

    @cached_property
    def q_shown(self) -> np.ndarray:
        """(n,) q(x_i, a_i), the reward model at what was shown."""
        return self._needed_q_hat()[np.arange(self.n), self.action]

    @cached_property
    def q_target(self) -> np.ndarray:
        """(n,) sum_a pi_e(a | x_i) q(x_i, a), the reward model's value of the target policy."""
        return np.einsum("ik,ik->i", self.target, self._needed_q_hat())

    @cached_property
    def cluster_codes(self) -> np.ndarray:
        """(n,) cluster of each row as 0 .. n_clusters - 1."""
        if self.cluster is None:
            return np.arange(self.n)
        return pd.factorize(self.cluster)[0]

    @cached_property
    def n_clusters(self) -> int:
        return int(self.cluster_codes.max()) + 1

    @cached_property
    def candidates(self) -> np.ndarray:
        """(n,) number of candidates of each impression."""
        if validation.is_full(self.mask):
            return np.full(self.n, self.mask.shape[1])
        return self.mask.sum(axis=1)

    def _needed_q_hat(self) -> np.ndarray:
        if self.q_hat is None:
            raise ValueError(
                "q_hat is None: this estimator needs a reward model; pass q_hat=cross_fit(features, ...) of "
                "shape (n, K), or choose an estimator without one (ips, clipped-ips, snips, sgips, replay)"
            )
        return self.q_hat


def _validated(feedback: Feedback) -> tuple[dict[str, np.ndarray | None], list[str]]:
    """Check every argument of a Feedback; return them with their stored types, and what was corrected."""
    reward = validation.vector("reward", feedback.reward)
    n = len(reward)
    if n == 0:
        raise ValueError("reward has no rows: an estimate needs at least one impression")
    target = validation.matrix("target", feedback.target, n)
    mask = validation.cells(feedback.mask, target.shape)
    require(
        np.abs(reward) <= LARGEST,
        "reward",
        reward,
        f"must be finite (at most {LARGEST:g} in size); look up what was earned: leaving such rows out biases",
    )
    action = validation.column_index(feedback.action, mask)
    propensity, excess = None, ""
    if feedback.propensity is not None:
        propensity, excess = validation.propensities(feedback.propensity, n)
    if feedback.propensities not in ("logged", "estimated"):
        raise ValueError(f"propensities is {feedback.propensities!r}: it must be 'logged' or 'estimated'")
    target, target_off = validation.distribution("target", target, mask)
    logging, logging_off = None, ""
    if feedback.logging is not None:
        logging = validation.matrix("logging", feedback.logging, n, target.shape[1])
        logging, logging_off = validation.distribution("logging", logging, mask)
    if logging is not None and propensity is not None:
        require(
            np.isclose(logging[np.arange(n), action], propensity, rtol=1e-3, atol=TOLERANCE),
            "propensity",
            propensity,
            "differs from logging at the shown candidate; both must come from the same logging policy",
        )
    found = {
        "reward": reward,
        "action": action,
        "propensity": propensity,
        "target": target,
        "mask": mask,
        "q_hat": _q_hat(feedback.q_hat, mask),
        "cluster": validation.labels(feedback.cluster, n),
        "logging": logging,
    }
    return found, [text for text in (excess, target_off, logging_off) if text]


def _q_hat(values, mask: np.ndarray) -> np.ndarray | None:
    if values is None:
        return None
    array = validation.matrix("q_hat", values, *mask.shape)
    require(
        (np.abs(array) <= LARGEST) | ~mask,
        "q_hat",
        array,
        f"must be finite (at most {LARGEST:g} in size) for every candidate; refit the reward model",
    )
    return array if validation.is_full(mask) else np.where(mask, array, 0.0)
