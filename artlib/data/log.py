"""The Log: what was shown to whom with which probability, and what came of it.

A log is a folder of Parquet files and a manifest. Everything else in artlib meets through it: worlds build one,
policies read one, evaluation judges on one. `storage` holds its columns, `contract` the checks behind `Log.validate`,
`oddities` those behind `Log.warnings`.
"""

import dataclasses
import functools
import hashlib
import os
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from artlib import files
from artlib.data import clauses, contract, dataset_card, oddities, pictures, storage
from artlib.data.background import AVERAGED, SAMPLE, Background
from artlib.data.columns import codes, pad, replaced, rows_of, take
from artlib.data.contract import SPLITS, LogError
from artlib.data.history import History
from artlib.data.storage import OPTIONAL, SCHEMAS

PIECE = 100_000  # texts that are hashed at once


class LogWarning(UserWarning):
    """Something odd about a valid log."""


@dataclasses.dataclass(frozen=True)
class Arrays:
    """The impressions of a log as arrays. n impressions, K the largest number of candidates.

    Attributes:
        candidates: (n, K) row of each candidate in `artworks`; -1 where padded.
        mask: (n, K) True where there is a candidate.
        shown: (n,) column of the artwork that was shown.
        propensity: (n,) logging policy's probability of `shown`; NaN where there are none (`Log.propensities`).
        reward: (n,) observed reward, >= 0.
        production: (n, K) the production policy's probabilities; 0 where padded; None for the earlier period.
        user, title: (n,) integer codes; `title` is the row in `titles`.
    """

    candidates: np.ndarray
    mask: np.ndarray
    shown: np.ndarray
    propensity: np.ndarray
    reward: np.ndarray
    production: np.ndarray | None
    user: np.ndarray
    title: np.ndarray

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if (values := getattr(self, field.name)) is not None:
                values.flags.writeable = False

    def __len__(self) -> int:
        return len(self.shown)

    @property
    def logging(self) -> np.ndarray:
        """(n, K) with which probability each candidate was shown, as far as the log says: production's where it drew
        what was shown, else, or where there are no propensities, the same for all; 0 where padded."""
        own = np.take_along_axis(self.production, self.shown[:, None], axis=1)[:, 0]
        drew = np.abs(own - self.propensity) <= 1e-3 * own + 1e-4
        return np.where(drew[:, None], self.production, self.mask / self.mask.sum(axis=1, keepdims=True))

    @property
    def shown_artwork(self) -> np.ndarray:
        """(n,) row in `artworks` of what was shown."""
        return self.candidates[np.arange(len(self)), self.shown]


