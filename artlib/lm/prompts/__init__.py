"""Prompt forms: one file each, in the registry `PROMPTS`.

text.py what they share · genre_likelihood.py, appeal.py, caption.py, member_likelihood.py, clause_topics.py, label.py,
reasoned.py the forms.
"""

import difflib
import importlib
from collections.abc import Sequence

import numpy as np

from artlib.data import Log
from artlib.lm.prompts.text import Prompt, PromptForm, Reader

# Name -> the module of this folder that holds the form as `FORM`, which is imported when it is asked for; or a form.
PROMPTS: dict[str, str | PromptForm] = {
    "genre-likelihood": "genre_likelihood",
    "appeal": "appeal",
    "caption": "caption",
    "member-likelihood": "member_likelihood",
    "clause-topics": "clause_topics",
    "label": "label",
    "reasoned": "reasoned",
}


def find(name: str) -> PromptForm:
    """The form of a name.

    Raises:
        ValueError: there is none.
    """
    found = PROMPTS.get(name)
    if found is None:
        near = difflib.get_close_matches(name, PROMPTS, n=1)
        hint = f", did you mean {near[0]}?" if near else ""
        raise ValueError(f"prompt {name!r} is not one of {', '.join(PROMPTS)}{hint}")
    return importlib.import_module(f"{__name__}.{found}").FORM if isinstance(found, str) else found


def register(form: PromptForm) -> PromptForm:
    """Add a form that is not in this folder, for the time of this process."""
    PROMPTS[form.name] = form
    return form


def form_of(prompts: Sequence[Prompt]) -> PromptForm:
    """The form of prompts, which are all of one.

    Raises:
        ValueError: there are none.
    """
    if not len(prompts):
        raise ValueError("no prompts: there is no impression to ask about")
    return find(prompts[0].form)


def reader(log: Log, tokenizer, form: str = "genre-likelihood", **budget) -> Reader:
    """What turns impressions into prompts of a form; `budget` as of `text.Reader`."""
    return find(form).reader(log, tokenizer, **budget)


def decode(prompt: Prompt, tokenizer) -> str:
    """A prompt as text: the question, with the first candidate where they are asked about one by one."""
    return form_of([prompt]).decode(prompt, tokenizer)


def collate(prompts: Sequence[Prompt], orders: Sequence[np.ndarray] | None = None) -> dict:
    """A batch of tensors, see `PromptForm.collate`."""
    return form_of(prompts).collate(prompts, orders)


def score(model, prompts: Sequence[Prompt], batch_tokens: int = 2048, form: PromptForm | None = None) -> np.ndarray:
    """Score the candidates of many impressions, to decide by; what they share is asked once.

    Args:
        model: a causal LM; put into evaluation mode.
        prompts: of n impressions, all of one form.
        batch_tokens: at most so many tokens, padding included, in a forward pass (a longer prompt goes alone).
        form: the prompts' own, where it is one that remembers.

    Returns:
        (n, K) float64 scores, the log-odds, up to a constant, with which the model would choose a candidate; -inf where
        padded.
    """
    return (form or form_of(prompts)).score(model.eval(), prompts, batch_tokens)


def score_as_trained(
    model, prompts: Sequence[Prompt], orders: Sequence[np.ndarray] | None = None, batch_tokens: int = 2048
) -> np.ndarray:
    """(n, K) the scores that training works with; for lettered forms those of one order of the options."""
    return form_of(prompts).score_as_trained(model.eval(), prompts, orders, batch_tokens)


def score_both_ways(
    model, prompts: Sequence[Prompt], orders: Sequence[np.ndarray] | None = None, batch_tokens: int = 2048
) -> tuple[np.ndarray, np.ndarray]:
    """`score_as_trained` and `score`, from the same answers where they can be had from the same."""
    return form_of(prompts).score_both_ways(model.eval(), prompts, orders, batch_tokens)


def audit(prompts: Sequence[Prompt], reader: Reader) -> dict:
    """Token lengths of prompts: how long, how near the limit, how many histories were shortened to fit, of all that the
    reader has read."""
    lengths = np.array([prompt.n_tokens for prompt in prompts])
    return {
        "prompts": len(lengths),
        "median_tokens": float(np.median(lengths)),
        "p95_tokens": float(np.percentile(lengths, 95)),
        "longest_tokens": int(lengths.max()),
        "max_tokens": reader.max_tokens,
        "shortened_histories": reader.shortened,
    }
