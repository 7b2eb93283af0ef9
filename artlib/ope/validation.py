"""The checks that every array of this package passes: a fault names the argument, the row, the value, the remedy."""

import numpy as np
import pandas as pd

# Float64 sums of probabilities are off by less, float32 ones (a softmax, 1.0000001) by no more than ROUNDING.
EXACT = 1e-12
ROUNDING = 1e-6
# The one tolerance on probabilities: deviations up to it are corrected and, above ROUNDING, warned of. Rounded to four
# decimals, the sum of K probabilities is off by up to K HALF_DECIMAL; beyond COARSEST the row says too little.
TOLERANCE = 1e-4
HALF_DECIMAL = 0.5e-4
COARSEST = 0.01
# Weights up to 1 / SMALLEST times rewards up to LARGEST can still be squared and cubed in float64.
SMALLEST = 1e-50
LARGEST = 1e50


class CellError(ValueError):
    """A fault in one row of an argument.

    Attributes:
        argument: its name.
        cell: indices of the faulty cell: the row, then the column if the argument has columns.
    """

    def __init__(self, message: str, argument: str = "", cell: tuple[int, ...] = ()):
        super().__init__(message)
        self.argument, self.cell = argument, cell


def require(ok: np.ndarray, name: str, values: np.ndarray, remedy: str, argument: str | None = None) -> None:
    """Raise a CellError that shows the first value that is not ok and counts the others.

    Args:
        ok, values: of one shape, (n,), (n, K) or (n, K, d).
        name: what the message calls the values; `argument` is where they come from, by default the same.
    """
    if ok.all():
        return
    bad = np.argwhere(~ok)
    first = tuple(int(i) for i in bad[0])
    where = ", ".join(f"{axis} {i}" for axis, i in zip(("row", "column", "feature"), first, strict=False))
    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    raise CellError(f"{name} at {where} is {values[first]}{more}: {remedy}", argument or name, first)


def vector(name: str, values, n: int | None = None) -> np.ndarray:
    """(n,) numbers as float64."""
    array = _flat(name, values)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}: it must be (n,), one value per impression")
    check_rows(name, array, n)
    return numbers(name, array)


def _flat(name: str, values) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} is a nested list: it must be (n,), one value per impression") from error


def matrix(name: str, values, n: int, k: int | None = None) -> np.ndarray:
    """(n, K) numbers as float64."""
    array = regular(name, values)
    if array.ndim != 2:
        raise ValueError(
            f"{name} has shape {array.shape}: it must be (n, K), a row per impression and a column "
            "per candidate, padded where an impression has fewer"
        )
    check_rows(name, array, n)
    if k is not None and array.shape[1] != k:
        raise ValueError(f"{name} has {array.shape[1]} columns but target has {k}: pad both to the same K")
    return numbers(name, array)


def check_rows(name: str, array: np.ndarray, n: int | None) -> None:
    if n is not None and len(array) != n:
        raise ValueError(f"{name} has {len(array)} rows but reward has {n}: give both for the same impressions")


def numbers(name: str, array: np.ndarray) -> np.ndarray:
    """The array as float64."""
    try:
        return np.asarray(array, dtype=float)
    except (TypeError, ValueError):
        cell, value = next((cell, value) for cell, value in np.ndenumerate(array) if not _is_number(value))
        raise CellError(
            f"{name} cannot be read as numbers: row {cell[0]} has {plain(value)!r}; pass a numeric array", name, cell
        ) from None


def plain(value):
    """A numpy scalar as Python's, which prints without its type."""
    return value.item() if isinstance(value, np.generic) else value


def _is_number(value) -> bool:
    try:
        return np.isscalar(float(value))
    except (TypeError, ValueError):
        return False


def regular(name: str, values, fill: str = "0") -> np.ndarray:
    """Rows of equal length as one array, also from a list or a pandas column of lists.

    Args:
        fill: what shorter rows should be padded with.
    """
    try:
        array = np.asarray(values)
    except ValueError:  # lists of different lengths
        array = None
    if array is not None and not (array.dtype == object and array.ndim == 1):
        return array
    rows = list(values)
    lengths = [length(row) for row in rows]
    if array is not None and all(size is None for size in lengths):
        return array
    k = max(size or 0 for size in lengths)
    for i, (row, size) in enumerate(zip(rows, lengths, strict=True)):
        if size is None:
            raise CellError(f"{name} at row {i} is {row!r}: must be a list, one entry per candidate", name, (i,))
        if size != lengths[0]:
            raise CellError(
                f"{name} at row {i} has {size} candidates but row 0 has {lengths[0]}: rows must have one length; "
                f"pad {name} with {fill} to K = {k} columns and pass mask, True for the candidates",
                name,
                (i,),
            )
    try:
        return np.asarray([np.asarray(row) for row in rows])
    except ValueError as error:
        raise ValueError(
            f"{name} is a nested list whose innermost lists differ in length: give all equally many entries"
        ) from error


