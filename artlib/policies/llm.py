"""The language model as a policy: bare (zero-shot), or with an adapter."""

import os
from collections.abc import Sequence

import numpy as np

from artlib.data import Log
from artlib.lm import generation, model, prompts
from artlib.lm.prompts.reasoned import self_consistency_scores
from artlib.posttrain.examples import reader_for
from artlib.posttrain.settings import Settings


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
    which = settings.base, adapter, settings.dtype, settings.load_in_4bit, settings.max_tokens
    if prompts.find(settings.prompt).written:
        with generation.writer(*which, settings.max_new_tokens, settings.seed) as (tokenizer, write, batch):
            questions = reader_for(log, tokenizer, settings, frame).read(impressions)
            budget = settings.samples, settings.max_new_tokens, settings.seed
            return self_consistency_scores(write, questions, *budget, batch)[0]
    language_model, tokenizer = model.load(*which)
    return prompts.score(language_model, reader_for(log, tokenizer, settings, frame).read(impressions))
