"""Policies asked about the test split: what they would show, written beside the question that they answered."""

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from artlib import data, files, fingerprint, policies
from artlib.data import Log, LogError, genre_names, pad, unpad
from artlib.lm import machine
from artlib.lm.calibration import fit_temperature, pooled, probabilities
from artlib.lm.encoder import EMBEDDED
from artlib.policies.baselines import greedy, untrained
from artlib.policies.llm import llm_scores
from artlib.policies.text import Choice, Readers
from artlib.posttrain import adapters
from artlib.posttrain.settings import Settings

AND_TEXT = "+text"  # of the names of policies that are pooled with `text`
# The settings that the bare model's answers depend on.
SCORING = (
    "base",
    "prompt",
    "load_in_4bit",
    "max_tokens",
    "history_tokens",
    "n_genres",
    "n_recent",
    "samples",
    "max_new_tokens",
    "seed",
)


def ask(
    log: Log,
    folder: str | os.PathLike,
    settings: Settings,
    trained: dict[str, Path],
    most: int = 0,
    deterministic: bool = True,
    encoder: str = EMBEDDED,
    report: Callable[[str], None] = print,
) -> Log:
    """Ask every policy about the test split and write its answers; those written for the same by the same code are
    kept.

    Args:
        folder: `policies/` of a run.
        settings: of the zero-shot LLM, and which plays the text baseline learns from.
        trained: policy name -> adapter folder; each is asked as it was trained.
        most: so many test impressions at most, the first in time; 0 for all.
        deterministic: learned policies show their best candidate; else they draw from their choice probabilities.
        encoder: the sentence encoder by which `text` reads captions, see `lm.encoder.load`.
        report: told what is being done.

    Returns:
        The test split that was asked about.
    """
    session = _Session.open(log, Path(folder), settings, most, deterministic, encoder, report)
    session.forget_all_but(trained)
    session.ask_baselines()
    session.ask_text()
    session.ask_zero_shot(trained)
    for name, adapter in trained.items():
        session.ask_adapter(name, adapter)
    session.pool_with_text(trained)
    return session.test


