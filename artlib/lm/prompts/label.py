"""The form `label`, the paper's: a multiple-choice question; the letter of an option is the answer."""

import dataclasses
import string
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch

from artlib.lm.forward import MASKED_SCORE, batched, logits_at, to_device_of
from artlib.lm.prompts.text import Pieces, PromptForm, Reader
from artlib.lm.tree import bucket

LABELS = string.ascii_uppercase
ANSWER = "Answer:"
FEW = 32  # questions by which the sensitivity to the order of the options is seen


@dataclasses.dataclass(frozen=True)
class LabelPrompt:
    """One impression: a multiple-choice question.

    Attributes:
        head: token ids up to the options.
        options: token ids of each candidate's caption line without its letter, in the log's order.
        letters: token ids of the lines' beginnings, "A." and so on.
        tail: token ids from the options' end to where the label is expected.
        labels: one token id a candidate: " A" and so on.
    """

    form: ClassVar[str] = "label"
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


class LabelReader(Reader):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self._letters = [self._encode(f"\n{letter}.") for letter in LABELS]
        self._labels = [label_token(self._tokenizer, letter) for letter in LABELS]

    def _prompt(self, title: int, profile: np.ndarray, watched: np.ndarray, artworks: np.ndarray) -> LabelPrompt:
        if len(artworks) > len(LABELS):
            raise ValueError(f"{len(artworks)} candidates, but only {len(LABELS)} letters; use prompt=caption")
        genres = ", ".join(self._title_genres[title])
        film = self._encode(f" {self._names[title]}" + (f" ({genres})" if genres else ""))
        head = self._pieces.first(f"{self._before}A viewer") + self._member(profile, watched)
        head += self._encode(" may watch this film:") + film
        return LabelPrompt(
            head=head + self._encode("\nWhich poster would make the viewer play it?"),
            options=[self._artwork(k) for k in artworks],
            letters=self._letters,
            tail=self._special(f"\nReply with its letter.{self._after}{ANSWER}"),
            labels=self._labels[: len(artworks)],
        )

    def question(self, prompt: LabelPrompt, order: np.ndarray) -> str:
        """A question as plain text, without chat markers."""
        text = self._tokenizer.decode(prompt.ids(order))  # in which markers may have got spaces
        end = "with its letter."
        return text[text.index("A viewer") : text.rindex(end) + len(end)]


def label_token(tokenizer, letter: str) -> int:
    """The id of " A", with its space: the prompt ends without one.

    Raises:
        ValueError: it is more than one token, so that one forward pass could not score it.
    """
    ids = Pieces(tokenizer).next(f" {letter}")
    if len(ids) != 1:
        raise ValueError(f"' {letter}' is {len(ids)} tokens for this tokenizer, not one; use prompt=caption")
    return ids[0]


