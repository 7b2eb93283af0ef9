"""What prompt forms share: members, titles and artworks as token ids, and what a form is.

Text from a log is data, never structure: it is put on one line, and what looks like one of the tokenizer's special
tokens is encoded as ordinary characters. Only the forms write line breaks, option letters and chat markers.
"""

from __future__ import annotations

import abc
import copy
import datetime
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol, Self

import numpy as np

from artlib.data import Log
from artlib.data.contract import one_line

if TYPE_CHECKING:
    import torch

    from artlib.lm.tree import Tree

LEADS = ("\n", ":", ")", "!")  # what text may stand after, to see how it is tokenised there
DAY = datetime.datetime(2024, 7, 26)  # for chat templates that ask what day it is: Llama 3's own, if none is told
SYSTEM = "You design film posters."


class Prompt(Protocol):
    """One impression as a form reads it."""

    form: ClassVar[str]  # its name

    @property
    def n_tokens(self) -> int: ...


class Reader(abc.ABC):
    """Turns impressions into prompts of one form, for one tokenizer.

    Args:
        log: where titles, artworks and histories come from.
        tokenizer: of the model that will read.
        history_tokens: what a member's summary may take; recent titles are left out, oldest first, to fit.
        max_tokens: what a whole prompt may take. A longer one is an error: nothing is ever cut.
        n_genres, n_recent: favourite genres, most first, and most recent titles in the summary, at most.
        frame: what to write before and after the question, as an adapter was trained; the chat template's without it.

    Attributes:
        frame: the same, two texts.
        shortened: histories whose recent titles did not all fit.
    """

    _new, _loves, _weighed = " who is new", " who loves", True

    def __init__(
        self,
        log: Log,
        tokenizer,
        history_tokens: int = 96,
        max_tokens: int = 2048,
        n_genres: int = 3,
        n_recent: int = 0,
        frame: Sequence[str] | None = None,
    ):
        self.history_tokens, self.max_tokens = history_tokens, max_tokens
        self.n_genres, self.n_recent = n_genres, n_recent
        self.shortened = 0
        self._tokenizer = tokenizer
        self._history = log.history
        self._names = [one_line(name) for name in log.titles["name"].to_pylist()]
        self._title_genres = [[one_line(genre) for genre in genres] for genres in log.titles["genres"].to_pylist()]
        self._genres = [one_line(genre) for genre in self._history.genres]
        self._captions = [one_line(caption) for caption in log.artworks["caption"].to_pylist()]
        self._kept: dict[int, list] = {}
        self._pieces = Pieces(tokenizer)
        self._before, self._after = self.frame = tuple(frame or chat_frame(tokenizer))

    def read(self, log: Log) -> list:
        """The prompts of a log's impressions, in their order.

        Raises:
            ValueError: a prompt is longer than `max_tokens`, or has more candidates than there are letters.
        """
        arrays = log.arrays()
        profile = self._history.genre_profile(log.impressions)
        starts, stops = self._history.spans(log.impressions)
        prompts = []
        for i in range(len(arrays)):
            watched = self._history.title[starts[i] : stops[i]][::-1]
            prompt = self._prompt(int(arrays.title[i]), profile[i], watched, arrays.candidates[i][arrays.mask[i]])
            if prompt.n_tokens > self.max_tokens:
                name = log.impressions["impression_id"][i].as_py()
                raise ValueError(
                    f"impression {name}: its prompt has {prompt.n_tokens} tokens, more than max_tokens = "
                    f"{self.max_tokens}; raise max_tokens or shorten its captions"
                )
            prompts.append(prompt)
        return prompts

    @abc.abstractmethod
    def _prompt(self, title: int, profile: np.ndarray, watched: np.ndarray, artworks: np.ndarray):
        """The prompt of one impression.

        Args:
            title: row in `titles`.
            profile: (G,) the member's genre profile.
            watched: rows in `titles`, the most recent first.
            artworks: (K,) rows in `artworks`, the candidates.
        """

    def _member(self, profile: np.ndarray, watched: np.ndarray) -> list[int]:
        """A member's summary within its budget: top genres by weight, then the most recent titles that fit."""
        top = self.favourites(profile)
        if not top:
            return self._encode(self._new)
        loves = ", ".join(self._genres[g] + (f" ({100 * profile[g]:.0f} %)" if self._weighed else "") for g in top)
        ids = self._encode(f"{self._loves} {loves}")
        fitted = 0
        recent = watched[: self.n_recent]
        for place, title in enumerate(recent):
            more = self._encode(f"{', and lately watched' if place == 0 else ';'} {self._names[title]}")
            if len(ids) + len(more) > self.history_tokens:
                break
            ids, fitted = ids + more, fitted + 1
        self.shortened += fitted < len(recent)
        return ids

    def favourites(self, profile: np.ndarray) -> list[int]:
        """The genres that a member's summary names, the most watched first: columns of the (G,) profile."""
        return [int(g) for g in np.argsort(-profile, kind="stable")[: self.n_genres] if profile[g] > 0]

    def _artwork(self, artwork: int) -> list:
        """What is read of an artwork, encoded once: token ids, or lists of them where it is read in parts."""
        if artwork not in self._kept:
            self._kept[artwork] = self._encode_artwork(self._captions[artwork])
        return self._kept[artwork]

    def _encode_artwork(self, caption: str) -> list:
        return self._encode(f" {caption}")

    def _encode(self, text: str) -> list[int]:
        """Token ids of text from a log, which goes on from other text: never a special token."""
        return self._pieces.next(text)

    def _special(self, text: str) -> list[int]:
        """Token ids of a form's own text, in which chat markers mean what they say."""
        return self._pieces.next(text, special=True)