@dataclasses.dataclass(frozen=True)
class _Session:
    """What is asked, and what was asked before.

    Attributes:
        asked: policy name -> the question that its file answers.
        common: what all questions share.
    """

    log: Log
    folder: Path
    settings: Settings
    test: Log
    validation: Log
    deterministic: bool
    encoder: str
    report: Callable[[str], None]
    asked: dict
    common: dict

    @classmethod
    def open(
        cls, log: Log, folder: Path, settings: Settings, most: int, deterministic: bool, encoder: str, report
    ) -> "_Session":
        test = first_in_time(log.split("test"), most)
        validation = data.plays(log, "validation", settings.max_validation, settings.seed)
        common = {
            "log": log.identity,
            "most": most,
            "deterministic": deterministic,
            "code": [adapters.code(settings), fingerprint.code(policies)],
            "validation": [settings.max_validation, settings.seed],
            "dtype": machine.resolve(settings.dtype),
        }
        asked = files.read_json(folder / "fingerprint.json") or {}
        return cls(log, folder, settings, test, validation, deterministic, encoder, report, asked, common)

    def forget_all_but(self, trained: dict[str, Path]) -> None:
        """Remove answers of adapters that the run no longer has, and those that others are pooled from anew."""
        for path in self.folder.glob("llm-*.parquet"):
            if path.stem not in trained and path.stem != "llm-zero-shot":
                files.discard(path)

    def ask_baselines(self) -> None:
        """Those that are computed in no time: nothing of them is kept."""
        for name, policy in untrained(self.log, self.test).items():
            save(self.folder, name, self.test, policy)
        if self.test.truth is None:
            files.discard(self.folder / "oracle.parquet")  # of an earlier log of the run

    def ask_text(self) -> None:
        """The strongest reader of captions with as many plays as the LLM may have, and with all of the log, where those
        are more; and what an encoder knows without any."""
        plays = data.plays(self.log, "train", None, self.settings.seed)
        parts = [part.arrays() for part in (self.log.split("train"), self.validation, self.test)]
        artworks = np.unique(np.concatenate([part.candidates[part.mask] for part in parts]))
        readers = Readers(self.log, artworks, self.encoder)
        sizes = {"text": self.settings.max_examples, "text-whole-log": len(plays.impressions)}
        if self.settings.max_examples >= sizes["text-whole-log"]:  # they would be the same
            files.discard(self.folder / "text-whole-log.parquet")
            del sizes["text-whole-log"]
        question = {"encoder": self.encoder, "seed": self.settings.seed}
        if genre_names(self.log.titles):
            zero_shot = functools.cache(lambda: readers.zero_shot(self.validation))
            self._ask("encoder-zero-shot", question, lambda part: zero_shot()(part))
        else:
            files.discard(self.folder / "encoder-zero-shot.parquet")  # of an earlier log of the run
        chosen = files.read_json(self.folder / "readers.json") or {}
        for name, most in sizes.items():
            some = plays.take(np.arange(min(most, len(plays.impressions))))

            @functools.cache
            def choice(name: str = name, some: Log = some) -> Choice:
                found = readers.strongest(some, self.validation, self.settings.seed)
                chosen[name] = {"chosen": found.name, "losses": found.losses, "plays": len(some.impressions)}
                files.write_json(self.folder / "readers.json", chosen)
                return found

            self._ask(name, question | {"plays": most}, functools.partial(_chosen_scores, choice))

    def ask_zero_shot(self, trained: dict[str, Path]) -> None:
        """The bare model, asked as the adapter of the same settings was, whatever the chat template writes today."""
        own = dataclasses.asdict(self.settings)
        trainings = [files.read_json(adapter / "training.json") for adapter in trained.values()]
        twin = next((training for training in trainings if training["settings"] == own), {})
        question = {"settings": {name: own[name] for name in SCORING}, "frame": twin.get("frame")}
        scores = functools.partial(llm_scores, self.log, settings=self.settings, adapter=None, frame=twin.get("frame"))
        self._ask("llm-zero-shot", question, scores, twin.get("zero_shot_temperature"))

    def ask_adapter(self, name: str, adapter: Path) -> None:
        """A post-trained model, asked as it was trained."""
        training, own = files.read_json(adapter / "training.json"), adapters.settings_of(adapter)
        then, now = training["machine"]["dtype"], machine.resolve(own.dtype)
        if then != now:
            self.report(
                f"{name} was trained in {then} and is asked in {now}, this machine's type: scores differ a little"
            )
        scores = functools.partial(llm_scores, self.log, settings=own, adapter=adapter, frame=training["frame"])
        self._ask(name, {"adapter": files.sha256(adapter / "training.json")}, scores, training["temperature"])

    def pool_with_text(self, trained: dict[str, Path]) -> None:
        """The language models together with the text baseline, from what each said: in no time, nothing is kept."""
        choices = read(self.folder, self.test, "choice")
        for name in ("llm-zero-shot", *trained):
            both = pooled([choices[name], choices["text"]])
            shares = greedy(np.where(self.test.arrays().mask, both, -np.inf)) if self.deterministic else both
            save(self.folder, name + AND_TEXT, self.test, shares, both)

    def _ask(
        self, name: str, question: dict, scores: Callable[[Log], np.ndarray], temperature: float | None = None
    ) -> None:
        """Ask a learned policy, unless its answers to the same question are kept.

        Args:
            scores: (n, K) of a log's impressions.
            temperature: that makes them probabilities; fitted on the validation plays without it.
        """
        question = self.common | question
        path = self.folder / f"{name}.parquet"
        if path.exists() and not fingerprint.changed(self.asked.get(name), question):
            return
        self.report(f"{name} ...")
        found = scores(self.test)
        if temperature is None:
            check = self.validation.arrays()
            temperature = fit_temperature(scores(self.validation), check.shown, check.reward)
        choice = probabilities(found, temperature)
        files.discard(path)  # never beside the key of another question
        self.asked[name] = question
        files.write_json(self.folder / "fingerprint.json", self.asked)
        save(self.folder, name, self.test, greedy(found) if self.deterministic else choice, choice)


