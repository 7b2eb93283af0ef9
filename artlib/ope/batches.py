"""A log that is larger than memory, read in Arrow record batches and reduced to sums; see `read_sums`."""

import contextlib
import os
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import dataset

from artlib.ope import frames, validation
from artlib.ope.feedback import ROUNDED, Feedback
from artlib.ope.selection import used_by_each
from artlib.ope.sums import Sums
from artlib.ope.validation import CellError

# Rows at once: enough that numpy's calls cost little, few enough that what they make stays in the processor's cache.
ROWS = 2**15
# How much larger a table is made than it has to be, lest it is moved for every batch.
SPARE = 1.25

Columns = dict[str, str | list[str] | None]


def read_sums(
    log: str | os.PathLike | dataset.Dataset | Iterable[pa.RecordBatch],
    targets: Sequence[str] | dict[str, str | list[str]],
    estimator: str | list[str] = "snips",
    *,
    parameter: float | str | None = None,
    reward: str = "reward",
    action: str = "action",
    propensity: str = "propensity",
    q_hat: str | list[str] | None = "q_hat",
    cluster: str | None = "cluster",
    logging: str | list[str] | None = "logging",
    candidates: str | None = None,
    propensities: str = "logged",
) -> dict[str, Sums]:
    """Sums over clusters, for every target policy, of a log that need not fit in memory; each row is read once.

        sums = ope.read_sums("log", ["production", "mine"], ["ips", "snips"], cluster="user")
        ope.compare(sums, "production", "snips")

    They say what Feedbacks of the whole log would, replicate by replicate, to rounding. In memory are some batches and,
    for each cluster, its label and 8 bytes for its size and for every column of every policy: "snips" has two.
    Clusters may come back in any batch. Without a cluster column every row is a cluster, and sums grow with rows.

    Args:
        log: a folder of Parquet files, perhaps in folders named column=value; a pyarrow Dataset; or an iterable of
            Arrow record batches, which DuckDB and Polars give. A row is as `Feedback.from_frame` takes it, with a
            column of probabilities for each target. Parquet is read a row group at a time: better many than large.
        targets: names of columns, which become the policies' names; or policy -> its column, or list of columns.
        estimator: a name in ESTIMATORS, or several.
        parameter: the hyper-parameter of those that have one, a number, or None for the default.
        reward, action, propensity, q_hat, cluster, logging, candidates, propensities: as in `Feedback.from_frame`.

    Returns:
        Policy -> Sums: for `compare`, and each alone for `estimate` and `diagnose`.

    Raises:
        ValueError: naming the argument, the column, the file, the row in it (0 is the first) and the remedy; or where
            a hyper-parameter would be chosen from all rows: by a rule, or the default lam of sgips and sgdr.
    """
    columns: Columns = {
        "reward": reward,
        "action": action,
        "propensity": propensity,
        "q_hat": q_hat,
        "cluster": cluster,
        "logging": logging,
        "candidates": candidates,
    }
    policies = dict(targets) if isinstance(targets, dict) else {name: name for name in targets}
    if isinstance(targets, str) or not policies:
        raise ValueError(f"targets is {targets!r}: it must be a list of columns of probabilities, one a policy")
    used = used_by_each([estimator] if isinstance(estimator, str) else list(estimator), parameter, None)
    first = columns | {"target": next(iter(policies.values()))}
    clusters, table, corrections = _Clusters(), _Table(), []
    found: dict[str, Sums] = {}
    with ThreadPoolExecutor(min(len(policies), os.cpu_count() or 1)) as pool:
        for batch in _batches(log, [*columns.values(), *policies.values()]):
            logged, corrected = batch.feedback(first, propensities)
            corrections += corrected
            codes, here, at = batch.clusters(first, clusters)

            def reduce(column, batch=batch, logged=logged, codes=codes, here=here) -> tuple[Sums, list[str]]:
                feedback, corrected = batch.under(columns | {"target": column}, first, logged)
                return Sums.of(feedback, used, codes, here), corrected

            parts = list(pool.map(reduce, policies.values()))
            table.add(np.column_stack([here, *(part.table for part, _ in parts)]), at, clusters.n)
            for policy, (part, corrected) in zip(policies, parts, strict=True):
                found[policy] = part if policy not in found else _together(found[policy], part)
                corrections += corrected
    if not clusters.n:
        raise ValueError(f"log has no rows: an estimate needs at least one impression; it is {log!r}")
    if corrections:
        more = f", and {len(corrections) - 1} times more in other batches and columns" if corrections[1:] else ""
        warnings.warn(f"{corrections[0]}{more}. {ROUNDED}", UserWarning, stacklevel=2)
    array = table.of_size(clusters.n)
    sizes, end = array[:, 0].copy(), 1
    for policy, part in found.items():
        start, end = end, end + part.table.shape[1]
        found[policy] = replace(part, sizes=sizes, table=array[:, start:end])
    return found


def _together(before: Sums, part: Sums) -> Sums:
    """What two parts of a log say besides the sums in their tables."""
    defined = {name: known or part.defined[name] for name, known in before.defined.items()}
    return replace(part, rows=before.rows + part.rows, defined=defined)


