"""The form `caption`: how much likelier is a caption if the poster was chosen for this member?"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch

from artlib.lm.forward import MASKED_SCORE, leaf_log_probabilities, leaf_table
from artlib.lm.prompts.text import PromptForm, Reader
from artlib.lm.tree import Tree, collate_trees, lay_out

BOTH = ("general", "member")


@dataclasses.dataclass(frozen=True)
class CaptionPrompt:
    """One impression: a tree whose leaves are the candidates' captions.

    trunk -> general -> caption 1 .. K      what a poster shows, whoever looks
          -> member  -> caption 1 .. K      what it shows if it is chosen for this member

    The title is not in it: all candidates are of the same title, and plainer prompts suited the embedded model better.
    """

    form: ClassVar[str] = "caption"
    trunk: list[int]
    general: list[int]
    member: list[int]
    captions: list[list[int]]

    @property
    def n_tokens(self) -> int:
        """The length of the flattened tree."""
        captions = sum(map(len, self.captions))
        return len(self.trunk) + len(self.general) + len(self.member) + 2 * captions


def tree(prompt: CaptionPrompt, roots: Sequence[str] = BOTH) -> Tree:
    """Every caption as a leaf, once for each root: "general", "member" or both."""
    return lay_out(prompt.trunk, [getattr(prompt, name) for name in roots], prompt.captions)


class CaptionReader(Reader):
    # A small model reads percentages as noise; to it, the order alone says which genre weighs most.
    _new, _loves, _weighed = " for a new viewer", " for a viewer who loves", False

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self._answer = self._pieces.after(self._after)

    def _prompt(self, title: int, profile: np.ndarray, watched: np.ndarray, artworks: np.ndarray) -> CaptionPrompt:
        after = self._special(f".{self._after}")
        return CaptionPrompt(
            trunk=self._pieces.first(f"{self._before}Describe a poster of a film"),
            general=after,
            member=self._member(profile, watched) + after,
            captions=[self._artwork(k) for k in artworks],
        )

    def _encode_artwork(self, caption: str) -> list[int]:
        return self._answer(("" if self._after.endswith("\n") else " ") + caption)


def caption_scores(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """score(c) = log p(c | member) - log p(c), in nats, summed over the caption's tokens.

    The difference is the pointwise mutual information of caption and member: a caption that is likely for everybody,
    because it is short or plain, gains nothing by it.

    Args:
        model: a causal LM, with or without adapters.
        batch: from `collate_trees`, both roots.

    Returns:
        (B, K) scores in float32; `MASKED_SCORE` where padded.
    """
    captions = leaf_log_probabilities(model, batch)
    return (captions[:, 1] - captions[:, 0]).masked_fill(~batch["leaves"], MASKED_SCORE)


class Caption(PromptForm):
    name = "caption"
    meaning = "the model reads the member's top genres and scores every caption, less its score for anybody"
    reader = CaptionReader

    def decode(self, prompt: CaptionPrompt, tokenizer) -> str:
        return tokenizer.decode(prompt.trunk + prompt.member + prompt.captions[0])

    def tree(self, prompt: CaptionPrompt) -> Tree:
        return tree(prompt)

    def collate(self, prompts: Sequence[CaptionPrompt], orders=None) -> dict[str, torch.Tensor]:
        batch = collate_trees([tree(prompt) for prompt in prompts])
        return batch | {"mask": batch["leaves"]}

    def candidate_scores(self, model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return caption_scores(model, batch)

    def score(self, model, prompts: Sequence[CaptionPrompt], batch_tokens: int) -> np.ndarray:
        """What the model says of a caption in general is asked once, however many impressions have it."""
        sets: dict = {}
        which = [sets.setdefault((tuple(p.trunk), *map(tuple, p.captions)), len(sets)) for p in prompts]
        one_each = [prompts[row] for row in np.unique(which, return_index=True)[1]]
        most = max(len(p.captions) for p in prompts)
        general, member = (
            leaf_table(
                model,
                [functools.partial(tree, p, (root,)) for p in part],
                [len(p.trunk) + len(getattr(p, root)) + sum(map(len, p.captions)) for p in part],
                (1, most),
                batch_tokens,
                what,
            )[:, 0]
            for part, root, what in ((one_each, "general", "captions"), (prompts, "member", "members"))
        )
        counts = np.array([len(p.captions) for p in prompts])
        return np.where(np.arange(most) < counts[:, None], member - general[which], -np.inf)


FORM = Caption()