def _chosen_scores(choice: Callable[[], Choice], part: Log) -> np.ndarray:
    return choice().scores(part)


def first_in_time(part: Log, most: int = 0) -> Log:
    """The earliest impressions of a part of a log, in the order of its rows; all of them if `most` is 0.

    Raises:
        LogError: it has none.
    """
    if not len(part.impressions):
        raise LogError("the log has no impressions in its test split: there is nothing to ask policies about")
    time = pc.cast(part.impressions["timestamp"], pa.int64()).to_numpy()
    return part.take(np.sort(np.argsort(time, kind="stable")[: most or len(time)]))


def asked_about(path: str | os.PathLike, log: Log) -> Log:
    """The impressions of a log that the policy in a file was asked about, in the order of the log's rows."""
    ids = pq.read_table(path, columns=["impression_id"])["impression_id"].combine_chunks()
    return log.take(np.flatnonzero(pc.is_in(log.impressions["impression_id"], ids).to_numpy()))


def save(folder: str | os.PathLike, name: str, log: Log, policy: np.ndarray, choice: np.ndarray | None = None) -> None:
    """Write `policies/NAME.parquet`: impression_id, probabilities, and choice where the policy has one.

    Args:
        log: whose impressions the policy was asked about.
        policy: (n, K) with which probability it shows each candidate.
        choice: (n, K) how likely it thinks each candidate the one to be played; None where it does not say.
    """
    mask = log.arrays().mask
    columns = {"impression_id": log.impressions["impression_id"], "probabilities": unpad(policy, mask)}
    if choice is not None:
        columns["choice"] = unpad(choice, mask)
    with files.replacing(Path(folder) / f"{name}.parquet") as temporary:
        pq.write_table(pa.table(columns), temporary)


def read(folder: str | os.PathLike, log: Log, column: str = "probabilities") -> dict[str, np.ndarray]:
    """Read the policies of a folder for a log's impressions: name -> (n, K), where they have the column.

    Raises:
        LogError: a file lacks an impression, has other candidates, or is by an adapter that was trained anew since.
    """
    found = {}
    mask = log.arrays().mask
    asked = files.read_json(Path(folder) / "fingerprint.json") or {}
    for path in sorted(Path(folder).glob("*.parquet")):
        table = pq.read_table(path)
        if column not in table.column_names:
            continue
        if outdated := _outdated(path, asked.get(path.stem, {}), log):
            raise LogError(f"{path} {outdated}; run 03_evaluate again")
        order = pc.index_in(log.impressions["impression_id"], table["impression_id"].combine_chunks())
        if order.null_count:
            raise LogError(f"{path} lacks some of the impressions; run 03_evaluate again")
        values, given = pad(table[column].take(order))
        if not np.array_equal(given, mask):
            raise LogError(f"{path} is for other candidates than the log's; run 03_evaluate again")
        found[path.stem] = values
    return found


def readers(folder: str | os.PathLike) -> pd.DataFrame:
    """Which reader of captions `text` is, and the losses on validation plays by which it was chosen: a row a reader, a
    column a policy, the lowest loss first."""
    chosen = files.read_json(Path(folder) / "readers.json") or {}
    table = pd.DataFrame({f"{name} ({row['plays']:,} plays)": row["losses"] for name, row in chosen.items()})
    return table.sort_values(list(table.columns)[:1]) if len(table) else table


def _outdated(path: Path, asked: dict, log: Log) -> str | None:
    """Why answers are not this run's: notebooks may be opened in any order."""
    if asked and asked["log"] != log.identity:
        return "is about another log"
    training = path.parents[1] / "adapters" / path.stem.removeprefix("llm-") / "training.json"
    if "adapter" in asked and training.exists() and files.sha256(training) != asked["adapter"]:
        return f"is by an earlier adapter than {training.parent}"
    return None
