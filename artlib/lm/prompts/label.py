"""The form `label`, the paper's: a multiple-choice question; the letter of an option is the answer."""

import dataclasses
import string
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import torch

from artlib.lm.forward import MASKED_SCORE, batched, keeps_beginnings, logits_after, logits_at, to_device_of
from artlib.lm.prompts.text import Pieces, PromptForm, Reader
from artlib.lm.tree import padded

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
        return self.head + self.rest(order)

    def rest(self, order: np.ndarray) -> list[int]:
        """The question after its head, which is the same whatever the order."""
        lines = (token for letter, k in enumerate(order) for token in self.letters[letter] + self.options[k])
        return [*lines, *self.tail]

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


def collate_labels(
    prompts: Sequence[LabelPrompt], orders: Sequence[np.ndarray], begun: bool = False
) -> dict[str, torch.Tensor]:
    """A batch of B multiple-choice questions, padded on the right to T tokens.

    Args:
        prompts: B questions.
        orders: for each, the candidate under each letter.
        begun: whether heads are left out.

    Returns:
        input_ids, attention_mask: (B, T).
        last: (B,) place, in the flattened (B * T), of the token after which the label is expected.
        labels: (B, K) label token of each *candidate* under its order; 0 where padded.
        mask: (B, K) True where there is a candidate.
    """
    asked = list(zip(prompts, orders, strict=True))
    rows = [prompt.rest(order) if begun else prompt.ids(order) for prompt, order in asked]
    batch, most = padded(rows), max(map(len, orders))
    labels, mask = np.zeros((len(rows), most), dtype=np.int64), np.zeros((len(rows), most), dtype=bool)
    for b, (prompt, order) in enumerate(asked):
        labels[b, order] = prompt.labels
        mask[b, : len(order)] = True
    width = batch["input_ids"].shape[1]
    last = np.array([b * width + len(row) - 1 for b, row in enumerate(rows)])
    return batch | {name: torch.from_numpy(a) for name, a in (("last", last), ("labels", labels), ("mask", mask))}


def label_scores(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """log p(label of c | question) among the labels offered: (B, K) in float32, `MASKED_SCORE` where padded."""
    return _among_labels(logits_at(model, batch, batch["last"]), batch)


def _among_labels(logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    offered = logits.float().gather(1, batch["labels"])
    return offered.masked_fill(~batch["mask"], MASKED_SCORE).log_softmax(dim=1)


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
    turns = np.full((len(prompts), counts.max(), counts.max()), np.nan)
    if keeps_beginnings(model):
        for i, own, scores in _begun_once(model, prompts, batch_tokens):
            turns[i, own, : counts[i]], turns[i, own, counts[i] :] = scores, -np.inf
    else:
        rows, places = np.array([(i, turn) for i, k in enumerate(counts) for turn in range(k)]).T
        orders = [_rotated(prompts[i], turn) for i, turn in zip(rows, places, strict=True)]
        turns[rows, places] = question_scores(model, [prompts[i] for i in rows], orders, batch_tokens)
    return turns


def _begun_once(
    model, prompts: Sequence[LabelPrompt], batch_tokens: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(row, (t,) rotations, (t, K) log-probabilities), the head computed once for as many rotations as fit."""
    asked, lengths = [], []
    for i, prompt in enumerate(prompts):
        k, after_head = len(prompt.options), prompt.n_tokens - len(prompt.head)
        parts = np.array_split(np.arange(k), min(k, -(-k * after_head // batch_tokens)))
        asked += [(i, own) for own in parts]
        lengths += [len(prompt.head) + len(own) * after_head for own in parts]

    def forward(rows: list[int]) -> torch.Tensor:
        part = [prompts[asked[row][0]] for row in rows]
        of = [b for b, row in enumerate(rows) for _ in asked[row][1]]
        own = [part[b] for b in of]
        rotations = np.concatenate([asked[row][1] for row in rows])
        orders = [_rotated(prompt, turn) for prompt, turn in zip(own, rotations, strict=True)]
        batch = to_device_of(model, collate_labels(own, orders, begun=True) | {"of": torch.tensor(of)})
        heads = to_device_of(model, padded([prompt.head for prompt in part]))
        scores = _among_labels(logits_after(model, heads, batch["of"], batch, batch["last"]), batch)
        table = scores.new_zeros(len(rows), max(len(asked[row][1]) for row in rows), scores.shape[1])
        table[of, [place for row in rows for place in range(len(asked[row][1]))]] = scores
        return table

    shape = max(len(own) for _, own in asked), max(len(prompt.options) for prompt in prompts)
    found = batched(forward, lengths, shape, batch_tokens, "questions")
    for (i, own), scores in zip(asked, found, strict=True):
        yield i, own, scores[: len(own), : len(prompts[i].options)]


def _rotated(prompt: LabelPrompt, turn: int) -> np.ndarray:
    return np.roll(np.arange(len(prompt.options)), turn)


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
