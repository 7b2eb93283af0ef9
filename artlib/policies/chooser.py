"""A post-trained model in service: requests in, choices with their propensities out.

Whoever serves choices draws the next log by them. A policy that always shows its best candidate learns nothing of the
others, and no off-policy estimate of another policy can be had from its log; so a choice may explore, and always says
with which probability it was drawn.
"""

import contextlib
import dataclasses
import hashlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import filelock
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from artlib import ArtlibError, files, fingerprint, policies
from artlib.data import Background, Log, LogError, unpad
from artlib.lm import machine
from artlib.lm.calibration import probabilities
from artlib.policies import requests
from artlib.policies.baselines import greedy
from artlib.policies.llm import LanguageModel
from artlib.posttrain import adapters


class ChoiceError(ArtlibError, ValueError):
    """Choices that cannot be drawn, or not be written where they are to go."""

    exit_code = 2


KINDS = ("none", "epsilon", "softmax")
CHOICES = pa.schema(
    [
        pa.field("request_id", pa.string()),
        pa.field("artwork_id", pa.string()),
        pa.field("shown", pa.int32()),
        pa.field("propensity", pa.float64()),
        pa.field("probabilities", pa.list_(pa.float64())),
        pa.field("choice", pa.list_(pa.float64())),
    ]
)


@dataclasses.dataclass(frozen=True)
class Exploration:
    """How a choice is drawn.

    Attributes:
        kind: "none" shows the best candidate; "epsilon" any of the candidates in a share epsilon of the requests, else
            the best; "softmax" draws from what the model thinks each candidate's chance to be the one that is played.
        epsilon: of "epsilon".
        temperature: of "softmax", times the adapter's own: above 1 explores more.
        seed: of the draws. The draw of a request depends on the seed and on its id alone, so that whoever repeats a
            request, in whatever batch, process or order, gets the same choice.
    """

    kind: str = "none"
    epsilon: float = 0.05
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ChoiceError(f"exploration {self.kind!r} is not one of {', '.join(KINDS)}")
        if not 0 <= self.epsilon <= 1:
            raise ChoiceError(f"epsilon = {self.epsilon} is not a probability; give one of 0 to 1")
        if not 0 < self.temperature < np.inf:
            raise ChoiceError(f"temperature = {self.temperature} must be a number above 0")

    def policy(self, scores: np.ndarray, temperature: float) -> np.ndarray:
        """(n, K) with which probability each candidate is shown.

        Args:
            scores: (n, K), -inf where padded.
            temperature: of the scores' softmax, as it was fitted.
        """
        if self.kind == "softmax":
            return probabilities(scores, temperature * self.temperature)
        best = greedy(scores)
        if self.kind == "none":
            return best
        mask = np.isfinite(scores)
        return (1 - self.epsilon) * best + self.epsilon * mask / mask.sum(axis=1, keepdims=True)

    def draw(self, policy: np.ndarray, request_ids: Sequence[str]) -> np.ndarray:
        """(n,) the column of the candidate that is shown."""
        u = np.array([self._uniform(name) for name in request_ids])
        cumulative = np.cumsum(policy, axis=1)
        shown = (u[:, None] * cumulative[:, -1:] >= cumulative).sum(axis=1)
        return np.minimum(shown, (policy > 0).cumsum(axis=1).argmax(axis=1))  # rounding never shows what cannot be

    def _uniform(self, request_id: str) -> float:
        digest = hashlib.sha256(f"{self.seed}\n{request_id}".encode()).digest()
        return int.from_bytes(digest[:7]) / 2**56  # of [0, 1)


@dataclasses.dataclass(frozen=True)
class Choice:
    """What to show for one request. K candidates.

    Attributes:
        artwork_id: of what to show.
        shown: its place among the candidates.
        propensity: the probability with which it was drawn: log it.
        probabilities: (K,) with which each candidate is drawn: log them as `production`.
        choice: (K,) how likely the model thinks each candidate the one to be played.
    """

    artwork_id: str
    shown: int
    propensity: float
    probabilities: np.ndarray
    choice: np.ndarray


