"""The form `member-likelihood`: how likely is this member's text, given the artwork? Caption and member are read
together, the history as a query, the artwork as a document (query likelihood; Ponte and Croft 1998)."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch

from artlib.data.contract import one_line
from artlib.data.history import affinities
from artlib.lm.forward import MASKED_SCORE, leaf_log_probabilities, leaf_table
from artlib.lm.prompts.text import PromptForm, Reader, leading_ids
from artlib.lm.tree import Tree, collate_trees, lay_out

PACKED = 1024  # tokens of a tree of several members


@dataclasses.dataclass(frozen=True)
class MemberPrompt:
    """One impression: a tree whose roots are the candidates' captions, and whose leaf is the member.

    frame -> caption 1 -> member
          -> ...
          -> caption K -> member

    Members who are asked about the same candidates are leaves of the same tree, up to a size: captions are read once.

    Attributes:
        frame: token ids of what stands before every caption.
        posters: token ids of each candidate's caption, and what stands between it and the member.
        member: token ids of the member's own text.
    """

    form: ClassVar[str] = "member-likelihood"
    frame: list[int]
    posters: list[list[int]]
    member: list[int]

    @property
    def n_tokens(self) -> int:
        """The length of the flattened tree."""
        return len(self.frame) + sum(map(len, self.posters)) + len(self.posters) * (len(self.member) - 1)


class MemberReader(Reader):
    """The member's text: the genres of which the member watches more than others, most first, then the synopses of the
    most recent titles, as many as fit."""

    def __init__(self, log, *arguments, **options):
        super().__init__(log, *arguments, **options)
        self._average = log.background.average
        self._synopses = log.titles["synopsis"].to_pylist()
        self._told = {}
        # Without chat markers, as `genre-likelihood`.
        self._frame = [*leading_ids(self._tokenizer), *self._pieces.first("A film poster shows this:")]
        self._after_poster = self._special("\nIt appeals to fans of")
        self._nobody = self._encode(" films.")

    def _prompt(self, title: int, profile: np.ndarray, watched: np.ndarray, artworks: np.ndarray) -> MemberPrompt:
        return MemberPrompt(self._frame, [self._artwork(k) for k in artworks], self._text(profile, watched))

    def _text(self, profile: np.ndarray, watched: np.ndarray) -> list[int]:
        affinity = affinities(profile, np.array(len(watched)), self._average)
        top = [g for g in np.argsort(-affinity, kind="stable")[: self.n_genres] if affinity[g] > 1]
        ids = self._encode(f" {', '.join(self._genres[g] for g in top)}.") if top else []
        recent, fitted = watched[: self.n_recent], 0
        for title in recent:
            more = self._synopsis(int(title))
            if len(ids) + len(more) > self.history_tokens:
                break
            ids, fitted = ids + more, fitted + 1
        self.shortened += fitted < len(recent)
        return ids or self._nobody

    def _synopsis(self, title: int) -> list[int]:
        if title not in self._told:
            self._told[title] = self._encode(f" {self._names[title]}: {one_line(self._synopses[title])}")
        return self._told[title]

    def _encode_artwork(self, caption: str) -> list[int]:
        return self._encode(f" {caption}") + self._after_poster


def groups(prompts: Sequence[MemberPrompt]) -> list[list[int]]:
    """Rows that share a tree: those of the same candidates, in chunks of about `PACKED` tokens."""
    found: list[list[int]] = []
    last: dict[tuple, int] = {}
    size: list[int] = []
    for row, prompt in enumerate(prompts):
        key = tuple(map(tuple, prompt.posters))
        more = len(prompt.posters) * (len(prompt.member) - 1)
        if key not in last or size[last[key]] + more > PACKED:
            last[key] = len(found)
            found.append([])
            size.append(prompt.n_tokens - more)
        found[last[key]].append(row)
        size[last[key]] += more
    return found


def tree(prompts: Sequence[MemberPrompt]) -> Tree:
    """Captions as roots, the members of some impressions with the same candidates as leaves."""
    return lay_out(prompts[0].frame, prompts[0].posters, [prompt.member for prompt in prompts])


class MemberLikelihood(PromptForm):
    """score(c) = log p(the member's text | caption c), in nats, summed over its tokens.

    What all captions make equally likely cancels in the softmax over a title's candidates. The sum over many tokens is
    far too sure of itself for a choice: in training it is divided by `temperature`, in deciding by the fitted one.
    """

    name = "member-likelihood"
    meaning = "the model reads a caption, then the member; the caption that makes the member likeliest wins"
    reader = MemberReader

    def decode(self, prompt: MemberPrompt, tokenizer) -> str:
        return tokenizer.decode(prompt.frame + prompt.posters[0] + prompt.member)

    def tree(self, prompt: MemberPrompt) -> Tree:
        return tree([prompt])

    def collate(self, prompts: Sequence[MemberPrompt], orders=None) -> dict[str, torch.Tensor]:
        shared = groups(prompts)
        at = np.array([(b, leaf) for row, (b, leaf) in sorted(_places(shared).items())])
        counts = np.array([len(prompt.posters) for prompt in prompts])
        batch = collate_trees([tree([prompts[row] for row in rows]) for rows in shared])
        return batch | {
            "tree": torch.from_numpy(at[:, 0]),
            "member": torch.from_numpy(at[:, 1]),
            "mask": torch.from_numpy(np.arange(counts.max()) < counts[:, None]),
        }

    def candidate_scores(self, model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        table = leaf_log_probabilities(model, batch)  # (B, R, L)
        return table[batch["tree"], :, batch["member"]].masked_fill(~batch["mask"], MASKED_SCORE)

    def score(self, model, prompts: Sequence[MemberPrompt], batch_tokens: int) -> np.ndarray:
        shared = groups(prompts)
        counts = np.array([len(prompt.posters) for prompt in prompts])
        sizes = [len(prompts[rows[0]].frame) + sum(map(len, prompts[rows[0]].posters)) for rows in shared]
        lengths = [
            size + sum(len(prompts[row].posters) * (len(prompts[row].member) - 1) for row in rows)
            for size, rows in zip(sizes, shared, strict=True)
        ]
        made = [functools.partial(tree, [prompts[row] for row in rows]) for rows in shared]
        table = leaf_table(model, made, lengths, (counts.max(), max(map(len, shared))), batch_tokens, "members")
        scores = np.full((len(prompts), counts.max()), -np.inf)
        for row, (b, leaf) in _places(shared).items():
            scores[row, : counts[row]] = table[b, : counts[row], leaf]
        return scores


def _places(shared: list[list[int]]) -> dict[int, tuple[int, int]]:
    """Row -> which tree it is in, and which leaf it is there."""
    return {row: (b, leaf) for b, rows in enumerate(shared) for leaf, row in enumerate(rows)}


FORM = MemberLikelihood()
