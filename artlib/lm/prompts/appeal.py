"""The form `appeal`: would you click? For logs without histories: no member is read.

One pass of a caption does for all impressions that have it, as in `genre_likelihood`, whose trees it has: captions for
posters, and for names of genres the two answers.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch

from artlib.lm.forward import MASKED_SCORE
from artlib.lm.prompts.genre_likelihood import (
    collate_posters,
    genre_table,
    genre_tree,
    poster_answers,
    unique_posters,
)
from artlib.lm.prompts.text import PromptForm, Reader, leading_ids
from artlib.lm.tree import Tree


@dataclasses.dataclass(frozen=True)
class AppealPrompt:
    """One impression.

    Attributes:
        frame: token ids of what stands before every caption.
        posters: token ids of each candidate's caption and the question about it; the same list for the same artwork.
        answers: token ids of yes and of no.
    """

    form: ClassVar[str] = "appeal"
    frame: list[int]
    posters: list[list[int]]
    answers: list[list[int]]

    @property
    def n_tokens(self) -> int:
        """The length of the longest candidate's tree."""
        return len(self.frame) + max(map(len, self.posters)) + sum(map(len, self.answers))


class AppealReader(Reader):
    def __init__(self, log, *arguments, **options):
        super().__init__(log, *arguments, **options)
        self._frame = [*leading_ids(self._tokenizer), *self._pieces.first("People see this:")]
        self._question = self._special("\nWould you click?")
        self._answers = [self._special(answer) for answer in (" Yes", " No")]

    def _prompt(self, title: int, profile: np.ndarray, watched: np.ndarray, artworks: np.ndarray) -> AppealPrompt:
        return AppealPrompt(self._frame, [self._artwork(k) for k in artworks], self._answers)

    def _encode_artwork(self, caption: str) -> list[int]:
        return self._encode(f" {caption}") + self._question


class Appeal(PromptForm):
    """score(c) = log p(yes | caption c) - log p(no | caption c), the log-odds of the answer, in nats."""

    name = "appeal"
    meaning = "the model reads a caption alone, and says whether it would click"
    reader = AppealReader
    summarised = False
    by_title = True

    def decode(self, prompt: AppealPrompt, tokenizer) -> str:
        return tokenizer.decode(prompt.frame + prompt.posters[0] + prompt.answers[0])

    def tree(self, prompt: AppealPrompt) -> Tree:
        """Two of its captions, as they are packed."""
        return genre_tree(prompt.frame, prompt.posters[:2], prompt.answers)

    def collate(self, prompts: Sequence[AppealPrompt], orders=None) -> dict[str, torch.Tensor]:
        return collate_posters(prompts, prompts[0].answers)

    def candidate_scores(self, model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        yes, no = poster_answers(model, batch).unbind(dim=2)
        return (yes - no).masked_fill(~batch["mask"], MASKED_SCORE)

    def score(self, model, prompts: Sequence[AppealPrompt], batch_tokens: int) -> np.ndarray:
        posters, poster, mask = unique_posters(prompts)
        yes, no = genre_table(model, posters, prompts[0].frame, prompts[0].answers, batch_tokens, self.known).T
        return np.where(mask, (yes - no)[poster], -np.inf)


FORM = Appeal()
