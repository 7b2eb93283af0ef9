"""The captions that a log lacks: answers are kept as they come, the log is written once, at the end."""

import collections
import dataclasses
import os
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import filelock
import numpy as np
import pyarrow as pa

from artlib import files
from artlib.captions import answers, lengths, record, schema
from artlib.captions.answers import Captioner, Description
from artlib.captions.local import Local
from artlib.captions.remote import Remote
from artlib.data import Log, LogError, pictures
from artlib.data.contract import one_line
from artlib.lm.endpoint import concurrently

SIDE = 768  # pixels
SILENCE = 10.0  # seconds between two signs of life in a file


def captioner(name: str, model: str, workers: int) -> Captioner:
    """A captioner by name: the URL of an endpoint and its `model`, or a folder or hub id of a vision-language model."""
    if re.match(r"https?://", name):
        if not model:
            raise schema.CaptionError(f"captioner {name} is an endpoint: say which of its models with --model")
        return Remote(name, model, workers)
    if model:
        raise schema.CaptionError(
            f"--model {model} is for endpoints, whose URLs begin with http:// or https://; captioner {name!r} is taken "
            "for a model itself"
        )
    return Local(name)


@dataclasses.dataclass
class Work:
    """What there is to do for a log, and what came of it.

    Attributes:
        log: with `validate=False`.
        images: row of an artwork without a caption whose picture can be opened -> sha256 of the picture.
        failed: row of an artwork that gets no caption although it has a picture -> why.
        unopened: how many of these pictures cannot be opened.
        without, later: how many have neither caption nor picture, or are beyond the limit.
        known: usable answers to this question by this model, by picture.
        writers: caption -> who wrote it, of all answers that are kept.
        outcomes: of asking, by picture.
    """

    log: Log
    words: int
    side: int
    images: dict[int, str]
    failed: dict[int, str]
    without: int
    later: int
    known: dict[str, Description]
    writers: dict[str, str]
    unopened: int = 0
    outcomes: dict[str, Description] = dataclasses.field(default_factory=dict)

    @property
    def to_ask(self) -> dict[str, Path]:
        """Pictures, each once: sha256 -> file."""
        images = self.log.artworks["image"]
        rows = {image: row for row, image in self.images.items() if image not in self.known}
        return {image: pictures.path(self.log.folder, images[row].as_py()) for image, row in rows.items()}

    @property
    def captions(self) -> dict[int, str]:
        """Those that can be filled in, by row."""
        return {row: self.known[image].caption for row, image in self.images.items() if image in self.known}

    @property
    def faults(self) -> dict[str, int]:
        """How many pictures had no usable answer, by kind."""
        return dict(collections.Counter(found.fault for found in self.outcomes.values() if found.fields is None))

    @property
    def refused(self) -> dict[str, str]:
        """artwork_id -> why it has no caption although it has a picture."""
        return {self.log.artworks["artwork_id"][row].as_py(): why for row, why in sorted(self.failed.items())}

    def refused_in_words(self, most: int = 20) -> list[str]:
        """The same, a line a reason, the most frequent first: a server that is away has one for all."""
        by: dict[str, list[str]] = {}
        for artwork, why in self.refused.items():
            by.setdefault(why, []).append(artwork)
        lines = [
            f"no caption: {artworks[0]}{f' and {len(artworks) - 1:,} more' if artworks[1:] else ''}: {why}"
            for why, artworks in sorted(by.items(), key=lambda item: -len(item[1]))
        ]
        return lines[:most] + ([f"no caption: and for {len(lines) - most:,} more reasons"] if lines[most:] else [])

    def audit(self) -> tuple[str, list[str]]:
        """See `lengths.audit`, of the captions that are there and those found."""
        there, found = self.log.artworks["caption"].to_pylist(), self.captions
        texts = [found.get(row) or (text if one_line(text or "") else "") for row, text in enumerate(there)]
        return lengths.audit(self.log.artworks["title_id"].to_pylist(), texts, self.writers)

    def todo(self) -> str:
        """What is to be done, for a reader."""
        parts = [f"{len(self.images) + len(self.failed):,} artworks with a picture lack a caption"]
        parts += [f"{len(self.captions):,} have an answer already", f"{len(self.to_ask):,} pictures to ask about"]
        parts += [f"{len(self.failed):,} pictures cannot be opened"] if self.failed else []
        parts += [f"{self.later:,} more artworks are beyond the limit"] if self.later else []
        parts += [f"{self.without:,} artworks have neither caption nor picture"] if self.without else []
        return f"{self.log.folder}: {'; '.join(parts)}"

    def done(self) -> str:
        """What was done, for a reader."""
        n, prompt, completion = total(self.outcomes.values())
        lines = [
            f"captions written: {len(self.captions):,}",
            f"asked: {len(self.outcomes):,} pictures, {n:,} answers, {prompt:,} prompt and {completion:,} completion "
            "tokens",
        ]
        return "\n".join(lines + [f"no usable answer: {kind}: {n:,}" for kind, n in sorted(self.faults.items())])


