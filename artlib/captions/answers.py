"""Asking about one picture until the answer is of use; what is kept of answers, so that none is asked for twice."""

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from artlib import files
from artlib.captions import schema
from artlib.data import LogError, pictures
from artlib.lm.endpoint import Answer, EndpointError

if TYPE_CHECKING:
    from PIL.Image import Image

FILE = "captions.jsonl"  # beside the log's tables
TRIES = 3  # answers to one picture


class Captioner(Protocol):
    """Says what is on a picture; a context manager around all questions, which come from `workers` threads.

    Attributes:
        name: for a reader.
        model: whose answers they are, wherever it runs.
    """

    name: str
    model: str
    workers: int

    def __enter__(self) -> Any: ...
    def __exit__(self, *_) -> Any: ...
    def leave(self) -> None: ...
    def answer(self, picture: "Image", request: str, max_tokens: int) -> Answer: ...


@dataclasses.dataclass
class Description:
    """What came of asking about a picture.

    Attributes:
        image: sha256 of its file.
        model, version, words: who was asked what, see `schema.version`, for a caption of how many words.
        fields: see `schema.FIELDS`; None if no answer was of use.
        answers, prompt_tokens, completion_tokens: that it took.
        fault, reason: why there are no fields: the kind, and in full.
    """

    image: str
    model: str
    version: str
    words: int
    fields: dict[str, str] | None = None
    answers: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    fault: str = ""
    reason: str = ""

    @property
    def caption(self) -> str:
        return schema.caption(self.fields, self.words)

    @property
    def writer(self) -> str:
        return f"{self.model}, question {self.version}"


def describe(captioner: Captioner, file: Path, image: str, words: int, side: int) -> Description:
    """Ask about a picture until the answer is of use, a few times; the captioner is told what was wrong.

    Each time the likeliest answer is asked for: the request has changed, and no caption should hang on chance.
    """
    found = Description(image, captioner.model, schema.version(words, side), words)
    request = schema.prompt(words)
    try:
        picture = pictures.read(file, side)
        while found.fields is None and found.answers < TRIES:
            answer = captioner.answer(picture, request, schema.most_tokens(words))
            found.answers += 1
            found.prompt_tokens += answer.prompt_tokens
            found.completion_tokens += answer.completion_tokens
            try:
                found.fields = schema.fields(answer.text, words)
            except schema.Fault as fault:
                found.fault, found.reason = fault.kind, str(fault)
                if answer.cut and fault.kind == "no JSON object":
                    found.fault, found.reason = "cut off", "the answer was too long and was cut off; be brief"
                request = f"{schema.prompt(words)}\n\nAn earlier answer could not be used: {found.reason}"
    except EndpointError as error:
        found.fault, found.reason = error.kind, str(error)
    except LogError as error:  # it could be opened a moment ago
        found.fault, found.reason = "no picture", str(error)
    except Exception as error:  # of a model on this machine
        found.fault = type(error).__name__
        found.reason = f"{found.fault}: {error}"
    return found


def line(found: Description) -> dict:
    """A usable answer as it is kept."""
    return {name: value for name, value in dataclasses.asdict(found).items() if name not in ("fault", "reason")}


def read(folder: str | os.PathLike) -> list[Description]:
    """The usable answers that are kept beside a log, of any captioner; lines that are not whole are left out."""
    kept = []
    for entry in files.read_json_lines(Path(folder) / FILE):
        with contextlib.suppress(TypeError, KeyError, AttributeError, ValueError):
            found = Description(**entry)
            if found.caption:
                kept.append(found)
    return kept
