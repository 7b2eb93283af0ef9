"""What the LLM reads: members, titles and artworks as token ids.

Text from a log is data, never structure: it is put on one line, and what looks like one of the tokenizer's special
tokens is encoded as ordinary characters. Only this file writes line breaks, option letters and chat markers.
"""

import dataclasses
import datetime
import re
import string
from collections.abc import Callable, Sequence

import numpy as np

from artlib.log import History, Log, genre_names
from artlib.log_faults import one_line
from artlib.ranges import CHOICES

LABELS = string.ascii_uppercase
METHODS = CHOICES["prompt"]
ANSWER = "Answer:"
IGNORE = -100  # no loss on this token
LEADS = ("\n", ":", ")", "!")  # what text may stand after, to see how it is tokenised there
DAY = datetime.datetime(2024, 7, 26)  # for chat templates that ask what day it is: Llama 3's own, if none is told
SYSTEM = "You design film posters."
SAMPLE = 32  # posters by which `audience` is calibrated
PSEUDO_TITLES = 5.0  # of the average member's genres, added to what a member watched: a short history says little


@dataclasses.dataclass(frozen=True)
class CaptionPrompt:
    """One impression as the `caption` method reads it: a tree whose leaves are the candidates' captions.

    trunk -> general -> caption 1 .. K      what a poster shows, whoever looks
          -> member  -> caption 1 .. K      what it shows if it is chosen for this member

    The title is not in it: all candidates are of the same title, and plainer prompts suited the embedded model better.
    """

    trunk: list[int]
    general: list[int]
    member: list[int]
    captions: list[list[int]]

    @property
    def n_tokens(self) -> int:
        """The length of the flattened tree."""
        captions = sum(map(len, self.captions))
        return len(self.trunk) + len(self.general) + len(self.member) + 2 * captions


@dataclasses.dataclass(frozen=True)
class LabelPrompt:
    """One impression as the `label` method reads it: a multiple-choice question.

    Attributes:
        head: token ids up to the options.
        options: token ids of each candidate's caption line without its letter, in the log's order.
        letters: token ids of the lines' beginnings, "A." and so on.
        tail: token ids from the options' end to where the label is expected.
        labels: one token id a candidate: " A" and so on.
    """

    head: list[int]
    options: list[list[int]]
    letters: list[list[int]]
    tail: list[int]
    labels: list[int]

    def ids(self, order: np.ndarray) -> list[int]:
        """The question with candidate `order[i]` under letter i, ready for the label."""
        lines = (token for letter, k in enumerate(order) for token in self.letters[letter] + self.options[k])
        return [*self.head, *lines, *self.tail]

    @property
    def n_tokens(self) -> int:
        """The length with its label."""
        letters = sum(len(self.letters[k]) for k in range(len(self.options)))
        return len(self.head) + letters + sum(map(len, self.options)) + len(self.tail) + 1


class ReasonedPrompt(LabelPrompt):
    """The same question, to be answered by a reason and then, on a line of its own, "Answer: " and the letter."""


@dataclasses.dataclass(frozen=True)
class AudiencePrompt:
    """One impression as the `audience` method reads it: whose fans does each picture appeal to?

    Attributes:
        frame: token ids of what stands before every poster.
        posters: token ids of each candidate's caption and what stands between it and the name of a genre; the same
            list for the same artwork wherever it comes up, so that it need be read once only.
        genres: token ids of every genre's name, of as many words as tell it from the others.
        average: (G,) the share of each genre in what the average member watched, > 0.
        affinity: (G,) how many times that is the share in what this member watched, shrunk by `PSEUDO_TITLES`, > 0.
        sample: posters of the training split: what a model says of these tells what it says of any.
    """

    frame: list[int]
    posters: list[list[int]]
    genres: list[list[int]]
    average: np.ndarray
    affinity: np.ndarray
    sample: list[list[int]]

    @property
    def n_tokens(self) -> int:
        """The length of the longest candidate's tree."""
        return len(self.frame) + max(map(len, self.posters)) + sum(map(len, self.genres))


Prompt = AudiencePrompt | CaptionPrompt | LabelPrompt


