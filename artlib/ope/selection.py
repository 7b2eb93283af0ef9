"""Hyper-parameters chosen from the log: SLOPE, or the smallest estimated mean squared error."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from artlib.ope.estimators import PARAMETER, default_parameter, terms, value_of_sums
from artlib.ope.feedback import Feedback
from artlib.ope.intervals import cluster_sizes, cluster_sums, influence, standard_error
from artlib.ope.sums import Sums, Used

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


def used_by_each(estimators: list[str], parameter: float | str | None, feedback: Feedback | None) -> dict[str, Used]:
    """Each estimator's hyper-parameter, for a parameter that is a number, None (the default) or the name of a rule.

    Among several estimators, those without a hyper-parameter do not get it.

    Args:
        feedback: the log that it is chosen from; None where no log is in memory.

    Raises:
        ValueError: when it would be chosen from a log that is not in memory.
    """
    alone = len(estimators) == 1
    return {name: _used(name, parameter if alone or name in PARAMETER else None, feedback) for name in estimators}


def _used(estimator: str, parameter: float | str | None, feedback: Feedback | None) -> Used:
    from_rows = isinstance(parameter, str) or (parameter is None and PARAMETER.get(estimator) == "lam")
    if from_rows and feedback is None and estimator in PARAMETER:
        raise ValueError(
            f"parameter is {parameter!r}: the {PARAMETER[estimator]} of {estimator} would be chosen from all rows, "
            "which are not kept; give a number, e.g. what select says of a part of the log that is in memory"
        )
    if isinstance(parameter, str):
        return Used(select(feedback, estimator, parameter).value, parameter)
    if parameter is None and estimator in PARAMETER:
        return Used(default_parameter(feedback, estimator), "default")
    return Used(parameter, "given" if estimator in PARAMETER else None)


def summed(
    feedbacks: Mapping[str, Feedback | Sums], estimators: list[str], parameter: float | str | None
) -> dict[str, Sums]:
    """Sums of each policy on the same log for these estimators; a Feedback is summed, Sums must have them.

    Raises:
        ValueError: when Sums are of another reading, or without an estimator, or with another hyper-parameter.
    """
    first = next(iter(feedbacks.values()))
    codes = first.cluster_codes if isinstance(first, Feedback) and first.cluster is not None else None
    sizes = cluster_sizes(first) if isinstance(first, Feedback) else first.sizes
    found = {}
    for policy, given in feedbacks.items():
        if isinstance(given, Feedback):
            given = Sums.of(given, used_by_each(estimators, parameter, given), codes, sizes)
        elif given.sizes is not sizes:
            raise ValueError(
                f"policy {policy!r} was read apart: lifts are paired, so name all targets in one read_sums"
            )
        else:
            _check_holds(given, estimators, parameter)
        found[policy] = given
    return found


def _check_holds(sums: Sums, estimators: list[str], parameter: float | str | None) -> None:
    for name in estimators:
        if name not in sums.parameters:
            raise ValueError(
                f"estimator is {name!r}, but the log was read for {', '.join(sums.parameters)}: give read_sums all "
                "estimators that are wanted"
            )
        value, rule = sums.parameters[name]
        if parameter is not None and rule is not None and parameter != value:
            raise ValueError(
                f"parameter is {parameter!r}, but the log was read with {PARAMETER[name]} {value} for {name}: give "
                "it to read_sums"
            )


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
