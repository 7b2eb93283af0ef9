"""What is learnt from: impressions as prompts, with what was shown and what came of it."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from artlib import data
from artlib.data import Arrays, Log
from artlib.lm import prompts
from artlib.lm.prompts import Reader
from artlib.lm.prompts.label import LABELS
from artlib.lm.prompts.reasoned import ReasonedReader
from artlib.posttrain import teacher
from artlib.posttrain.settings import METHODS, Settings


@dataclasses.dataclass(frozen=True)
class Examples:
    """n impressions to learn from.

    Attributes:
        prompts: what the model reads of each.
        arrays: what was shown and what came of it.
        reference: (n, K) scores of the model that training began from; None where the objective needs none.
        q_hat: (n, K) predicted rewards; likewise.
        answers: reasoned answers; likewise.
        orders: for questions with letters, the candidate under each letter in training.
        targets: (n, K) how much each candidate is to be chosen; as `reference`.
    """

    prompts: list
    arrays: Arrays
    reference: np.ndarray | None = None
    q_hat: np.ndarray | None = None
    answers: list[list[int]] | None = None
    orders: list[np.ndarray] | None = None
    targets: np.ndarray | None = None

    def items(self) -> list[np.ndarray]:
        """Rows that go through the model together: those of a title, where they share what is read."""
        if not prompts.form_of(self.prompts).by_title:
            return [np.array([row]) for row in range(len(self.prompts))]
        order = np.argsort(self.arrays.title, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(self.arrays.title[order])) + 1)
        return sorted(groups, key=lambda rows: rows.min())  # the examples' own random order, not the titles'


def reader_for(log: Log, tokenizer, settings: Settings, frame: Sequence[str] | None = None) -> Reader:
    """The reader that training and scoring share; for an adapter, give its `adapters.frame_of`."""
    return prompts.find(settings.prompt).reader(
        log, tokenizer, settings.history_tokens, settings.max_tokens, settings.n_genres, settings.n_recent, frame
    )


def learnt_from(log: Log, settings: Settings) -> Log:
    """The impressions of the training split that teach, in the order in which they do."""
    choose = data.impressions if settings.all_impressions else data.plays
    return choose(log, "train", settings.max_examples, settings.seed)


def given_targets(part: Log, targets: Callable[[Log], np.ndarray] | None, settings: Settings) -> np.ndarray | None:
    """(n, K) what each candidate of some impressions deserves; None where the method learns from no targets.

    Raises:
        ValueError: they are missing, superfluous, of another shape, or no weights over the candidates.
    """
    needed = METHODS[settings.method].given_targets
    if needed != (targets is not None):
        what = "needs targets: a function of a log's impressions" if needed else "takes no targets"
        raise ValueError(f"method {settings.method} {what}; give them to post_train with method=soft, and no other")
    if targets is None:
        return None
    found, mask = np.asarray(targets(part), dtype=float), part.arrays().mask
    if found.shape != mask.shape:
        raise ValueError(f"targets have the shape {found.shape}: the impressions and their candidates are {mask.shape}")
    bad = ~(np.isfinite(found) & (found >= 0)) | (~mask & (found != 0))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise ValueError(
            f"targets[{row}, {column}] is {found[row, column]}: they must be at least 0, and 0 for what is no candidate"
        )
    return found


def make(
    log: Log, reader, settings: Settings, reasons: Path, ask: bool, targets: np.ndarray | None = None
) -> tuple[Examples, Examples, dict | None]:
    """What to learn from, what to validate on, and the teacher's counts.

    Args:
        reasons: the file of a teacher's answers.
        ask: whether the teacher may be asked for more than is there.
        targets: of `learnt_from`.
    """
    parts = _parts(log, settings)
    made = [_examples(part, reader, settings.seed) for part in parts]
    if not prompts.find(settings.prompt).written:
        return dataclasses.replace(made[0], targets=targets), made[1], None
    if METHODS[settings.method].reads:
        return made[0], made[1], None  # the answers are those of the model that training begins from: see `read_out`
    (train, counts), (validation, _) = (
        _with_reasons(part, examples, reader, settings, reasons, ask)
        for part, examples in zip(parts, made, strict=True)
    )
    return train, validation, counts


def read_out(
    log: Log, language_model, tokenizer, reader, train: Examples, validation: Examples, settings: Settings
) -> list[Examples]:
    """The examples of both splits with written-out answers: the genre that a reader takes each poster for, and then the
    poster whose genre the member watches most of those that the question names, by the reader's score among several.
    Members without a history, of whom a question names no genre, are left out.

    Args:
        language_model: with the adapter that training begins from, which has learnt to read posters.

    Raises:
        ValueError: an answer is longer than `max_new_tokens`; or no question names a genre.
    """
    form: Any = prompts.find(METHODS[settings.method].reads)
    posters = form.reader(log, tokenizer, max_tokens=settings.max_tokens)
    found = []
    for part, examples in zip(_parts(log, settings), (train, validation), strict=True):
        about, scores = form.genres_and_scores(language_model, posters.read(part))
        profile, candidates = log.history.genre_profile(part.impressions), examples.arrays.candidates
        answers = {}
        for i, order in enumerate(examples.orders or []):
            genres, named = about[i, : len(order)], reader.favourites(profile[i])
            if not named:
                continue
            share = np.isin(genres, named) * profile[i, genres]
            best = int(np.lexsort((scores[i, : len(order)], share))[-1])
            text = reader.reading(candidates[i, : len(order)], order, genres, profile[i], best)
            answers[i] = reader.completion(text)
            if len(answers[i]) > settings.max_new_tokens:
                raise ValueError(
                    f"a reading of {len(order)} candidates has {len(answers[i])} tokens, more than max_new_tokens = "
                    f"{settings.max_new_tokens}; raise max_new_tokens"
                )
        if not answers:
            raise ValueError("no question names a genre that the member watches: is n_genres 0, or no history there?")
        found.append(_answered(part, examples, answers))
    return found


def _answered(part: Log, examples: Examples, answers: dict[int, list[int]]) -> Examples:
    """Those of the examples for which there is an answer, by their row."""
    rows = np.array(sorted(answers), dtype=int)
    return Examples(
        [examples.prompts[i] for i in rows],
        part.take(rows).arrays(),
        answers=[answers[i] for i in rows],
        orders=[examples.orders[i] for i in rows] if examples.orders else None,
    )


def _parts(log: Log, settings: Settings) -> tuple[Log, Log]:
    """What teaches, and the plays that validate."""
    return learnt_from(log, settings), data.plays(log, "validation", settings.max_validation, settings.seed)


def _examples(part: Log, reader: Reader, seed: int) -> Examples:
    """What there is to learn from; options with letters get a random order each, the same in every epoch."""
    questions, rng = reader.read(part), np.random.default_rng(seed)
    lettered = prompts.form_of(questions).lettered
    orders = [rng.permutation(len(question.options)) for question in questions] if lettered else None
    return Examples(questions, part.arrays(), orders=orders)


def _with_reasons(
    part: Log, examples: Examples, reader: ReasonedReader, settings: Settings, reasons: Path, ask: bool
) -> tuple[Examples, dict]:
    """The examples for which the teacher has a usable reason, and the teacher's counts."""
    shown, orders = examples.arrays.shown, examples.orders
    questions = [
        teacher.Question(i, reader.question(prompt, order), LABELS[int(np.flatnonzero(order == shown[i])[0])])
        for i, (prompt, order) in enumerate(zip(examples.prompts, orders, strict=True))
    ]
    source = teacher.make(settings.teacher, settings.teacher_model, part, settings.dtype)
    texts, counts = teacher.write(questions, source, reasons, ask)
    answers = {i: reader.completion(text) for i, text in texts.items()}
    rows = np.array([i for i in sorted(answers) if len(answers[i]) <= settings.max_new_tokens], dtype=int)
    if len(rows) < len(answers):
        counts["faults"]["longer than max_new_tokens"] = len(answers) - len(rows)
    counts["usable"] = len(rows)
    if not len(rows):
        raise ValueError(f"the teacher {source.name} gave no usable reason for {len(questions)} plays: {counts}")
    kept = _answered(part, examples, {i: answers[i] for i in rows})
    return kept, {"name": source.name, **counts}
