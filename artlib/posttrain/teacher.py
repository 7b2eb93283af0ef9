"""Reasons for logged plays: a teacher sees the question and the true choice, and words why the member chose so.

What it writes is kept by content as it comes, so that nothing is asked twice and a killed run goes on; what is of no
use is counted by its fault and left out; a teacher that fails stops nothing.
"""

import collections
import dataclasses
import hashlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from artlib import files, fingerprint, worlds
from artlib.data import Log, genre_names
from artlib.lm import endpoint, generation, model
from artlib.lm.prompts.label import ANSWER
from artlib.lm.prompts.reasoned import parse
from artlib.lm.prompts.text import DAY

SHORTEST, LONGEST = 20, 600  # characters of a reason
REQUEST = (
    "{question}\n\nThe viewer played poster {letter}. In one or two sentences, say why, from what the viewer watches "
    "and what the poster shows, without naming a letter. Then end with the line\n{answer} {letter}"
)


@dataclasses.dataclass(frozen=True)
class Question:
    """What a teacher is asked.

    Attributes:
        impression: row in the log that the teacher reads.
        text: the question as the student reads it.
        letter: of the artwork that was played.
    """

    impression: int
    text: str
    letter: str

    @property
    def request(self) -> str:
        return REQUEST.format(question=self.text, letter=self.letter, answer=ANSWER)


class Teacher(Protocol):
    """Answers questions in any order; an answer that could not be had is an exception in its place."""

    name: str
    identity: str  # all that decides its answers, but for the request

    def answers(self, questions: list[Question]) -> Iterator[tuple[Question, str | Exception]]: ...


class World:
    """Words the reasons of a simulator itself: which genre a poster leans to, and who likes it.

    Args:
        log: of `fiction` or `movielens`; questions refer to its impressions.
    """

    name = "world"

    def __init__(self, log: Log):
        known = worlds.known()
        self._world = known.get(log.manifest.get("world"))
        if self._world is None or self._world.read is None:
            able = " and ".join(name for name, world in known.items() if world.read)
            raise ValueError(f"the teacher 'world' knows the worlds {able} only, not {log.manifest.get('world')!r}")
        self._columns = {name: column for column, name in enumerate(genre_names(log.titles))}
        self._profile = log.history.genre_profile(log.impressions)
        arrays = log.arrays()
        self._captions = [log.artworks["caption"][int(artwork)].as_py() for artwork in arrays.shown_artwork]
        modules = (sys.modules[module] for module in (__name__, self._world.read.__module__))
        made_of = fingerprint.code(*modules).encode() + self._profile.tobytes()
        self.identity = f"world {hashlib.sha256(made_of).hexdigest()}"

    def answers(self, questions: list[Question]) -> Iterator[tuple[Question, str | Exception]]:
        average = self._profile.mean(axis=0)
        for question in questions:
            try:
                genre, detail = self._world.read(self._captions[question.impression])
            except LookupError as error:
                yield question, error
                continue
            more = self._profile[question.impression] - average
            loved = sorted(set(self._columns) - {genre}, key=lambda name: (-more[self._columns[name]], name))
            watches, shows = " and ".join(loved[:2]), self._world.reason.format(detail)
            if more[self._columns[genre]] > 0:
                reason = f"The viewer watches more {genre} than most, besides {watches}, and {shows}."
            else:
                reason = f"The viewer rather watches {watches}; still, it points to {genre}: {shows}."
            yield question, f"{reason}\n{ANSWER} {question.letter}"


class Endpoint:
    """Any server that speaks OpenAI's chat completions (see `lm.endpoint`).

    Args:
        url, model_name, timeout, pause: see `endpoint.Endpoint`.
        workers: questions under way at once.
    """

    def __init__(self, url: str, model_name: str, timeout: float = 60.0, workers: int = 8, pause: float = 1.0):
        self._server, self.workers = endpoint.Endpoint(url, model_name, timeout, pause=pause), workers
        self.name = self.identity = f"{self._server.url} {model_name}"

    def answers(self, questions: list[Question]) -> Iterator[tuple[Question, str | Exception]]:
        with self._server as server:
            for found in endpoint.concurrently(self._ask, questions, self.workers, server.leave):
                if found is not None:
                    yield found

    def _ask(self, question: Question) -> str:
        return self._server.complete([{"role": "user", "content": question.request}]).text