class Chooser:
    """A post-trained model, loaded once, that answers requests. It needs the adapter's folder and the base model alone,
    not the log that it was trained on.

    Args:
        adapter: runs/NAME/adapters/METHOD.
        exploration: how choices are drawn.
        dtype: of the weights, see `lm.model.load`; "" for the adapter's own setting.

    Raises:
        AdapterError: the folder holds no finished adapter, or one that older code trained.
    """

    def __init__(self, adapter: str | os.PathLike, exploration: Exploration | None = None, dtype: str = ""):
        self.adapter, self.exploration = Path(adapter), exploration or Exploration()
        training = files.read_json(self.adapter / "training.json")
        if training is None:
            raise adapters.AdapterError(f"{adapter} holds no training.json; give runs/NAME/adapters/METHOD")
        if "background" not in training:
            raise adapters.AdapterError(f"{adapter} was trained by older code, which kept too little; train it again")
        settings = adapters.settings_of(self.adapter)
        if training["code"] != adapters.code(settings):
            warnings.warn(f"{adapter} was trained by other code, whose prompts may have been others", stacklevel=2)
        self.settings = dataclasses.replace(settings, dtype=dtype or settings.dtype)
        self.temperature = training["temperature"]
        self.background = Background.read(training["background"])
        self._warned = False
        self._model = LanguageModel(self.settings, self.adapter, training["frame"], remembers=True)

    def choose(
        self,
        history: Sequence[requests.Title],
        title: requests.Title,
        candidates: Sequence[dict | str],
        request_id: str | None = None,
    ) -> Choice:
        """One decision.

        Args:
            history, title, candidates: see `requests.row`.
            request_id: of the decision: with the seed, it decides the draw, so that every decision needs one of its own
                where choices explore.

        Raises:
            ChoiceError: choices explore, and there is no request_id.
            LogError: it cannot be answered.
        """
        if request_id is None and self.exploration.kind != "none":
            raise ChoiceError(
                "request_id is missing: the draw depends on it, and decisions without one would all be drawn alike; "
                "give every decision an id of its own"
            )
        request_id = "request" if request_id is None else request_id
        answer = self.choose_many(requests.row(history, title, candidates, request_id)).to_pylist()[0]
        return Choice(
            artwork_id=answer["artwork_id"],
            shown=answer["shown"],
            propensity=answer["propensity"],
            probabilities=np.array(answer["probabilities"]),
            choice=np.array(answer["choice"]),
        )

    def choose_many(
        self, rows: pa.Table | pa.RecordBatch | pd.DataFrame | list[dict], where: str = "the requests", first: int = 0
    ) -> pa.Table:
        """Many decisions at once; what the model says of an artwork is asked once for all of them.

        Args:
            rows: requests as in `policies.requests.SCHEMA`.
            where, first: see `requests.read`.

        Returns:
            A row a request, in their order: request_id, artwork_id, shown, propensity, probabilities, choice, see
            `Choice`.

        Raises:
            LogError: one of them cannot be answered.
        """
        asked = requests.read(rows, where, first)
        ids = asked["request_id"].to_pylist()
        if not ids:
            return CHOICES.empty_table()
        self._warn_of_unknown_genres(asked)
        log = requests.to_log(asked, self.background)
        scores, mask = self._model.scores(log, log), log.arrays().mask
        policy = self.exploration.policy(scores, self.temperature)
        shown = self.exploration.draw(policy, ids)
        candidates = asked["candidates"].to_pylist()
        columns = {
            "request_id": ids,
            "artwork_id": [candidates[i][k]["artwork_id"] for i, k in enumerate(shown)],
            "shown": shown,
            "propensity": policy[np.arange(len(shown)), shown],
            "probabilities": unpad(policy, mask),
            "choice": unpad(probabilities(scores, self.temperature), mask),
        }
        return pa.table(columns).cast(CHOICES)

    def _warn_of_unknown_genres(self, asked: pa.Table) -> None:
        """Say once if members' genres are none that the model knows: to most prompts, they are then new."""
        watched = {genre for row in asked["history"].to_pylist() for title in row for genre in title["genres"]}
        unknown = watched - set(self.background.genres)
        if self._warned or not self.background.genres or (watched and not unknown):
            return
        if watched:
            said = f"{len(unknown)} of {len(watched)} genres, {min(unknown)!r} among them, are"
        elif any(asked["history"].to_pylist()):
            said = "no title has genres, or they are"
        else:
            return
        self._warned = True
        known = ", ".join(self.background.genres[:5])
        warnings.warn(f"histories: {said} unknown to {self.adapter}, which knows {known}, ...", stacklevel=4)

    __call__ = choose_many  # as engines want it that map batches by a class: ray.data's map_batches

    def close(self) -> None:
        """Give the model's memory back."""
        self._model.close()


def requests_of(log: str | os.PathLike, split: str, folder: str | os.PathLike) -> Path:
    """Write the impressions of a log's split as requests beside the choices to come; returns the file."""
    _refuse_others(Path(folder))
    found = Log.load(log).split(split)
    file = Path(folder) / "_requests.parquet"
    with files.replacing(file) as temporary:
        pq.write_table(requests.from_log(found), temporary)
    return file


