"""A reader of captions by the frozen embeddings of the language model's own base: a bilinear conditional logit."""

import contextlib

import numpy as np
import scipy.optimize

from artlib.data import Log
from artlib.data.contract import one_line
from artlib.lm import model
from artlib.lm.calibration import probabilities
from artlib.posttrain.settings import Settings

EMBEDDING_SIZE = 128  # leading principal components of the caption embeddings
PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0)  # chosen on the validation split


def caption_embeddings(log: Log, artworks: np.ndarray, settings: Settings) -> np.ndarray:
    """Frozen embeddings of captions by the same base model: whitened principal components.

    Args:
        artworks: (M,) rows in `artworks`.

    Returns:
        (A, d) rows in the order of `artworks` in the log; 0 for those not asked for.
    """
    from tqdm import tqdm

    language_model, tokenizer = model.load(settings.base, dtype=settings.dtype, max_tokens=settings.max_tokens)
    captions = [one_line(log.artworks["caption"][int(artwork)].as_py()) for artwork in artworks]
    order = np.argsort([len(caption) for caption in captions])
    rows = None
    with tqdm(total=len(order), desc="embedding captions", mininterval=2) as progress:
        for part in np.array_split(order, -(-len(order) // 32)):
            mean = _mean_hidden(language_model, tokenizer, [captions[i] for i in part])
            rows = np.empty((len(captions), mean.shape[1])) if rows is None else rows
            rows[part] = mean
            progress.update(len(part))
    rows -= rows.mean(axis=0)
    left, singular, _ = np.linalg.svd(rows, full_matrices=False)
    kept = min(EMBEDDING_SIZE, int((singular > 1e-6 * singular[0]).sum()))
    found = np.zeros((len(log.artworks), kept))
    found[artworks] = left[:, :kept] * np.sqrt(len(rows))
    return found


def _mean_hidden(language_model, tokenizer, texts: list[str]) -> np.ndarray:
    """(n, d) mean over a text's tokens of what a model's layer two thirds up makes of them. Middle layers carry more of
    what a text is about than the last, which is busy predicting the next token; those above it are not run."""
    import torch

    inner = language_model.base_model
    layers = inner.layers
    device = next(language_model.parameters()).device
    ids = tokenizer(texts, add_special_tokens=False, split_special_tokens=True).input_ids
    width = max(map(len, ids))
    tokens = torch.tensor([row + [0] * (width - len(row)) for row in ids], device=device)
    real = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids], device=device)
    found = []

    class Reached(Exception):
        pass

    def keep(layer, inputs, output):
        found.append(output[0] if isinstance(output, tuple) else output)
        raise Reached

    hook = layers[len(layers) * 2 // 3 - 1].register_forward_hook(keep)
    try:
        with torch.inference_mode(), contextlib.suppress(Reached):
            inner(tokens, attention_mask=real, use_cache=False)
    finally:
        hook.remove()
    hidden = found[0].float() * real[:, :, None]
    return (hidden.sum(dim=1) / real.sum(dim=1, keepdim=True)).cpu().numpy()


def bilinear_scores(log: Log, impressions: Log, embeddings: np.ndarray, plays: Log, validation: Log) -> np.ndarray:
    """A bilinear conditional logit in genre profile and caption embedding.

    score(u, c) = (1, g_u)' W e_c, with g_u the member's genre profile, less its mean over `plays`, and e_c the
    caption's embedding; W maximises the likelihood of the played artwork among the candidates, less an L2 penalty
    chosen on the validation plays.

    Args:
        embeddings: (A, d).
        plays, validation: played impressions to fit W and to choose the penalty.

    Returns:
        (n, K) scores; -inf where padded.
    """
    history = log.history
    average = history.genre_profile(plays.impressions).mean(axis=0)

    def inputs(part: Log) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        arrays, profile = part.arrays(), history.genre_profile(part.impressions)
        member = np.hstack([np.ones((len(profile), 1)), 5 * (profile - average)])
        return member, embeddings[np.maximum(arrays.candidates, 0)], arrays.mask

    fit_inputs, check_inputs = inputs(plays), inputs(validation)
    fit_shown, check_shown = plays.arrays().shown, validation.arrays().shown
    best = None
    start = np.zeros((fit_inputs[0].shape[1], embeddings.shape[1]))
    for penalty in sorted(PENALTIES, reverse=True):
        start = _conditional_logit(*fit_inputs, fit_shown, penalty, start)
        chosen = probabilities(_bilinear(start, *check_inputs))[np.arange(len(check_shown)), check_shown]
        loss = -np.log(np.maximum(chosen, 1e-12)).mean()
        if best is None or loss < best[0]:
            best = loss, start
    return _bilinear(best[1], *inputs(impressions))


def _bilinear(weights: np.ndarray, member: np.ndarray, caption: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.where(mask, np.einsum("nd,nkd->nk", member @ weights, caption), -np.inf)


def _conditional_logit(member, caption, mask, shown, penalty: float, start: np.ndarray) -> np.ndarray:
    """Maximum penalised likelihood by L-BFGS: sum_i log softmax_k(score)[shown_i] - penalty |W|^2 / 2."""
    rows = np.arange(len(shown))

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(start.shape)
        p = probabilities(_bilinear(weights, member, caption, mask))
        residual = p.copy()
        residual[rows, shown] -= 1
        gradient = member.T @ np.einsum("nk,nkd->nd", residual, caption) + penalty * weights
        value = -np.log(np.maximum(p[rows, shown], 1e-300)).sum() + penalty * (weights**2).sum() / 2
        return value, gradient.ravel()

    found = scipy.optimize.minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 200})
    return found.x.reshape(start.shape)