@dataclasses.dataclass(frozen=True)
class Log:
    """A log in memory: one Arrow table a file (see `SCHEMAS`) and the manifest.

    Attributes:
        folder: where the log was read from, to which paths of pictures are relative; None for one made in memory.
        learnt_on: of the log that a model was trained on, where this one only asks it; see `background`.
    """

    titles: pa.Table
    artworks: pa.Table
    histories: pa.Table
    impressions: pa.Table
    manifest: dict
    earlier: pa.Table | None = None
    truth: pa.Table | None = None
    folder: Path | None = None
    learnt_on: Background | None = None
    # What this one is a part of; and the history, once for a log and all its parts.
    _whole: "Log | None" = dataclasses.field(default=None, repr=False, compare=False)
    _shared: dict = dataclasses.field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def load(cls, folder: str | os.PathLike, validate: bool = True) -> "Log":
        """Read a log folder.

        Args:
            folder: holds titles, artworks, histories and impressions `.parquet`; earlier, truth and manifest.json
                where there are any.
            validate: check the whole contract (`Log.validate`), as anything not built by artlib should be, and warn of
                what is odd (`Log.warnings`).

        Raises:
            LogError: a file or column is missing, of another type, differs from the manifest's checksum, or
                breaks the contract; the message names file, row, column, value and remedy.
        """
        folder = Path(folder)
        manifest = storage.read_manifest(folder)
        tables = {}
        for name, schema in SCHEMAS.items():
            path = folder / f"{name}.parquet"
            if path.exists():
                recorded = manifest.get("files", {}).get(path.name, {}).get("sha256")
                if recorded and recorded != files.sha256(path):
                    raise LogError(
                        f"{path}: its sha256 is not the one in manifest.json, so it changed after the log was "
                        'written; build the log again, or take the key "files" out of manifest.json if the change is '
                        "meant"
                    )
                tables[name] = storage.read_table(path, schema)
            elif name not in OPTIONAL or path.name in manifest.get("files", {}):
                raise LogError(f"{path} is missing; a log needs {', '.join(n for n in SCHEMAS if n not in OPTIONAL)}")
        pa.default_memory_pool().release_unused()  # of decoding: a sixth of what a large log takes
        log = cls(manifest=manifest, folder=folder, **tables)
        if validate:
            log.validate(folder)
            for line in log.warnings():
                warnings.warn(f"{folder}: {line}", LogWarning, stacklevel=2)
        return log

    def save(self, folder: str | os.PathLike, keep: Sequence[str] = ()) -> None:
        """Write the log with a manifest of row counts and checksums, and a dataset card (README.md) by which
        `datasets.load_dataset(folder, "impressions")` finds each table; the folder appears whole or not at all.

        Pictures stay where they are: paths to them become absolute in a log that is written elsewhere.

        Args:
            folder: where it goes; a log that is there is replaced.
            keep: names of files of that log that are to stay.

        Raises:
            LogError: the folder holds other files than a log's, pictures among them, which would be lost.
        """
        storage.refuse_to_lose(folder, keep)
        artworks = self._artworks_for(Path(folder))
        with files.replacing(folder) as temporary:
            temporary.mkdir()
            written = {}
            for name, table in (self.tables() | {"artworks": artworks}).items():
                path = temporary / f"{name}.parquet"
                pq.write_table(table, path, compression="zstd")
                written[path.name] = {"rows": table.num_rows, "sha256": files.sha256(path)}
            files.write_json(temporary / "manifest.json", {**self.manifest, "files": written})
            (temporary / "README.md").write_text(dataset_card.card(self))
            for name in keep:
                if (Path(folder) / name).exists():
                    shutil.copy2(Path(folder) / name, temporary)

    def _artworks_for(self, folder: Path) -> pa.Table:
        """The artworks, with paths of pictures that hold in another folder than the log's own."""
        images = self.artworks["image"].to_pylist()
        if self.folder is None or all(image is None or os.path.isabs(image) for image in images):
            return self.artworks
        if self.folder.resolve() == folder.resolve():  # and they lie outside of it
            return self.artworks
        absolute = [image and str(pictures.path(self.folder.absolute(), image)) for image in images]
        return replaced(self.artworks, {"image": absolute})

    @property
    def propensities(self) -> str:
        """What the column propensity holds: "logged"; "estimated" from what was shown, by a model; or "none", and then
        it is null in all rows."""
        return self.manifest.get("propensities", "logged")

    def require_propensities(self, what: str) -> None:
        """Raise a LogError, in which `what` is the subject, if the log has no propensities."""
        if self.propensities == "none":
            raise LogError(
                f"{what} divides by the probability with which the logging policy showed what it showed, and this log "
                "has none (manifest.json: propensities none). Log them; or, if the choice was made by a known rule, "
                "import again with logging: uniform or epsilon-greedy; or import with --estimate-propensities, and "
                "believe what that assumes. The direct method (dm) needs none"
            )

    def tables(self) -> dict[str, pa.Table]:
        """The tables that this log has, by name."""
        return {name: table for name in SCHEMAS if (table := getattr(self, name)) is not None}

    def validate(self, folder: str | os.PathLike = "") -> None:
        """Check the whole contract.

        Args:
            folder: where the log lies, for the messages; by default where it was read from.

        Raises:
            LogError: the first faults of each kind, one a line, with file, row (from 0), column, value, remedy.
        """
        folder = folder or self.folder or ""
        faults = contract.find(self.tables(), self.propensities) + pictures.faults(self.artworks, folder)
        if faults:
            where = f"{folder}: " if str(folder) else ""
            raise LogError(f"{where}not a valid log\n" + "\n".join(f"- {fault}" for fault in faults))

    def warnings(self) -> list[str]:
        """What is odd about a valid log, a line each: what will not be judged, what is probably meant otherwise."""
        return [*oddities.propensities(self.propensities), *oddities.warnings(self.tables())]

    def split(self, name: str) -> "Log":
        """The same log with the impressions (and truth) of one split only."""
        if name not in SPLITS:
            raise LogError(f"split {name!r} is not one of {', '.join(SPLITS)}")
        return self.take(np.flatnonzero(pc.equal(self.impressions["split"], name).to_numpy()))

    def take(self, rows: np.ndarray) -> "Log":
        """The same log with the impressions at the given row numbers only, in that order."""
        truth = self.truth
        if truth is not None:
            truth = take(truth, rows_of(truth["impression_id"], self.impressions["impression_id"])[rows])
        whole = self if self._whole is None else self._whole
        return dataclasses.replace(self, impressions=take(self.impressions, rows), truth=truth, _whole=whole)

    def arrays(self, table: str = "impressions") -> Arrays:
        """The impressions (or the `earlier` period) as padded arrays, which are made once and may not be changed."""
        return self._impressions if table == "impressions" else self._earlier

    @functools.cached_property
    def _impressions(self) -> Arrays:
        return self._padded(self.impressions, _distribution(pad(self.impressions["production"])[0]))

    @functools.cached_property
    def _earlier(self) -> Arrays:
        return self._padded(self.earlier, None)

    def _padded(self, rows: pa.Table, production: np.ndarray | None) -> Arrays:
        candidates, mask = pad(rows["candidates"], codes(self.artworks["artwork_id"], rows["candidates"]), -1)
        return Arrays(
            candidates=candidates,
            mask=mask,
            shown=rows["shown"].to_numpy().astype(np.int64),
            propensity=np.minimum(rows["propensity"].to_numpy(), 1),
            reward=rows["reward"].to_numpy().copy(),
            production=production,
            user=pd.factorize(rows["user_id"].to_numpy())[0],
            title=codes(self.titles["title_id"], rows["title_id"]),
        )

    @property
    def history(self) -> History:
        """What each user watched, made once for a log and all its parts."""
        kept = self._shared.get("history")
        if kept is None or kept[0] is not self.titles or kept[1] is not self.histories:
            genres = self.learnt_on.genres if self.learnt_on else None
            kept = self._shared["history"] = self.titles, self.histories, History(self.titles, self.histories, genres)
        return kept[2]

    @functools.cached_property
    def background(self) -> Background:
        """What a model has to know of the log that it was trained on: of this one, unless that was another."""
        if self.learnt_on:
            return self.learnt_on
        train = self.split("train")
        train = train if len(train.impressions) else self
        profile = self.history.genre_profile(train.impressions)
        average = _mean_where_any(profile, profile.sum(axis=1) > 0)
        arrays = train.arrays()
        known = np.unique(arrays.candidates[arrays.mask])
        captions = self.artworks["caption"].take(np.random.default_rng(0).permutation(known)[:SAMPLE])
        most = train.take(np.random.default_rng(0).permutation(len(arrays))[:AVERAGED]).impressions
        told = clauses.told_most(self.titles, self.history)
        share, n_watched = clauses.shares(self.history, clauses.told_by(self.titles, told), most)
        # No genre has no fans at all.
        return Background(
            self.history.genres,
            0.99 * average + 0.01 / max(len(average), 1),
            captions.to_pylist(),
            dict(zip(told, _mean_where_any(share, n_watched > 0).tolist(), strict=True)),
        )

    def expected_reward(self) -> np.ndarray:
        """(n, K) true expected reward of every candidate; 0 where padded. Simulated worlds only."""
        if self.truth is None:
            raise LogError("this log has no truth.parquet: its world is not simulated, so true values are unknown")
        order = rows_of(self.truth["impression_id"], self.impressions["impression_id"])
        return pad(take(self.truth, order)["expected_reward"])[0]

    def digest(self) -> str:
        """The SHA-256 of what the tables say, to three decimals: the same for the same log, whichever version of a
        library wrote its files, and whichever processor fitted its production policy, by which the tenth decimal of
        a probability differs."""
        found = hashlib.sha256()
        for name, rows in self.tables().items():
            for field in SCHEMAS[name]:
                found.update(f"{name}.{field.name}\n".encode())
                _update(found, rows[field.name])
        return found.hexdigest()

    @functools.cached_property
    def identity(self) -> dict | str:
        """What tells this log from any other, alike for all its parts: the checksums of its files, where the manifest
        has them, else its digest. What is kept of a log by this is not taken for that of another: who changes a table
        in memory takes "files" out of the manifest, as `shuffled_plays` does."""
        if found := self.manifest.get("files"):
            return found
        return self.digest() if self._whole is None else self._whole.identity

    def cold(self) -> np.ndarray:
        """(n,) True where the impression's title was neither shown in the earlier period nor is in training."""
        seen = [self.impressions["title_id"].filter(pc.equal(self.impressions["split"], "train"))]
        if self.earlier is not None:
            seen.append(self.earlier["title_id"])
        seen = pa.concat_arrays([chunk for column in seen for chunk in column.chunks] or [pa.array([], pa.string())])
        return ~pc.is_in(self.impressions["title_id"], seen.unique()).to_numpy()