def collate_labels(prompts: Sequence[LabelPrompt], orders: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
    """A batch of B multiple-choice questions, padded on the right to T tokens.

    Args:
        prompts: B questions.
        orders: for each, the candidate under each letter.

    Returns:
        input_ids, attention_mask: (B, T).
        last: (B,) index of the token after which the label is expected.
        labels: (B, K) label token of each *candidate* under its order; 0 where padded.
        mask: (B, K) True where there is a candidate.
    """
    rows = [prompt.ids(order) for prompt, order in zip(prompts, orders, strict=True)]
    width, most = bucket(max(map(len, rows))), max(map(len, orders))
    ids, attend = np.zeros((2, len(rows), width), dtype=np.int64)
    labels, mask = np.zeros((len(rows), most), dtype=np.int64), np.zeros((len(rows), most), dtype=bool)
    for b, (prompt, order) in enumerate(zip(prompts, orders, strict=True)):
        ids[b, : len(rows[b])], attend[b, : len(rows[b])] = rows[b], 1
        labels[b, order] = prompt.labels
        mask[b, : len(order)] = True
    last = np.array([len(row) - 1 for row in rows])
    batch = {"input_ids": ids, "attention_mask": attend, "last": last, "labels": labels, "mask": mask}
    return {key: torch.from_numpy(value) for key, value in batch.items()}


def label_scores(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """log p(label of c | question) among the labels offered: (B, K) in float32, `MASKED_SCORE` where padded."""
    rows, width = batch["input_ids"].shape
    last = torch.arange(rows, device=batch["last"].device) * width + batch["last"]
    logits = logits_at(model, batch, last).float().gather(1, batch["labels"])
    return logits.masked_fill(~batch["mask"], MASKED_SCORE).log_softmax(dim=1)


def question_scores(
    model, prompts: Sequence[LabelPrompt], orders: Sequence[np.ndarray] | None = None, batch_tokens: int = 2048
) -> np.ndarray:
    """(n, K) log-probabilities of the candidates, each question asked in one order; -inf where padded."""

    def forward(rows: list[int]) -> torch.Tensor:
        part = [prompts[row] for row in rows]
        own = [orders[row] if orders else np.arange(len(prompts[row].options)) for row in rows]
        return label_scores(model, to_device_of(model, collate_labels(part, own)))

    counts = np.array([len(prompt.options) for prompt in prompts])
    flat = batched(forward, [prompt.n_tokens for prompt in prompts], (counts.max(),), batch_tokens, "questions")
    return np.where(np.arange(flat.shape[1]) < counts[:, None], flat, -np.inf)


def rotation_scores(model, prompts: Sequence[LabelPrompt], batch_tokens: int = 2048) -> np.ndarray:
    """(n, R, K) log-probabilities of the candidates, in the log's order, under each cyclic rotation of the options.

    R = K is the largest number of candidates; NaN for rotations that an impression with fewer does not have; -inf
    where padded.
    """
    counts = np.array([len(prompt.options) for prompt in prompts])
    rows, places = np.array([(i, turn) for i, k in enumerate(counts) for turn in range(k)]).T
    orders = [np.roll(np.arange(counts[i]), turn) for i, turn in zip(rows, places, strict=True)]
    turns = np.full((len(prompts), counts.max(), counts.max()), np.nan)
    turns[rows, places] = question_scores(model, [prompts[i] for i in rows], orders, batch_tokens)
    return turns


def order_sensitivity(turns: np.ndarray) -> float:
    """How far a choice depends on the order of the options: 0 not at all, towards 1 entirely.

    Args:
        turns: (n, R, K) from `rotation_scores`.

    Returns:
        The mean total variation distance of the choice under one rotation from the average over all.
    """
    p = np.exp(turns)
    return float(np.nanmean(np.abs(p - np.nanmean(p, axis=1, keepdims=True)).sum(axis=2) / 2))


class Label(PromptForm):
    name = "label"
    meaning = "the paper's multiple-choice question; one letter is the answer"
    reader: type[Reader] = LabelReader
    lettered = True

    def decode(self, prompt: LabelPrompt, tokenizer) -> str:
        return tokenizer.decode(prompt.ids(np.arange(len(prompt.options))))

    def collate(self, prompts: Sequence[LabelPrompt], orders=None) -> dict[str, torch.Tensor]:
        return collate_labels(prompts, orders or [np.arange(len(prompt.options)) for prompt in prompts])

    def candidate_scores(self, model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return label_scores(model, batch)

    def score(self, model, prompts: Sequence[LabelPrompt], batch_tokens: int) -> np.ndarray:
        """Asked once per cyclic rotation of the options, and averaged, so that no candidate gains by its place."""
        return np.nanmean(rotation_scores(model, prompts, batch_tokens), axis=1)

    def score_as_trained(self, model, prompts, orders, batch_tokens: int) -> np.ndarray:
        return question_scores(model, prompts, orders, batch_tokens)

    def score_both_ways(self, model, prompts, orders, batch_tokens: int) -> tuple[np.ndarray, np.ndarray]:
        deciding = self.score(model, prompts, batch_tokens)
        return self.score_as_trained(model, prompts, orders, batch_tokens), deciding

    def order_sensitivity(self, model, prompts) -> float | None:
        return order_sensitivity(rotation_scores(model.eval(), prompts[:FEW]))


FORM = Label()