def length(row) -> int | None:
    """Number of entries of a list or array; None for what is neither."""
    try:
        return None if isinstance(row, str | bytes) else len(row)
    except TypeError:
        return None


def column_index(action, mask: np.ndarray, of: str = "target") -> np.ndarray:
    """(n,) column of the shown candidate as int64; `of` names the argument that has the columns."""
    array, (n, k) = vector("action", action, len(mask)), mask.shape
    require(
        np.isfinite(array) & (array == np.floor(array)),
        "action",
        array,
        "must be a whole number, the column of the candidate that was shown",
    )
    require(
        (array >= 0) & (array < k),
        "action",
        np.asarray(action),
        f"must be a column of {of}, 0 to {k - 1}; it is an index into the candidates, not an id",
    )
    index = array.astype(np.int64)
    require(
        mask[np.arange(n), index],
        "action",
        index,
        "is a padded cell; mask must be True for the candidate that was shown",
    )
    return index


def cells(mask, shape: tuple[int, int], of: str = "target") -> np.ndarray:
    """(n, K) which cells are candidates; all of them by default."""
    if shape[1] == 0:
        raise ValueError(f"{of} has no columns: an impression needs at least one candidate")
    if mask is None:
        return np.broadcast_to(np.True_, shape)
    array = regular("mask", mask, "False")
    if array.shape != shape:
        raise ValueError(f"mask has shape {array.shape} but {of} has {shape}: give one True or False per cell")
    if array.dtype != bool and not np.isin(array, (0, 1)).all():
        raise ValueError("mask has values other than True and False: give True where the cell is a candidate")
    return array.astype(bool, copy=False)


def is_full(mask: np.ndarray) -> bool:
    """Whether every cell is a candidate; of a mask that is one True, broadcast, without looking at each."""
    return bool(mask.all()) if any(mask.strides) or not mask.size else bool(mask.flat[0])


def labels(cluster, n: int) -> np.ndarray | None:
    """(n,) cluster of each row."""
    if cluster is None:
        return None
    array = _flat("cluster", cluster)
    if array.ndim != 1 or len(array) != n:
        raise ValueError(f"cluster has shape {array.shape} but reward has {n} rows: give one label per impression")
    require(~pd.isna(array), "cluster", array, "must not be missing; give unknown users a label of their own")
    return array


def propensities(propensity, n: int) -> tuple[np.ndarray, str]:
    """(n,) probabilities in (0, 1], and a sentence on what was corrected, empty if nothing was."""
    array = vector("propensity", propensity, n)
    require(
        (array > 0) & (array <= 1 + TOLERANCE + ROUNDING),
        "propensity",
        array,
        "must be in (0, 1]; log the probability with which the shown candidate was drawn",
    )
    require(
        array >= SMALLEST,
        "propensity",
        array,
        f"must be at least {SMALLEST:g}, as its weight, up to 1 / propensity, is squared; nothing that improbable is "
        "ever shown, so look for a product or a softmax that underflowed, or for a probability of another candidate",
    )
    excess = array - 1
    if not (excess > 0).any():
        return array, ""
    return np.minimum(array, 1.0), _correction("propensity is above 1", "set to 1", excess)


def distribution(name: str, array: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, str]:
    """(n, K) probabilities whose rows sum to 1, and a sentence on what was corrected, empty if nothing was."""
    total = array @ np.ones(array.shape[1])  # several times as fast as sum(axis=1) for few candidates
    if array.min() >= 0 and np.abs(total - 1).max() <= EXACT and (is_full(mask) or not array[~mask].any()):
        return array, ""  # nothing below is wrong or changes anything, at a fraction of the cost
    limit = np.clip(HALF_DECIMAL * mask.sum(axis=1), TOLERANCE, COARSEST) + ROUNDING
    # A comparison with NaN is False, so NaN fails the first check too. What is left of 1 may be just below 0.
    require((array >= -ROUNDING) & (array <= 1 + limit[:, None]), name, array, "must be a probability, 0 to 1")
    if not is_full(mask):
        require(mask | (array == 0), name, array, "is mass on a padded cell; set it to 0 and renormalise the row")
    if (array < 0).any():
        array = np.maximum(array, 0.0)
    total = array.sum(axis=1)
    deviation = np.abs(total - 1)
    require(
        deviation <= limit,
        f"sum of {name}",
        total,
        "must be 1 over the impression's candidates; renormalise the row",
        name,
    )
    off = deviation > EXACT
    if not off.any():
        return array, ""
    return array / np.where(off, total, 1.0)[:, None], _correction(
        f"{name} does not sum to 1", "divided by the sum", deviation
    )


def _correction(fault: str, remedy: str, deviation: np.ndarray) -> str:
    rows = int((deviation > ROUNDING).sum())
    if not rows:
        return ""
    worst = int(np.argmax(deviation))
    return f"{fault} in {rows} row{'s' * (rows > 1)}, at most by {deviation[worst]:.2g} (row {worst}): {remedy}"
