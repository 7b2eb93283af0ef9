"""A policy's log reduced to sums over its clusters: all that values, intervals and diagnostics need, and no row."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from artlib.ope.estimators import UNREGULARISED, terms, value_of_sums
from artlib.ope.feedback import Feedback
from artlib.ope.intervals import sums_by

# Names, beside those of estimators, of columns of sums that diagnostics need: of w, and of w (r - q(x, a)).
WEIGHT = "weight"
MODEL_ERROR = "model error"


class Used(NamedTuple):
    """An estimator's hyper-parameter and how it was chosen: "given", "default", "slope" or "mse"; None without one."""

    value: float | None = None
    rule: str | None = None


@dataclass(frozen=True)
class Spread:
    """Numbers >= 0: the largest, and relative to it, as squares of tiny weights underflow, their sum and squares' sum.

    Spreads of parts of a log add up to that of the whole.
    """

    largest: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, x: np.ndarray) -> "Spread":
        largest = float(x.max())
        if not largest > 0:
            return cls()
        relative = x / largest
        return cls(largest, float(relative.sum()), float(relative @ relative))

    def __add__(self, other: "Spread") -> "Spread":
        largest = max(self.largest, other.largest)
        if not largest > 0:
            return self
        a, b = self.largest / largest, other.largest / largest
        return Spread(largest, a * self.total + b * other.total, a**2 * self.squares + b**2 * other.squares)

    @property
    def effective_size(self) -> float:
        """(sum x)^2 / sum x^2: as many equal numbers would carry as much; 0 when all are 0. Kish 1965."""
        return self.total**2 / self.squares if self.largest > 0 else 0.0


@dataclass(frozen=True)
class Rows:
    """What diagnostics ask of single rows, which no sum over a cluster tells; the parts of a log add up.

    Attributes:
        n: rows.
        lowest_reward: the smallest reward.
        match: sum of pi_e(a_i | x_i).
        weight, rewarded: spreads of w and of w |r|; empty without propensities.
        unsupported: sum of the target's mass where logging is 0; 0 without logging.
        fewest, most: candidates of an impression.
        uneven: largest |candidates * propensity - 1|: how far from uniform the logging policy is.
    """

    n: int
    lowest_reward: float
    match: float
    weight: Spread
    rewarded: Spread
    unsupported: float
    fewest: int
    most: int
    uneven: float

    @classmethod
    def of(cls, feedback: Feedback) -> "Rows":
        unsupported, uneven, weight, rewarded = 0.0, float("inf"), Spread(), Spread()
        if feedback.logging is not None:
            unsupported = float(np.where(feedback.logging > 0, 0.0, feedback.target).sum())
        if feedback.propensity is not None:
            weight, rewarded = Spread.of(feedback.weight), Spread.of(np.abs(feedback.weighted_reward))
            uneven = float(np.abs(feedback.propensity * feedback.candidates - 1).max())
        return cls(
            n=feedback.n,
            lowest_reward=float(feedback.reward.min()),
            match=float(feedback.target_propensity.sum()),
            weight=weight,
            rewarded=rewarded,
            unsupported=unsupported,
            fewest=int(feedback.candidates.min()),
            most=int(feedback.candidates.max()),
            uneven=uneven,
        )

    def __add__(self, other: "Rows") -> "Rows":
        return Rows(
            self.n + other.n,
            min(self.lowest_reward, other.lowest_reward),
            self.match + other.match,
            self.weight + other.weight,
            self.rewarded + other.rewarded,
            self.unsupported + other.unsupported,
            min(self.fewest, other.fewest),
            max(self.most, other.most),
            max(self.uneven, other.uneven),
        )


@dataclass(frozen=True, eq=False)
class Sums:
    """A log under a target policy, as sums over the rows of each cluster; see `read_sums`.

    `estimate`, `compare` and `diagnose` take it in place of a Feedback, and say the same of it.

    Attributes:
        sizes: (G,) rows of each cluster, clusters in the order in which they first appear. Policies of one log share
            this array.
        table: (G, m) sums of the estimators' terms, and of what diagnostics need.
        at: name of an estimator, WEIGHT or MODEL_ERROR -> its columns in the table.
        parameters: estimator -> its hyper-parameter.
        defined: estimator -> whether it has a value: something that was shown is shown by the target.
        rows: what is known of single rows.
        support_known: whether the whole logging policy was known.
        propensities: "logged", "estimated" or "none".
    """

    sizes: np.ndarray
    table: np.ndarray
    at: dict[str, list[int]]
    parameters: dict[str, Used]
    defined: dict[str, bool]
    rows: Rows
    support_known: bool
    propensities: str

    @classmethod
    def of(cls, feedback: Feedback, parameters: dict[str, Used], codes: np.ndarray | None, sizes: np.ndarray) -> "Sums":
        """Sums of n rows.

        Args:
            feedback: n impressions.
            parameters: an entry for each estimator.
            codes: (n,) cluster of each row as 0 .. G - 1; None: every row is its own.
            sizes: (G,) rows of each cluster.
        """
        columns, defined = {}, {}
        for name, used in parameters.items():
            found = terms(feedback, name, used.value)
            columns[name], defined[name] = found.columns, found.defined
        for name in [UNREGULARISED[name] for name in parameters if name in UNREGULARISED]:
            columns.setdefault(name, terms(feedback, name).columns)
        if feedback.propensity is not None:
            columns[WEIGHT] = [feedback.weight]
            if feedback.q_hat is not None:
                columns[MODEL_ERROR] = [feedback.weight * (feedback.reward - feedback.q_shown)]
        # What several have in common, e.g. the weights, is one column.
        distinct = {id(column): column for found in columns.values() for column in found}
        place = {key: i for i, key in enumerate(distinct)}
        return cls(
            sizes=sizes,
            table=sums_by(list(distinct.values()), codes, len(sizes)),
            at={name: [place[id(column)] for column in found] for name, found in columns.items()},
            parameters=parameters,
            defined=defined,
            rows=Rows.of(feedback),
            support_known=feedback.logging is not None,
            propensities="none" if feedback.propensity is None else feedback.propensities,
        )

    def __add__(self, other: "Sums") -> "Sums":
        """Of two parts of a log, whose clusters are the same."""
        defined = {name: known or other.defined[name] for name, known in self.defined.items()}
        return replace(self, table=self.table + other.table, rows=self.rows + other.rows, defined=defined)

    def __len__(self) -> int:
        return self.rows.n

    @property
    def n(self) -> int:
        return self.rows.n

    @property
    def n_clusters(self) -> int:
        return len(self.sizes)

    def block(self, name: str) -> np.ndarray:
        """(G, m) sums of an estimator's terms, as `Terms.columns` has them."""
        return self.table[:, self.at[name]]

    def value(self, estimator: str) -> float:
        """The estimate; NaN when it is undefined."""
        if not self.defined[estimator]:
            return float("nan")
        # A column at a time: numpy adds up one in pairs, which is more exact than down the rows of many.
        return float(value_of_sums(np.array([self.table[:, i].sum() for i in self.at[estimator]]), self.n))
