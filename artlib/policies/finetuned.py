"""The sentence encoder itself, post-trained end to end on plays: what a team without a language model would ship."""

import copy
import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from tqdm import tqdm

from artlib.data import Arrays, Log
from artlib.lm import encoder
from artlib.policies.encoder import Scores, loss
from artlib.policies.readings import Reading
from artlib.posttrain import objectives

RATE, WARMUP = 5e-5, 0.1  # AdamW's peak, after a tenth of the steps; then linear to 0
EPOCHS, TITLES = 3, 8  # passes over the plays, titles a step
MANY = 64  # labels, of which reading takes most of a step: twice the titles then, and twice the rate


def finetuned(
    reading: Reading,
    untrained: np.ndarray,
    artworks: np.ndarray,
    model: encoder.Encoder,
    plays: Log,
    validation: Log,
    seed: int = 0,
) -> Scores:
    """A reading whose encoder then learns: the captions of some titles are read in a step, all their plays teach. The
    pass that suits the validation plays best is kept, the one before the first included.

    Args:
        untrained: (A, L) the reading's table before.
        artworks: (M,) rows in `artworks` that will be asked about.
        model: the encoder as it was then; it stays as it is.
    """
    torch.manual_seed(seed)  # of dropout
    own = learning(model)
    larger = 2 if len(reading.labels) > MANY else 1
    titles = _titles(plays)
    average = len(plays.impressions) / len(titles) * larger * TITLES

    def cost(chosen: np.ndarray) -> torch.Tensor:
        part = plays.take(np.concatenate([titles[number] for number in chosen]))
        few = part.arrays()
        asked = np.unique(few.candidates[few.mask])
        similar = reading.similarities(own.vectors, own.vectors(reading.labels), asked)
        table = torch.zeros(untrained.shape).index_copy(0, torch.from_numpy(asked), similar)
        return imitation(reading.logits(table.double(), part), few) / average

    best = loss(reading.scores(untrained, validation), validation), untrained
    for _ in passes(own, len(titles), cost, larger * TITLES, larger * RATE, seed):
        found = reading.table(own, artworks)
        judged = loss(reading.scores(found, validation), validation)
        if judged < best[0]:
            best = judged, found
    return functools.partial(reading.scores, best[1])


def finetuned_on_targets(
    model: encoder.Encoder,
    weights: np.ndarray,
    texts: Sequence[str],
    learnt: Log,
    validation: Log,
    targets: Callable[[Log], np.ndarray],
    seed: int = 0,
) -> np.ndarray:
    """(A,) scores of texts: a linear head on an encoder, both post-trained end to end by `objectives.soft`. The pass
    that suits the validation targets best is kept, the one before the first included.

    Args:
        weights: (d,) of the head before.
        texts: A, of which an impression's candidates are rows.
        learnt, validation: impressions, all of which teach and judge.
        targets: (n, K) of a part of the log, how much each candidate is to be chosen.
    """
    torch.manual_seed(seed)  # of dropout
    own, head = learning(model), torch.tensor(weights, dtype=torch.float32, requires_grad=True)

    def losses(part: Log) -> torch.Tensor:
        arrays = part.arrays()
        asked, place = np.unique(
            np.where(arrays.mask, arrays.candidates, arrays.candidates[:, :1]), return_inverse=True
        )
        each = own.vectors([texts[row] for row in asked]) @ head
        scores = each[torch.from_numpy(place.reshape(arrays.mask.shape))].masked_fill(~torch.tensor(arrays.mask), -1e9)
        return objectives.soft(_decisions(scores, arrays, targets(part)), objectives.Hyperparameters())

    def judge() -> tuple[float, np.ndarray]:
        with torch.inference_mode():
            return float(losses(validation).mean()), (own.vectors(texts) @ head).numpy().astype(float)

    best, titles = judge(), _titles(learnt)

    def cost(chosen: np.ndarray) -> torch.Tensor:
        return losses(learnt.take(np.concatenate([titles[number] for number in chosen]))).mean()

    for _ in passes(own, len(titles), cost, TITLES, RATE, seed, head):
        best = min(best, judge(), key=lambda found: found[0])
    return best[1]


def _titles(part: Log) -> list[np.ndarray]:
    """The rows of the impressions of each title."""
    title = part.arrays().title
    order = np.argsort(title, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(title[order])) + 1)


def learning(model: encoder.Encoder) -> encoder.Encoder:
    """A copy of an encoder whose weights learn."""
    return encoder.Encoder(copy.deepcopy(model.model).requires_grad_(True), model.tokenizer, model.by_first)


def passes(
    own: encoder.Encoder,
    n: int,
    cost: Callable[[np.ndarray], torch.Tensor],
    size: int,
    rate: float,
    seed: int,
    *heads: torch.Tensor,
) -> Iterator[None]:
    """Post-train an encoder on n titles in a random order; after each of `EPOCHS` passes it is ready to be judged.

    Args:
        cost: of a step, given its titles' numbers, `size` at most.
        rate: the peak.
        heads: other weights that learn with it.
    """
    optimiser = torch.optim.AdamW([*own.model.parameters(), *heads], lr=rate, weight_decay=0.0)
    rng, steps = np.random.default_rng(seed), EPOCHS * -(-n // size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / (WARMUP * steps), 1 - step / steps)
    )
    with tqdm(total=steps, desc="post-training the encoder", mininterval=2) as progress:
        for _ in range(EPOCHS):
            own.model.train()
            shuffled = rng.permutation(n)
            for start in range(0, n, size):
                optimiser.zero_grad()
                cost(shuffled[start : start + size]).backward()
                optimiser.step()
                schedule.step()
                progress.update()
            own.model.eval()
            yield


def imitation(scores: torch.Tensor, arrays: Arrays) -> torch.Tensor:
    """The language model's own objective, `objectives.sft`, summed over the plays. Without production's odds: given
    these, what it shows nearly always teaches next to nothing, and the encoder learns less (docs/results.md)."""
    return objectives.sft(_decisions(scores, arrays), objectives.Hyperparameters()).sum()


def _decisions(scores: torch.Tensor, arrays: Arrays, targets: np.ndarray | None = None) -> objectives.Decisions:
    shown, reward, propensity = (torch.tensor(values) for values in (arrays.shown, arrays.reward, arrays.propensity))
    aims = None if targets is None else torch.tensor(targets, dtype=scores.dtype)
    mask = torch.tensor(arrays.mask)
    return objectives.Decisions(scores.log_softmax(dim=1), shown, reward, propensity, mask, targets=aims)