def total(outcomes: Iterable[Description]) -> tuple[int, int, int]:
    """Answers, prompt tokens and completion tokens in all."""
    counts = np.array([(one.answers, one.prompt_tokens, one.completion_tokens) for one in outcomes], dtype=int)
    answered, prompt, completion = counts.reshape(-1, 3).sum(axis=0).tolist()
    return answered, prompt, completion


def plan(
    folder: str | os.PathLike, model: str = "", words: int = schema.WORDS, side: int = SIDE, limit: int | None = None
) -> Work:
    """What is to be asked of a model about a log's pictures, each of which is opened.

    Args:
        words: of a caption, at most.
        side: of a picture as it is sent, the longer one, in pixels.
        limit: only the first so many artworks; None for all.
    """
    version = schema.version(words, side)
    log = Log.load(folder, validate=False)
    captions, images = (log.artworks[name].to_pylist() for name in ("caption", "image"))
    lacking = [row for row, caption in enumerate(captions) if not one_line(caption or "")]
    pictured = [row for row in lacking if images[row] is not None]
    rows = pictured[:limit]
    broken = pictures.unreadable(log.artworks.take(pa.array(rows, pa.int64())), folder)
    failed = {rows[place]: str(error) for place, error in broken}
    sums = {row: files.sha256(pictures.path(folder, images[row])) for row in rows if row not in failed}
    kept = answers.read(folder)
    known = {found.image: found for found in kept if (found.model, found.version) == (model, version)}
    writers = {found.caption: found.writer for found in kept}
    without, later = len(lacking) - len(pictured), len(pictured) - len(rows)
    return Work(log, words, side, sums, failed, without, later, known, writers, len(failed))


def fill(
    folder: str | os.PathLike,
    asked: Captioner,
    words: int = schema.WORDS,
    side: int = SIDE,
    limit: int | None = None,
) -> Work:
    """Write the captions that a log lacks.

    Args:
        folder: of the log.
        asked: who describes the pictures.
        words, side, limit: see `plan`.

    Raises:
        LogError: the log cannot be read, is being captioned already, or artworks.parquet changed meanwhile.
        ModelError: the captioner cannot be had.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise LogError(f"{folder} is not a folder; a log is a folder of Parquet files")
    lock = folder / f".{answers.FILE}.lock"
    try:
        # Two at once would pay twice, and one would undo what the other wrote.
        with filelock.FileLock(lock, timeout=0):
            work = plan(folder, asked.model, words, side, limit)
            before = files.sha256(folder / record.TABLE)
            print(f"{work.todo()}, of {asked.name}", file=sys.stderr, flush=True)
            if work.to_ask:
                _ask(work, asked)
            captions = work.captions
            # All that are in the log by this captioner, from earlier commands too.
            texts = collections.Counter([*work.log.artworks["caption"].to_pylist(), *captions.values()])
            own = [found for found in work.known.values() if found.caption in texts]
            _, prompt, completion = total(own)
            who = {"model": asked.model, "question": schema.version(words, side), "words": words, "side": side}
            written = sum(texts[caption] for caption in {found.caption for found in own})
            counts = {"captions": written, "prompt_tokens": prompt, "completion_tokens": completion}
            record.write(folder, captions, before, who | counts | {"faults": work.faults, "unopened": work.unopened})
            lock.unlink(missing_ok=True)
            return work
    except filelock.Timeout:
        raise LogError(f"{folder} is being captioned by another process; let it end first") from None


def _ask(work: Work, asked: Captioner) -> None:
    """Have pictures described; usable answers are kept at once."""
    from tqdm import tqdm

    def ask(picture: tuple[str, Path]) -> Description:
        return answers.describe(asked, picture[1], picture[0], work.words, work.side)

    to_ask, terminal, last = work.to_ask, sys.stderr.isatty(), time.monotonic()
    tokens = faults = 0
    bar = tqdm(total=len(to_ask), desc="captions", mininterval=0.5 if terminal else 1e9)
    with bar, asked, files.json_lines(work.log.folder / answers.FILE) as add:
        for came in concurrently(ask, to_ask.items(), asked.workers, asked.leave, every=SILENCE):
            if came is not None:
                (image, _), found = came
                if isinstance(found, Exception):
                    raise found
                work.outcomes[image] = found
                if found.fields is not None:
                    add(answers.line(found))
                    work.known[image] = found
                    work.writers[found.caption] = found.writer
                tokens += found.prompt_tokens + found.completion_tokens
                faults += found.fields is None
                bar.set_postfix(tokens=tokens, faults=faults, refresh=False)
                bar.update()
            if not terminal and time.monotonic() - last >= SILENCE:
                last = time.monotonic()
                print(bar, file=sys.stderr, flush=True)
    for row, image in work.images.items():
        if image in work.outcomes and work.outcomes[image].fields is None:
            work.failed[row] = f"{work.outcomes[image].fault}: {work.outcomes[image].reason}"