class _Clusters:
    """Labels seen so far, numbered in the order in which they appear; n of them."""

    def __init__(self) -> None:
        self.numbers: defaultdict = defaultdict()
        self.numbers.default_factory = self.numbers.__len__
        self.n = 0

    def rows(self, count: int) -> slice:
        """Numbers of so many rows, each a cluster of its own."""
        self.n += count
        return slice(self.n - count, self.n)

    def labels(self, column: pd.Series) -> tuple[np.ndarray, np.ndarray]:
        """(n,) cluster of each row as 0 .. g - 1, and (g,) numbers of these clusters."""
        array = frames.arrow(column)
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if array.null_count or pa.types.is_floating(array.type):
            validation.labels(column.to_numpy(dtype=object), len(column))  # which says where one is missing
        encoded = array.dictionary_encode()
        labels = encoded.dictionary.to_pylist()
        numbers = np.fromiter(map(self.numbers.__getitem__, labels), np.int64, len(labels))
        self.n = len(self.numbers)
        return encoded.indices.to_numpy(), numbers


class _Table:
    """(G, m) sums whose clusters become more. One for all policies: a cluster's sums lie together in memory."""

    def __init__(self) -> None:
        self.array: np.ndarray | None = None

    def add(self, part: np.ndarray, at: np.ndarray | slice, n: int) -> None:
        """Add the (g, m) sums of the clusters numbered `at`, (g,) different ones, of n in all."""
        if self.array is None:
            self.array = np.zeros((0, part.shape[1]))
        if n > len(self.array):
            # In place: numpy's other ways hold the table twice for a moment.
            self.array.resize((int(SPARE * n), part.shape[1]), refcheck=False)
        if isinstance(at, slice):
            self.array[at] += part
        else:  # nearly twice as fast as +=
            self.array[at] = np.add(self.array.take(at, axis=0), part)

    def of_size(self, n: int) -> np.ndarray:
        assert self.array is not None
        self.array.resize((n, self.array.shape[1]), refcheck=False)
        return self.array


@dataclass(frozen=True)
class _Batch:
    """Some rows of a log, the first of which has this number in its place, a file or the stream of batches."""

    frame: pd.DataFrame
    place: str
    first: int

    def feedback(self, columns: Columns, propensities: str) -> tuple[Feedback, list[str]]:
        """The rows under a target, and what was corrected."""
        with self._located(columns):
            arguments = frames.arguments(self.frame, columns | {"cluster": None})
            feedback, corrected = Feedback.checked(**arguments, propensities=propensities)
        return feedback, self._placed(corrected)

    def under(self, columns: Columns, first: Columns, logged: Feedback) -> tuple[Feedback, list[str]]:
        """The rows, already checked with the first target, under another, and what was corrected."""
        if columns == first:
            return logged, []
        with self._located(columns):
            frames.is_there(self.frame, "target", columns["target"])
            values, mask = frames.padded(self.frame, "target", columns["target"])
            values = frames.aligned("target", values, mask, logged.mask, f"column {first['target']!r}")
            feedback, corrected = logged.with_target(values)
        return feedback, self._placed(corrected)

    def clusters(self, columns: Columns, known: _Clusters) -> tuple[np.ndarray | None, np.ndarray, np.ndarray | slice]:
        """(n,) cluster of each row within the batch, if not its own, (g,) rows of each, and (g,) their numbers."""
        with self._located(columns):
            if not frames.is_there(self.frame, "cluster", columns["cluster"]):
                return None, np.ones(len(self.frame)), known.rows(len(self.frame))
            codes, at = known.labels(self.frame[columns["cluster"]])
        return codes, np.bincount(codes).astype(float), at

    @contextlib.contextmanager
    def _located(self, columns: Columns) -> Iterator[None]:
        try:
            yield
        except CellError as error:
            column, row = frames.column_at_fault(error, columns), self.first + error.cell[0]
            raise ValueError(f"{error} (column {column!r} of {self.place}, row {row} of it)") from None
        except ValueError as error:
            raise ValueError(f"{self.place}: {error}") from None

    def _placed(self, corrected: list[str]) -> list[str]:
        return [f"{text} (in {self.place}, from row {self.first})" for text in corrected]


def _batches(log, columns: list) -> Iterator[_Batch]:
    """The log's rows by ROWS, with those of its columns that are wanted."""
    wanted = {name for each in columns for name in (each if isinstance(each, list) else [each])}
    for batch, place, first in _arrow_batches(log, wanted):
        names = [name for name in batch.schema.names if name in wanted]
        for start in range(0, len(batch), ROWS):
            frame = batch.select(names).slice(start, ROWS).to_pandas(types_mapper=pd.ArrowDtype)
            yield _Batch(frame, place, first + start)


def _arrow_batches(log, wanted: set) -> Iterator[tuple[pa.RecordBatch, str, int]]:
    if isinstance(log, str | os.PathLike):
        log = dataset.dataset(log, format="parquet", partitioning="hive")
    if isinstance(log, dataset.Dataset):
        names = [name for name in log.schema.names if name in wanted]
        for fragment in log.get_fragments():
            first = 0
            # Arrow decodes a few batches ahead, in threads of its own.
            for batch in fragment.to_batches(schema=log.schema, columns=names, batch_size=2 * ROWS, batch_readahead=2):
                yield batch, getattr(fragment, "path", "the dataset"), first
                first += len(batch)
        return
    first, names = 0, None
    for batch in log.to_batches() if isinstance(log, pa.Table) else log:
        if not isinstance(batch, pa.RecordBatch):
            raise ValueError(
                f"log yields a {type(batch).__name__}: it must be a folder of Parquet files, a pyarrow Dataset, or an "
                "iterable of pyarrow RecordBatches"
            )
        names = names or batch.schema.names
        if batch.schema.names != names:
            raise ValueError(
                f"the batch from row {first} has columns {', '.join(batch.schema.names)}, those before had "
                f"{', '.join(names)}: give all batches the same"
            )
        yield batch, "the batches", first
        first += len(batch)