class Reader:
    """Turns impressions into prompts for one tokenizer.

    Args:
        log: where titles, artworks and histories come from.
        tokenizer: of the model that will read.
        method: of `METHODS`.
        history_tokens: what a member's summary may take; recent titles are left out, oldest first, to fit.
        max_tokens: what a whole prompt may take. A longer one is an error: nothing is ever cut.
        n_genres, n_recent: favourite genres, most first, and most recent titles in the summary, at most; `audience`
            takes all genres by their shares, and no titles.
        frame: what to write before and after the question, as an adapter was trained; the chat template's without it.

    Attributes:
        frame: the same, two texts.
    """

    def __init__(self, log: Log, tokenizer, method: str = "audience", history_tokens: int = 96, max_tokens: int = 2048,
                 n_genres: int = 3, n_recent: int = 3, frame: Sequence[str] | None = None):  # fmt: skip
        if method not in METHODS:
            raise ValueError(f"prompt {method!r} is not one of {', '.join(METHODS)}")
        self.method, self.history_tokens, self.max_tokens = method, history_tokens, max_tokens
        self.n_genres, self.n_recent = n_genres, n_recent
        self.shortened = 0  # histories whose recent titles did not all fit
        self._tokenizer = tokenizer
        self._history = History(log.titles, log.histories)
        self._names = [one_line(name) for name in log.titles["name"].to_pylist()]
        self._title_genres = [[one_line(genre) for genre in genres] for genres in log.titles["genres"].to_pylist()]
        self._genres = [one_line(genre) for genre in genre_names(log.titles)]
        self._captions = [one_line(caption) for caption in log.artworks["caption"].to_pylist()]
        self._caption_ids, self._poster_ids = {}, {}
        self._pieces = Pieces(tokenizer)
        self._before, self._after = self.frame = tuple(frame or chat_frame(tokenizer))
        self._answer = self._pieces.after(self._after)
        if method in ("label", "reasoned"):
            self._letters = [self._encode(f"\n{letter}.") for letter in LABELS]
            self._labels = [label_token(tokenizer, letter) for letter in LABELS]
        if method == "audience":
            if not self._genres:
                raise ValueError("the log's titles have no genres, by which members are told apart: use prompt=caption")
            # Without chat markers: half of the tokens.
            self._frame = [*leading_ids(tokenizer), *self._pieces.first("A film poster shows this:")]
            self._after_poster = self._special("\nIt appeals to fans of")
            self.genres = [self._encode(f" {name}") for name in telling_names(self._genres)]
            train = log.split("train") if len(log.split("train").impressions) else log
            average = self._history.genre_profile(train.impressions).mean(axis=0)
            self._average = 0.99 * average + 0.01 / len(average)  # no genre has no fans at all
            arrays = train.arrays()
            known = np.unique(arrays.candidates[arrays.mask])
            self.sample = [self._poster(k) for k in np.random.default_rng(0).permutation(known)[:SAMPLE]]

    def read(self, log: Log) -> list[Prompt]:
        """The prompts of a log's impressions, in their order.

        Raises:
            ValueError: a prompt is longer than `max_tokens`, or has more candidates than there are letters.
        """
        arrays = log.arrays()
        profile = self._history.genre_profile(log.impressions)
        starts, stops = self._history.spans(log.impressions)
        build = getattr(self, f"_{self.method}_prompt")
        prompts = []
        for i in range(len(arrays)):
            watched = self._history.title[starts[i] : stops[i]][::-1]
            prompt = build(arrays.title[i], profile[i], watched, arrays.candidates[i][arrays.mask[i]])
            if prompt.n_tokens > self.max_tokens:
                name = log.impressions["impression_id"][i].as_py()
                raise ValueError(
                    f"impression {name}: its prompt has {prompt.n_tokens} tokens, more than max_tokens = "
                    f"{self.max_tokens}; raise max_tokens or shorten its captions"
                )
            prompts.append(prompt)
        return prompts

    def _audience_prompt(self, title: int, profile: np.ndarray, watched: np.ndarray, artworks: np.ndarray):
        n = len(watched) if profile.any() else 0  # titles without a genre say nothing
        affinity = (n * profile / self._average + PSEUDO_TITLES) / (n + PSEUDO_TITLES)
        posters = [self._poster(k) for k in artworks]
        return AudiencePrompt(self._frame, posters, self.genres, self._average, affinity, self.sample)

    def _caption_prompt(self, title: int, profile: np.ndarray, watched: np.ndarray, artworks: np.ndarray):
        after = self._special(f".{self._after}")
        return CaptionPrompt(
            trunk=self._pieces.first(f"{self._before}Describe a poster of a film"),
            general=after,
            member=self._member(profile, watched) + after,
            captions=[self._caption(k) for k in artworks],
        )

    def _reasoned_prompt(self, title: int, profile: np.ndarray, watched: np.ndarray, artworks: np.ndarray):
        question = self._label_prompt(title, profile, watched, artworks)
        tail = self._special(f"\nSay why, then answer with its letter.{self._after}")
        return ReasonedPrompt(question.head, question.options, question.letters, tail, question.labels)

    def question(self, prompt: LabelPrompt, order: np.ndarray) -> str:
        """A question as plain text, without chat markers."""
        text = self._tokenizer.decode(prompt.ids(order))  # in which markers may have got spaces
        end = "with its letter."
        return text[text.index("A viewer") : text.rindex(end) + len(end)]

    def completion(self, text: str) -> list[int]:
        """Token ids of a reasoned answer, with the end of the turn."""
        return [*self._answer(text), self._tokenizer.eos_token_id]

    def _label_prompt(self, title: int, profile: np.ndarray, watched: np.ndarray, artworks: np.ndarray):
        if len(artworks) > len(LABELS):
            raise ValueError(f"{len(artworks)} candidates, but only {len(LABELS)} letters; use prompt=caption")
        genres = ", ".join(self._title_genres[title])
        film = self._encode(f" {self._names[title]}" + (f" ({genres})" if genres else ""))
        return LabelPrompt(
            head=self._pieces.first(f"{self._before}A viewer")
            + self._member(profile, watched)
            + self._encode(" may watch this film:") + film
            + self._encode("\nWhich poster would make the viewer play it?"),
            options=[self._caption(k) for k in artworks],
            letters=self._letters,
            tail=self._special(f"\nReply with its letter.{self._after}{ANSWER}"),
            labels=self._labels[: len(artworks)],
        )  # fmt: skip

    def _member(self, profile: np.ndarray, watched: np.ndarray) -> list[int]:
        """A member's summary within its budget: top genres by weight, then the most recent titles that fit."""
        top = [genre for genre in np.argsort(-profile, kind="stable")[: self.n_genres] if profile[genre] > 0]
        if not top:
            return self._encode(" for a new viewer" if self.method == "caption" else " who is new")
        # A small model reads percentages as noise; to it, the order alone says which genre weighs most.
        weights = self.method != "caption"
        loves = ", ".join(self._genres[g] + (f" ({100 * profile[g]:.0f} %)" if weights else "") for g in top)
        lead = " for a viewer who loves" if self.method == "caption" else " who loves"
        ids = self._encode(f"{lead} {loves}")
        fitted = 0
        recent = watched[: self.n_recent]
        for place, title in enumerate(recent):
            more = self._encode(f"{', and lately watched' if place == 0 else ';'} {self._names[title]}")
            if len(ids) + len(more) > self.history_tokens:
                break
            ids, fitted = ids + more, fitted + 1
        self.shortened += fitted < len(recent)
        return ids

    def _caption(self, artwork: int) -> list[int]:
        if artwork not in self._caption_ids:
            lead = " " if self.method != "caption" or not self._after.endswith("\n") else ""
            encode = self._answer if self.method == "caption" else self._encode
            self._caption_ids[artwork] = encode(lead + self._captions[artwork])
        return self._caption_ids[artwork]

    def _poster(self, artwork: int) -> list[int]:
        if artwork not in self._poster_ids:
            caption = self._encode(f" {self._captions[artwork]}")
            self._poster_ids[artwork] = caption + self._after_poster
        return self._poster_ids[artwork]

    def _encode(self, text: str) -> list[int]:
        """Token ids of text from a log, which goes on from other text: never a special token."""
        return self._pieces.next(text)

    def _special(self, text: str) -> list[int]:
        """Token ids of this file's own text, in which chat markers mean what they say."""
        return self._pieces.next(text, special=True)


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


