"""Hyper-parameters chosen from the log: SLOPE, or the smallest estimated mean squared error."""

from dataclasses import dataclass

import numpy as np

from artlib.ope.estimators import PARAMETER, Terms, terms, value_of_sums
from artlib.ope.feedback import Feedback
from artlib.ope.intervals import cluster_sizes, cluster_sums, influence, standard_error

RULES = ("slope", "mse")


@dataclass(frozen=True)
class Choice:
    """A hyper-parameter and why it was chosen.

    Attributes:
        name: of the hyper-parameter: clip, threshold, shrinkage or lam.
        value: chosen.
        rule: "slope" or "mse".
        grid: candidates, from least to most biased.
        values, std_errors: estimate and clustered standard error at each candidate.
    """

    name: str
    value: float
    rule: str
    grid: tuple[float, ...]
    values: tuple[float, ...]
    std_errors: tuple[float, ...]


def select(feedback: Feedback, estimator: str, rule: str = "slope", grid=None) -> Choice:
    """Choose an estimator's hyper-parameter.

    "slope" goes from the least to the most biased candidate while each agrees with all before it,
    |V_j - V_i| <= c_j + (sqrt(6) - 1) c_i for i < j with c the standard errors (as in its authors' code),
    and takes the last: its error is within a constant of the best candidate's. That constant lets through
    a bias of more than two standard errors. "mse" takes the smallest estimate of variance + bias^2, the
    bias being the distance from the least biased candidate; it errs on the side of variance.

    Args:
        feedback: n impressions.
        estimator: one of clipped-ips, switch-dr, dros, sgips, sgdr.
        rule: "slope" or "mse".
        grid: candidate values; default: from no regularisation to nearly all, see `default_grid`.

    Raises:
        ValueError: for an unknown rule, an estimator without hyper-parameter, or an empty grid.

    Su, Srinath and Krishnamurthy 2020, "Adaptive estimator selection for off-policy evaluation" (SLOPE), and
    Tucker and Lee 2021, "Improved estimator selection for off-policy evaluation" (its constant);
    Su, Dimakopoulou, Krishnamurthy and Dudik 2020, "Doubly robust off-policy evaluation with shrinkage", and
    Wang, Agarwal and Dudik 2017 (estimated MSE).
    """
    if estimator not in PARAMETER:
        raise ValueError(
            f"estimator is {estimator!r}, which has no hyper-parameter: it must be one of {', '.join(PARAMETER)}"
        )
    if rule not in RULES:
        raise ValueError(f"parameter is {rule!r}: it must be a number, 'slope' or 'mse'")
    grid = default_grid(feedback, estimator) if grid is None else _from_least_biased(estimator, grid)
    sizes = cluster_sizes(feedback)
    sums = [cluster_sums(terms(feedback, estimator, p), feedback) for p in grid]
    values = np.array([value_of_sums(s.sum(axis=0), feedback.n) for s in sums], dtype=float)
    errors = np.array([standard_error(influence(s, sizes)) for s in sums])
    chosen = _slope(values, errors) if rule == "slope" else _least_mse(values, errors)
    return Choice(PARAMETER[estimator], grid[chosen], rule, tuple(grid), tuple(values), tuple(errors))


def default_grid(feedback: Feedback, estimator: str, size: int = 12) -> list[float]:
    """Candidates from least to most biased.

    clip and threshold: infinity, then quantiles of the positive weights; shrinkage: infinity, then squares
    of those; lam: 0, then geometrically up to 1.
    """
    if PARAMETER[estimator] == "lam":
        return [0.0, *np.geomspace(1e-4, 1.0, size - 1).tolist()]
    positive = feedback.weight[feedback.weight > 0]
    if not len(positive):
        return [float("inf")]
    cuts = np.unique(np.quantile(positive, 1 - np.geomspace(1e-4, 0.9, size - 1)))[::-1]
    return [float("inf"), *(cuts**2 if estimator == "dros" else cuts).tolist()]


def choose_terms(feedback: Feedback, estimator: str, parameter: float | str | None) -> tuple[Terms, Choice | None]:
    """Terms for a parameter that is a number, None (the default) or the name of a rule."""
    if isinstance(parameter, str):
        choice = select(feedback, estimator, parameter)
        return terms(feedback, estimator, choice.value), choice
    return terms(feedback, estimator, parameter), None


def _from_least_biased(estimator: str, grid) -> list[float]:
    ordered = sorted((float(p) for p in grid), reverse=PARAMETER[estimator] != "lam")
    if not ordered:
        raise ValueError("grid is empty: give at least one candidate value")
    return ordered


def _slope(values: np.ndarray, errors: np.ndarray) -> int:
    # SLOPE asks for margins that fall along the candidates; estimated ones may not.
    margin = np.maximum.accumulate(np.nan_to_num(errors, nan=np.inf)[::-1])[::-1]
    for j in range(1, len(values)):
        if np.any(np.abs(values[j] - values[:j]) > margin[j] + (np.sqrt(6) - 1) * margin[:j]):
            return j - 1
    return len(values) - 1


def _least_mse(values: np.ndarray, errors: np.ndarray) -> int:
    return int(np.argmin(np.nan_to_num(errors, nan=np.inf) ** 2 + (values - values[0]) ** 2))