class Local:
    """Any causal LM through transformers, on this machine.

    Args:
        name, dtype: see `model.load`.
        batch: questions at once.
        max_new_tokens: of an answer.
    """

    def __init__(self, name: str, dtype: str = "auto", batch: int = 8, max_new_tokens: int = 160):
        self.name, self.dtype, self.batch, self.max_new_tokens = name, dtype, batch, max_new_tokens
        self.identity = f"{name} {dtype} {max_new_tokens}"

    def answers(self, questions: list[Question]) -> Iterator[tuple[Question, str | Exception]]:
        language_model, tokenizer = model.load(self.name, dtype=self.dtype)
        for start in range(0, len(questions), self.batch):
            part = questions[start : start + self.batch]
            chats = [[{"role": "user", "content": question.request}] for question in part]
            options = {"add_generation_prompt": True, "strftime_now": DAY.strftime}
            ids = [tokenizer.apply_chat_template(chat, **options)["input_ids"] for chat in chats]
            texts = generation.generate(language_model, tokenizer, ids, self.max_new_tokens)
            yield from zip(part, texts, strict=True)


def make(name: str, endpoint_model: str, log: Log, dtype: str = "auto") -> Teacher:
    """A teacher by name: "world", the URL of an endpoint, or a model's name as `model.load` takes it."""
    if name == "world":
        return World(log)
    if re.match(r"https?://", name):
        if not endpoint_model:
            raise ValueError(f"teacher {name} is an endpoint: say which of its models with teacher_model")
        return Endpoint(name, endpoint_model)
    return Local(name, dtype)


def write(
    questions: list[Question], teacher: Teacher, path: str | os.PathLike, ask: bool = True
) -> tuple[dict[int, str], dict]:
    """Have every question answered, but those that `path` already holds.

    Args:
        path: a file of JSON lines, added to as answers come: key (hash of teacher and request), answer.
        ask: whether to ask for what is missing; else only what `path` holds is used.

    Returns:
        Usable answers by impression, and counts: asked, kept, usable, and faults by kind. An answer that could not
        be had is asked for again next time.
    """
    from tqdm import tqdm

    path = Path(path)
    keys = {question.impression: _key(teacher, question) for question in questions}
    answered = {
        entry["key"]: entry["answer"] for entry in files.read_json_lines(path) if {"key", "answer"} <= set(entry)
    }
    missing = [question for question in questions if ask and keys[question.impression] not in answered]
    faults: collections.Counter = collections.Counter()
    with files.json_lines(path) as add:
        answers = teacher.answers(missing) if missing else iter(())
        for question, answer in tqdm(answers, total=len(missing), desc=f"teacher {teacher.name}", mininterval=2):
            if isinstance(answer, Exception):
                faults[f"no answer ({getattr(answer, 'kind', type(answer).__name__)})"] += 1
                continue
            key = keys[question.impression]
            answered[key] = answer
            add({"key": key, "answer": answer})
    usable, seen = {}, set()
    for question in questions:
        answer = answered.get(keys[question.impression])
        if answer is None:
            continue
        found = fault(answer, question.letter)
        reason = answer.strip().rpartition("\n")[0].strip()
        if found is None and reason in seen:
            found = "duplicate"
        if found:
            faults[found] += 1
        else:
            seen.add(reason)
            usable[question.impression] = f"{reason}\n{ANSWER} {question.letter}"
    counts = {"questions": len(questions), "asked": len(missing), "usable": len(usable), "faults": dict(faults)}
    return usable, counts


def fault(answer: str, letter: str) -> str | None:
    """What is wrong with a teacher's answer to a question whose true choice has this letter; None if nothing."""
    reason, _, last = answer.strip().rpartition("\n")
    reason = reason.strip()
    found = parse(last)
    if found is None:
        return "no final answer"
    if found != letter:
        return "another choice"
    if not SHORTEST <= len(reason) <= LONGEST:
        return "too short" if len(reason) < SHORTEST else "too long"
    if _names(reason, letter):
        return "names its letter before"
    return None


def _names(reason: str, letter: str) -> bool:
    """Whether a reason gives its letter away. "A" and "I" alone are words, others are not."""
    forms = [
        rf"(?i:poster|option|answer|choice|letter|candidate|image|artwork)s?\s+\(?{letter}\b",
        rf"[(\"'\[]{letter}[)\"'\].,:]",
        rf"(?m:^){letter}[.):]",
    ]
    if letter not in "AI":
        forms.append(rf"\b{letter}\b(?!')")
    return any(re.search(form, reason) for form in forms)


def _key(teacher: Teacher, question: Question) -> str:
    return hashlib.sha256(f"{teacher.identity}\n{question.request}".encode()).hexdigest()
