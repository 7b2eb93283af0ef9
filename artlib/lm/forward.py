"""A causal language model on batches of trees and questions: exact log-probabilities, each text computed once."""

import contextlib
import math
import weakref
from collections.abc import Callable, Sequence

import numpy as np
import torch
from tqdm import tqdm

from artlib.lm.tree import Tree, collate_trees, lay_out, padded
from artlib.lm.unsloth import ModelError

MASKED_SCORE = -1e9  # of a padded candidate: its probability is exactly 0, its gradient finite


def leaf_log_probabilities(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """(B, R, L) log p(leaf | trunk, root), summed over its tokens; 0 where padded."""
    log_p = _token_log_probabilities(model, batch)
    shape = *batch["roots"].shape, batch["leaves"].shape[1]
    leaves = torch.zeros(math.prod(shape), device=log_p.device).index_add(0, batch["leaf"], log_p)
    return leaves.view(shape)


def _token_log_probabilities(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """(M,) log p of each target token."""
    # In bf16 a log-softmax over 49,152 tokens would round away what captions differ by.
    log_p = logits_at(model, batch, batch["source"]).float().log_softmax(dim=1)
    place = batch["row"] * log_p.shape[1] + batch["target"]
    return log_p.flatten().gather(0, place)  # not log_p[row, target]: see `genre_likelihood.likelihood_scores`


def logits_at(model, batch: dict[str, torch.Tensor], at: torch.Tensor) -> torch.Tensor:
    """(U, V) the model's own logits at tokens `at` of the flattened (B * T).

    Raises:
        ModelError: the model does not read trees as it reads plain text, see `require_faithful`.
    """
    causal_lm = base_model(model)
    if causal_lm not in _FAITHFUL:
        require_faithful(causal_lm)
        _FAITHFUL.add(causal_lm)
    return _forward(model, batch, at)


_FAITHFUL = weakref.WeakSet()  # models that were seen to be


def require_faithful(causal_lm) -> None:
    """Make sure that `_forward` gives what plain forward passes of each branch alone give, on a few tokens.

    A model may take no mask of trees or no positions, look back through a window, keep a state, or have its head
    elsewhere; its scores would be wrong in silence.

    Raises:
        ModelError: names the model's class.
    """
    name = type(causal_lm).__name__
    rng, size = np.random.default_rng(0), causal_lm.config.get_text_config().vocab_size
    texts = [rng.integers(0, size, n).tolist() for n in (5, 2, 3, 3, 4)]
    trunk, general, member, *captions = texts
    trees = [lay_out(trunk, [general, member], captions[:n]) for n in (2, 1)]  # the second is padded
    training = causal_lm.training
    causal_lm.eval()
    try:
        with torch.no_grad():
            batch = to_device_of(causal_lm, collate_trees(trees))
            found = _forward(causal_lm, batch, batch["source"])[batch["row"]]
            alone = []
            for root, leaf in [(r, c) for n in (2, 1) for r in (general, member) for c in captions[:n]]:
                ids = torch.tensor([[*trunk, *root, *leaf]], device=found.device)
                alone.append(causal_lm(input_ids=ids, use_cache=False).logits[0, -len(leaf) - 1 : -1])
            plain = torch.cat(alone)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{name} cannot be scored ({type(error).__name__}: {error}); use another base") from error
    finally:
        causal_lm.train(training)
    if (off := _off(found, plain, causal_lm.dtype)) > 1:
        raise ModelError(
            f"{name} takes no tree of texts in one pass: its log-probabilities are off by {off:.1f} times what "
            "rounding may do; use another base"
        )


def _off(found: torch.Tensor, plain: torch.Tensor, dtype: torch.dtype) -> float:
    """How far log-probabilities are from those of plain passes, in multiples of what rounding may do; of logits
    (m, V) of a model of that type."""
    own, other = found.float().log_softmax(dim=1), plain.float().log_softmax(dim=1)
    off = float(((own - other).square().mean(dim=1).sqrt() / other.std(dim=1)).max())
    # In 16 bits the embedded model is off by 5 %; a model that does not heed the tree, by far more than 20 %.
    exact = dtype == torch.float32
    allowed = 0.001 if exact and plain.device.type == "cpu" else 0.01 if exact else 0.2  # a GPU has TF32
    return off / allowed if off == off else math.inf


def logits_after(model, beginnings: dict, of: torch.Tensor, rest: dict, at: torch.Tensor) -> torch.Tensor:
    """(U, V) logits at tokens `at` of the flattened (B * T), of B texts whose H beginnings are computed once.

    Args:
        beginnings: of `padded`: input_ids, attention_mask (H, W).
        of: (B,) which beginning a text has.
        rest: of `padded`: input_ids, attention_mask (B, T), what a text has after its beginning.

    Raises:
        ModelError: the model remembers something else than keys and values.
    """
    from transformers.cache_utils import DynamicCache, DynamicLayer

    cache = DynamicCache(config=base_model(model).config)
    seen, more = beginnings["attention_mask"], rest["attention_mask"]
    places = torch.arange(seen.shape[1], device=seen.device).expand_as(seen)
    first = {"input_ids": beginnings["input_ids"], "attention_mask": seen, "position_ids": places}
    _forward(model, first, torch.zeros_like(at[:1]), cache)  # for its keys and values
    if any(type(layer) is not DynamicLayer for layer in cache.layers):
        raise ModelError(f"{type(base_model(model)).__name__} remembers more than keys and values")
    cache.batch_select_indices(of)
    begun, places = seen[of], torch.arange(more.shape[1], device=more.device)
    then = {
        "input_ids": rest["input_ids"],
        "attention_mask": torch.cat([begun, more], dim=1),
        "position_ids": begun.sum(dim=1, keepdim=True) + places,
    }
    return _forward(model, then, at, cache)


def keeps_beginnings(model) -> bool:
    """Whether `logits_after` gives what plain passes give, on a few tokens. Unsloth's own models, on a GPU, do not: to
    them a cache means that one token comes."""
    causal_lm = base_model(model)
    if causal_lm not in _KEEPING:
        rng, size = np.random.default_rng(0), causal_lm.config.get_text_config().vocab_size
        beginnings, of, ends = [rng.integers(0, size, n).tolist() for n in (5, 3)], [0, 0, 1], (2, 4, 3)
        rest = [rng.integers(0, size, n).tolist() for n in ends]
        training = causal_lm.training
        causal_lm.eval()
        try:
            with torch.no_grad():
                batches = [to_device_of(causal_lm, padded(texts)) for texts in (beginnings, rest)]
                which = torch.tensor(of, device=batches[0]["input_ids"].device)
                width = batches[1]["input_ids"].shape[1]
                at = torch.tensor([row * width + n - 1 for row, n in enumerate(ends)], device=which.device)
                found = logits_after(causal_lm, batches[0], which, batches[1], at)
                whole = [torch.tensor([beginnings[b] + text]) for b, text in zip(of, rest, strict=True)]
                plain = [causal_lm(input_ids=ids.to(which.device), use_cache=False).logits[0, -1] for ids in whole]
            _KEEPING[causal_lm] = _off(found, torch.stack(plain), causal_lm.dtype) <= 1
        except Exception:  # whatever a model does that has no such cache: then texts are computed whole
            _KEEPING[causal_lm] = False
        finally:
            causal_lm.train(training)
    return _KEEPING[causal_lm]


_KEEPING: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # by model, once tried


def _forward(model, batch: dict[str, torch.Tensor], at: torch.Tensor, cache=None) -> torch.Tensor:
    """(U, V) logits by the model's own forward pass, so that whatever it does after its head (scales, soft caps) is
    done. The head, a fifth of the work, is given the tokens `at` only. Adapters, kept in float32, compute in the base
    model's type: casting every layer's input to theirs would take a fifth of a step. Keys and values are added to
    `cache`, and what it has is looked back at."""
    from peft.helpers import disable_input_dtype_casting

    causal_lm = base_model(model)
    name, head, config = type(causal_lm).__name__, causal_lm.get_output_embeddings(), causal_lm.config
    if head is None:
        raise ModelError(f"{name} has no head that predicts tokens; give a causal language model as base")
    inputs = {key: batch[key] for key in ("input_ids", "position_ids", "attention_mask") if key in batch}
    mask = inputs.get("attention_mask")
    if mask is not None and mask.ndim == 4:
        window = getattr(config.get_text_config(), "sliding_window", None)
        if window and int(inputs["position_ids"].max()) >= window:  # which a tree's mask would take the place of
            raise ModelError(f"{name} looks back {window} tokens, and a text has more; use another base")
        if config._attn_implementation == "eager":  # adds what others take as true or false
            lowest = torch.finfo(causal_lm.dtype).min
            inputs["attention_mask"] = (~inputs["attention_mask"]).to(causal_lm.dtype) * lowest
    remembered = {"use_cache": False} if cache is None else {"use_cache": True, "past_key_values": cache}
    half = causal_lm.dtype == torch.bfloat16
    hook = head.register_forward_pre_hook(lambda _, hidden: (hidden[0].flatten(0, 1)[at][None],))
    try:
        with torch.autocast(at.device.type, torch.bfloat16, enabled=half):
            with disable_input_dtype_casting(model) if half else contextlib.nullcontext():
                logits = causal_lm(**inputs, **remembered).logits
    finally:
        hook.remove()
    if logits.shape[:2] != (1, len(at)):
        raise ModelError(f"{name} does not predict tokens by the head it names; use another base")
    return logits[0]


def base_model(model):
    """The causal LM inside an adapter's wrapper; its layers keep the adapter's weights."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def leaf_table(
    model, trees: Sequence[Callable[[], Tree]], lengths: list[int], shape: tuple[int, int], batch_tokens: int, what: str
) -> np.ndarray:
    """(n, R, L) log-probabilities of the leaves of n trees; 0 where padded.

    Args:
        trees: n functions that make a tree, so that only those of one batch are in memory.
        shape: the most roots R of a tree, and the most leaves L of a root.
    """

    def forward(rows: list[int]) -> torch.Tensor:
        return leaf_log_probabilities(model, to_device_of(model, collate_trees([trees[i]() for i in rows])))

    return batched(forward, lengths, shape, batch_tokens, what)


def batched(
    forward: Callable[[list[int]], torch.Tensor], lengths: list[int], shape: tuple, batch_tokens: int, what: str
) -> np.ndarray:
    """(n, *shape) float64: `forward(rows)` over all rows, the longest first; 0 in cells that a batch lacks."""
    order = np.argsort(-np.array(lengths), kind="stable")
    # Made beforehand: small results left between the large blocks of a forward pass would fragment the heap.
    total = np.zeros((len(lengths), *shape))
    with tqdm(total=len(lengths), desc=f"scoring {what}", mininterval=2, delay=2) as progress:
        for rows in _batches(order.tolist(), lengths, batch_tokens):
            with torch.inference_mode():
                values = forward(rows).double().cpu().numpy()
            total[np.ix_(rows, *map(range, values.shape[1:]))] = values
            progress.update(len(rows))
    return total


def _batches(order: list[int], lengths: list[int], batch_tokens: int) -> list[list[int]]:
    """Cut rows, longest first, into batches whose padded size is at most `batch_tokens`."""
    batches, width = [], 0
    for row in order:
        if not batches or (len(batches[-1]) + 1) * width > batch_tokens:
            batches.append([])
            width = lengths[row]
        batches[-1].append(row)
    return batches


def to_device_of(model, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A batch where the model is."""
    device = next(model.parameters()).device
    return {key: value.to(device) for key, value in batch.items()}