def _update(found, column: pa.ChunkedArray) -> None:
    """Add a column's values to a hash."""
    if pa.types.is_list(column.type):
        found.update(pc.list_value_length(column).to_numpy().astype("<i8").tobytes())
        column = pc.list_flatten(column)
    if pa.types.is_string(column.type):
        for start in range(0, len(column), PIECE):
            piece = pc.fill_null(column.slice(start, PIECE), "").combine_chunks()
            joined = pc.binary_join(pa.ListArray.from_arrays([0, len(piece)], piece), "\0")[0]
            found.update(b"\0" * (start > 0) + joined.as_py().encode())
    elif pa.types.is_floating(column.type):
        found.update((column.to_numpy().round(3) + 0.0).astype("<f8").tobytes())  # no negative zero
    else:
        found.update(pc.fill_null(column.cast(pa.int64()), -1).to_numpy().astype("<i8").tobytes())


def _mean_where_any(rows: np.ndarray, watched: np.ndarray) -> np.ndarray:
    """The mean of members' rows, of those who watched anything: the others are like no member."""
    return rows[watched].mean(axis=0) if watched.any() else rows.sum(axis=0)


def _distribution(rows: np.ndarray) -> np.ndarray:
    """Rows divided by their sums where these are off by more than float32 rounds: written with a few decimals."""
    total = rows.sum(axis=1, keepdims=True)
    return np.where(np.abs(total - 1) > contract.ROUNDING, rows / total, rows)