def answer_file(
    chooser: Chooser, file: str | os.PathLike, folder: str | os.PathLike, batch: int = 1024
) -> tuple[int, int]:
    """Answer all requests of a Parquet file, of any length, a batch at a time; a killed run goes on where it was.

    Args:
        file: with the columns of `requests.SCHEMA`.
        folder: gets part-00000.parquet and so on, `batch` choices each, in the order of the requests; any reader of
            Parquet datasets takes it as one table.

    Returns:
        How many requests there are, and how many of them were answered before.

    Raises:
        LogError: the file holds no requests, or the folder choices of others.
    """
    file, folder = Path(file), Path(folder)
    try:
        source = pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise LogError(
            f"{file} cannot be read as Parquet ({error}); write requests as policies.requests.SCHEMA"
        ) from None
    if missing := [name for name in requests.SCHEMA.names if name not in source.schema_arrow.names]:
        raise LogError(
            f"{file}: column {missing[0]} is missing; its columns must be {', '.join(requests.SCHEMA.names)}"
        )
    question = {
        "requests": files.sha256(file),
        "adapter": files.sha256(chooser.adapter / "training.json"),
        "exploration": dataclasses.asdict(chooser.exploration),
        "code": [adapters.code(chooser.settings), fingerprint.code(policies)],
        "dtype": machine.resolve(chooser.settings.dtype),
        "batch": batch,
    }
    _refuse_others(folder)
    _refuse_doubled(source, file, batch)
    note = folder / "_fingerprint.json"  # readers of datasets pass over names that begin so
    changed = fingerprint.changed(files.read_json(note), question)
    if changed and any(folder.glob("part-*")):
        raise ChoiceError(f"{folder} holds choices for another question ({', '.join(changed)}); name another folder")
    files.write_json(note, question)
    total, kept = source.metadata.num_rows, 0
    with tqdm(total=total, desc="requests", unit="", mininterval=2) as progress:
        for number, rows in enumerate(source.iter_batches(batch, columns=requests.SCHEMA.names)):
            part = folder / f"part-{number:05}.parquet"
            if part.exists():
                kept += len(rows)
            else:
                found = chooser.choose_many(rows, str(file), number * batch)
                with files.replacing(part) as temporary:
                    pq.write_table(found, temporary)
            progress.update(len(rows))
    return total, kept


def answer_folder(
    chooser: Chooser, source: str | os.PathLike, folder: str | os.PathLike, batch: int = 1024
) -> tuple[int, int]:
    """Answer the requests of all Parquet files below a folder, each as `answer_file` does. Several processes may work
    at it, on one machine or on several that share a disk: each takes the next file that none has, and at the end waits
    for the others and finishes what one that was killed had begun.

    Args:
        source: partitions of the requests, in folders such as `date=2026-11-27` or in none.
        folder: gets a folder of choices for each of the files, named as it is.

    Returns:
        How many requests there are, and how many of them were answered before, or by another process.

    Raises:
        LogError: a file holds no requests, or there is none.
        ChoiceError: the folder is among the requests, or holds choices about others.
    """
    source, folder = Path(source), Path(folder)
    if source.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise ChoiceError(f"{folder} is among the requests; name another folder for the choices")
    _refuse_a_file(folder)
    names = [path.relative_to(source) for path in sorted(source.rglob("*.parquet"))]
    choices = {n: folder / n.with_suffix("") for n in names if not any(p.startswith(("_", ".")) for p in n.parts)}
    if not choices:
        raise LogError(
            f"{source} holds neither impressions.parquet nor Parquet files of requests; name a folder of either"
        )
    if foreign := [path for path in folder.rglob("*.parquet") if path.parent not in choices.values()]:
        raise ChoiceError(f"{min(foreign)} holds no choices about {source}; name another folder")
    counts = {}
    for timeout in (0, -1):  # what no other process has; then, when they are through or gone, what they had
        for name in [name for name in choices if name not in counts]:
            choices[name].mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(filelock.Timeout), filelock.FileLock(choices[name] / "_lock", timeout=timeout):
                counts[name] = answer_file(chooser, source / name, choices[name], batch)
    total, kept = zip(*counts.values(), strict=True)
    return sum(total), sum(kept)


def _refuse_a_file(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ChoiceError(f"{folder} is a file; name a folder for the choices")


def _refuse_others(folder: Path) -> None:
    """Raise a ChoiceError for a folder with other files than choices."""
    _refuse_a_file(folder)
    inside = folder.iterdir() if folder.exists() else ()
    if foreign := [path.name for path in inside if not path.name.startswith(("_", ".", "part-"))]:
        raise ChoiceError(f"{folder} holds other files than choices, {min(foreign)} among them; name another folder")


def _refuse_doubled(source: pq.ParquetFile, file: Path, batch: int) -> None:
    """Raise a LogError if two requests have one id, and so one draw. It takes eight bytes a request."""
    hashed = [
        pd.util.hash_array(rows["request_id"].to_numpy(zero_copy_only=False).astype(str).astype(object))
        for rows in source.iter_batches(64 * batch, columns=["request_id"])
    ]
    values, first, counts = np.unique(np.concatenate(hashed or [[]]), return_index=True, return_counts=True)
    if (counts > 1).any():
        row = int(first[counts > 1].min())
        raise LogError(
            f"{file}, row {row}, column request_id: there is another row of this id; give every request an id of its "
            "own, on which its random draw depends"
        )
