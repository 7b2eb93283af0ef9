"""The language model as a policy: bare (zero-shot), or with an adapter."""

import contextlib
import functools
import os
from collections.abc import Sequence

import numpy as np

from artlib.data import Log
from artlib.lm import generation, model, prompts
from artlib.lm.prompts.reasoned import self_consistency_scores
from artlib.posttrain.examples import reader_for
from artlib.posttrain.settings import Settings


class LanguageModel:
    """A language model that is loaded once and asked about the impressions of any log.

    Args:
        settings: what it is, and how it is asked.
        adapter: folder of a post-trained one; None for the bare model.
        frame: see `examples.reader_for`.
        remembers: whether what it says of an artwork is kept, for forms that ask whatever the member is.
    """

    def __init__(
        self,
        settings: Settings,
        adapter: str | os.PathLike | None = None,
        frame: Sequence[str] | None = None,
        remembers: bool = False,
    ):
        self.settings, self.frame = settings, frame
        form = prompts.find(settings.prompt)
        self._closing = contextlib.ExitStack()
        which = settings.base, adapter, settings.dtype, settings.load_in_4bit, settings.max_tokens
        if form.written:
            writer = generation.writer(*which, settings.max_new_tokens, settings.seed)
            self._tokenizer, write, batch = self._closing.enter_context(writer)
            self._score = functools.partial(self._votes, write, batch)
        else:
            language_model, self._tokenizer = model.load(*which)
            form = form.remembering() if remembers else form
            self._score = functools.partial(prompts.score, language_model, form=form)

    def scores(self, log: Log, impressions: Log) -> np.ndarray:
        """(n, K) of impressions, -inf where padded.

        Args:
            log: where titles, artworks and histories come from, and the `background`.
        """
        return self._score(reader_for(log, self._tokenizer, self.settings, self.frame).read(impressions))

    def _votes(self, write, batch: int, questions: list) -> np.ndarray:
        budget = self.settings.samples, self.settings.max_new_tokens, self.settings.seed
        return self_consistency_scores(write, questions, *budget, batch)[0]

    def close(self) -> None:
        """Give back what it holds."""
        self._closing.close()


def llm_scores(
    log: Log,
    impressions: Log,
    settings: Settings,
    adapter: str | os.PathLike | None,
    frame: Sequence[str] | None = None,
) -> np.ndarray:
    """(n, K) scores of the LLM with an adapter, or of the bare model (zero-shot).

    Args:
        frame: see `examples.reader_for`.
    """
    with contextlib.closing(LanguageModel(settings, adapter, frame)) as language_model:
        return language_model.scores(log, impressions)