def decode(prompt: Prompt, tokenizer) -> str:
    """A prompt as text: the question, with the first candidate where they are asked about one by one."""
    if isinstance(prompt, LabelPrompt):
        return tokenizer.decode(prompt.ids(np.arange(len(prompt.options))))
    if isinstance(prompt, CaptionPrompt):
        return tokenizer.decode(prompt.trunk + prompt.member + prompt.captions[0])
    order = np.argsort(-prompt.affinity, kind="stable")
    names = [f"{tokenizer.decode(prompt.genres[g])} (x{prompt.affinity[g]:.1f})" for g in order]
    shown = [*names[:3], " ...", *names[-2:]] if len(names) > 5 else names
    return f"{tokenizer.decode(prompt.frame + prompt.posters[0])} ... [{','.join(shown)}]"


def telling_names(names: list[str]) -> list[str]:
    """Each name's fewest leading words with which no other name begins; the whole name where there are none."""
    words = [name.split() for name in names]

    def shortest(i: int) -> list[str]:
        lengths = range(1, len(words[i]))
        unique = (n for n in lengths if sum(other[:n] == words[i][:n] for other in words) == 1)
        return words[i][: next(unique, len(words[i]))]

    return [" ".join(shortest(i)) for i in range(len(names))]


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


def label_token(tokenizer, letter: str) -> int:
    """The id of " A", with its space: the prompt ends without one.

    Raises:
        ValueError: it is more than one token, so that one forward pass could not score it.
    """
    ids = Pieces(tokenizer).next(f" {letter}")
    if len(ids) != 1:
        raise ValueError(f"' {letter}' is {len(ids)} tokens for this tokenizer, not one; use prompt=caption")
    return ids[0]


def parse(answer: str) -> str | None:
    """The letter of an answer whose last line is "Answer: X" and nothing else; None for any other."""
    match = re.fullmatch(rf"{ANSWER} ([{LABELS}])", answer.strip().rpartition("\n")[2].strip())
    return match.group(1) if match else None


def audit(prompts: list[Prompt], reader: Reader) -> dict:
    """Token lengths of prompts: how long, how near the limit, how many histories were shortened to fit."""
    lengths = np.array([prompt.n_tokens for prompt in prompts])
    return {
        "prompts": len(lengths),
        "median_tokens": float(np.median(lengths)),
        "p95_tokens": float(np.percentile(lengths, 95)),
        "longest_tokens": int(lengths.max()),
        "max_tokens": reader.max_tokens,
        "shortened_histories": reader.shortened,
    }