class PromptForm(abc.ABC):
    """A way to put an impression to a model: what is read, how it is collated, how it is scored in training and in
    deciding. n impressions, K candidates at most.

    Attributes:
        name: as the parameter `prompt` has it.
        meaning: in a line.
        reader: makes its prompts.
        lettered: whether candidates are options with letters, which come in an order.
        summarised: whether a member's summary is read, which `n_genres` and `n_recent` make.
        written: whether an answer is written, token by token, instead of scored.
        by_title: whether impressions of a title share what is read of its artworks, so that a step of training is over
            titles.
        known: what is remembered; None where nothing is, as in training.
    """

    name: str
    meaning: str
    reader: type[Reader]
    lettered = False
    summarised = True
    written = False
    by_title = False
    known: dict | None = None

    def remembering(self) -> Self:
        """The same form for one model that does not change: what it has said of an artwork, whoever is asked about, it
        is not asked again. For forms that ask so; others have nothing to remember."""
        own = copy.copy(self)
        own.known = {}
        return own

    @abc.abstractmethod
    def decode(self, prompt, tokenizer) -> str:
        """A prompt as text: the question, with the first candidate where they are asked about one by one."""

    def tree(self, prompt) -> Tree | None:
        """How a prompt is laid out in one sequence; None where it is a plain sequence."""
        return None

    @abc.abstractmethod
    def collate(self, prompts: Sequence, orders: Sequence[np.ndarray] | None = None) -> dict[str, torch.Tensor]:
        """A batch for `candidate_scores`, with (n, K) `mask` among it: True where there is a candidate.

        Args:
            orders: of lettered forms, the candidate under each letter; the log's own order without it.
        """

    @abc.abstractmethod
    def candidate_scores(self, model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """(n, K) scores in float32 as training needs them; `forward.MASKED_SCORE` where padded."""

    @abc.abstractmethod
    def score(self, model, prompts: Sequence, batch_tokens: int) -> np.ndarray:
        """(n, K) scores to decide by: log-odds up to a constant; -inf where padded."""

    def score_as_trained(
        self, model, prompts: Sequence, orders: Sequence[np.ndarray] | None, batch_tokens: int
    ) -> np.ndarray:
        """The scores of `candidate_scores` for many impressions, as `score` gives those that decide."""
        return self.score(model, prompts, batch_tokens)

    def score_both_ways(
        self, model, prompts: Sequence, orders: Sequence[np.ndarray] | None, batch_tokens: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """`score_as_trained` and `score`, from the same answers where they can be had from the same."""
        deciding = self.score(model, prompts, batch_tokens)
        return deciding, deciding

    def order_sensitivity(self, model, prompts: Sequence) -> float | None:
        """How far choices depend on the order of the options, see `label`; None where there is no order, or where the
        letter comes after a reason."""
        return None


class Pieces:
    """Tokenises a text piece by piece, so that the pieces' ids join to those of the whole.

    Tokenizers like Llama 2's put a space before any text that they are given, which only the first piece may have.
    """

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self._spaced = all(self._alone(lead + "a") != self._alone(lead) + self._alone("a") for lead in LEADS)

    def first(self, text: str) -> list[int]:
        """Token ids of a text's beginning, chat markers among it."""
        return self._alone(text, special=True)

    def next(self, text: str, special: bool = False) -> list[int]:
        """Token ids of text that goes on from other text.

        Args:
            special: whether what looks like a special token is one.
        """
        if not self._spaced:
            return self._alone(text, special)
        for lead in LEADS:  # some tokens are made of a lead and a text's beginning
            before, both = self._alone(lead), self._alone(lead + text, special)
            if both[: len(before)] == before:
                return both[len(before) :]
        raise ValueError(f"the tokenizer joins {text[:20]!r} with what stands before it; use another model")

    def after(self, text: str) -> Callable[[str], list[int]]:
        """What tokenises text that goes on from chat markers: some tokenizers put a space after those, too."""
        opened = self.next(text + "a", special=True) == self.next(text, special=True) + self._alone("a")
        return self._alone if opened else self.next

    def _alone(self, text: str, special: bool = False) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False, split_special_tokens=not special).input_ids


def chat_frame(tokenizer) -> tuple[str, str]:
    """What the tokenizer's chat template writes before and after a user's message, up to where the answer begins. For
    templates that tell the day it is always `DAY`, or the prompts of tomorrow would be others."""
    if not tokenizer.chat_template:
        return tokenizer.bos_token or "", "\n"
    mark = "MESSAGE"
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": mark}]
    for attempt in (messages, messages[1:]):  # some templates know no system role
        try:
            text = tokenizer.apply_chat_template(
                attempt, tokenize=False, add_generation_prompt=True, strftime_now=DAY.strftime
            )
        except Exception:
            continue
        before, found, after = text.partition(mark)
        if found:
            return before, after
    raise ValueError("the tokenizer's chat template does not take a plain user message; use another model")


def leading_ids(tokenizer) -> list[int]:
    """What the tokenizer puts before any text: its beginning-of-sequence token, or nothing."""
    begin = tokenizer.bos_token_id
    return [begin] if begin is not None and tokenizer("a").input_ids[:1] == [begin] else []
