"""What is asked of a captioner, what of its answer is accepted, and how that becomes one caption.

All candidates of a title get the same question and the same budget of words, and the caption is put together here, not
by the model: who writes more must not be chosen for that.
"""

import json
import re
from typing import Any

import pydantic

from artlib import ArtlibError, fingerprint
from artlib.data.contract import one_line

WORDS = 60  # of a caption
FEWEST_WORDS = 30
# Field -> its share of the words, how it stands in the caption, what is asked. The frame's own word is in the share.
FIELDS = {
    "scene": (15, "{}", "what is shown and what happens, the most striking thing first"),
    "people": (11, "{}", "who is to be seen and with which expression, without guessing names"),
    "setting": (9, "Setting: {}", "the place and time"),
    "mood": (5, "Mood: {}", "the feeling that it conveys"),
    "palette": (6, "Palette: {}", "the colours and the light"),
    "composition": (8, "Composition: {}", "the framing, the viewpoint and what stands where"),
    "text": (6, "Text: {}", "words that are written on the picture, exactly, without the credits"),
}
SLACK = 2  # times its budget: what is longer is refused, what is shorter is cut
LONGEST = 20_000  # characters of an answer that are searched
_NOTHING = {"", "none", "no text", "no people", "nobody", "n/a", "null", "empty", "empty string"}
_PROMPT = (
    "This is an artwork that advertises a film or series. Describe what can be seen, in plain English, without "
    "guessing which one it is. Answer with one JSON object of these fields, each a string, empty if there is no such "
    "thing on the picture:\n{fields}\nNothing but the JSON object."
)


class CaptionError(ArtlibError, ValueError):
    """A request for captions that cannot be met."""

    exit_code = 2


class Fault(Exception):
    """Why an answer is of no use: as the captioner is told, who may do better, and in few words to be counted by."""

    def __init__(self, kind: str, told: str):
        super().__init__(told)
        self.kind = kind


class Picture(pydantic.BaseModel):
    """What a captioner says of a picture, one field each of `FIELDS`."""

    # More than is asked for does no harm. Servers are told not to write it: OpenAI's wants to hear that.
    model_config = pydantic.ConfigDict(
        extra="ignore",
        json_schema_extra={"additionalProperties": False, "description": "What can be seen on an artwork."},
    )

    scene: str
    people: str
    setting: str
    mood: str
    palette: str
    composition: str
    text: str


def budgets(words: int = WORDS) -> dict[str, int]:
    """The most words of each field, so that the caption has at most `words`.

    Raises:
        CaptionError: there are too few for all fields.
    """
    if words < FEWEST_WORDS:
        raise CaptionError(f"words = {words} is too little for {len(FIELDS)} fields; give at least {FEWEST_WORDS}")
    whole = sum(share for share, _, _ in FIELDS.values())
    return {name: words * share // whole - len(frame.format("").split()) for name, (share, frame, _) in FIELDS.items()}


def prompt(words: int = WORDS) -> str:
    """The question, with the schema in words: servers differ in whether they honour a response format."""
    fields = (f"- {name} (at most {most} words): {FIELDS[name][2]}" for name, most in budgets(words).items())
    return _PROMPT.format(fields="\n".join(fields))


def response_format() -> dict[str, Any]:
    """The schema as OpenAI's protocol has it."""
    schema = Picture.model_json_schema()
    return {"type": "json_schema", "json_schema": {"name": "artwork", "strict": True, "schema": schema}}


def version(words: int, side: int) -> str:
    """What stands for the question in all its parts: another one gets other answers."""
    question = {"prompt": prompt(words), "schema": response_format(), "side": side}
    return fingerprint.digest(question)[:12]


def most_tokens(words: int) -> int:
    """Of an answer: some tokens a word, in any script, with twice the words, and the JSON around them."""
    return 300 + 8 * words


def fields(answer: str, words: int = WORDS) -> dict[str, str]:
    """The fields that a captioner gave.

    Args:
        answer: a JSON object, maybe with prose around it.

    Raises:
        Fault: it is of no use; of the kinds "no JSON object", "missing field", "wrong type", "too long", "empty".
    """
    try:
        found = Picture.model_validate(_object(answer)).model_dump()
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        kind = "missing field" if first["type"] == "missing" else "wrong type"
        raise Fault(kind, "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())) from None
    for name, most in budgets(words).items():
        if (count := len(found[name].split())) > SLACK * most:
            raise Fault("too long", f"{name} has {count} words; give at most {most}")
    if not _clean(found["scene"]):
        raise Fault("empty", "scene is empty; say what is shown")
    return found


def _object(answer: str) -> dict:
    """The last JSON object in a text that has one of the fields, else the last one at all: drafts come before."""
    answer, found, start = answer[:LONGEST], [], 0
    for _ in range(100):  # a text of nothing but braces would take long
        start = answer.find("{", start)
        if start < 0:
            break
        try:
            value, start = json.JSONDecoder().raw_decode(answer, start)
            found.append(value)
        except (ValueError, RecursionError):
            start += 1
    if not found:
        raise Fault("no JSON object", "the answer has no whole JSON object in it")
    return next((value for value in reversed(found) if FIELDS.keys() & value.keys()), found[-1])


def caption(said: dict[str, str], words: int = WORDS) -> str:
    """One caption of at most `words` words; each field within its budget, what there is nothing of left out."""
    parts = []
    for name, most in budgets(words).items():
        if text := _cut(_clean(said[name]), most):
            sentence = FIELDS[name][1].format(text)
            parts.append(f"{sentence[0].upper()}{sentence[1:]}.")
    return " ".join(parts)


def _clean(text: str) -> str:
    text = one_line(text).strip(" .;,\"'")
    return "" if text.casefold() in _NOTHING else text


def _cut(text: str, most: int) -> str:
    """The first so many words, up to the last pause among them if that is in their second half."""
    if len(text.split()) <= most:
        return text
    kept = " ".join(text.split()[:most])
    pauses = [pause.start() for pause in re.finditer(r"[.;:,](?= )", kept)]
    if pauses and len(kept[: pauses[-1]].split()) * 2 >= most:
        kept = kept[: pauses[-1]]
    return kept.rstrip(" .;:,\"'")
