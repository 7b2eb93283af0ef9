"""The sentence encoder itself, post-trained end to end on plays: what a team without a language model would ship."""

import copy
import functools

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
    own = encoder.Encoder(copy.deepcopy(model.model).requires_grad_(True), model.tokenizer, model.by_first)
    larger = 2 if len(reading.labels) > MANY else 1
    size = larger * TITLES
    optimiser = torch.optim.AdamW(own.model.parameters(), lr=larger * RATE, weight_decay=0.0)
    arrays, rng = plays.arrays(), np.random.default_rng(seed)
    order = np.argsort(arrays.title, kind="stable")
    titles = np.split(order, np.flatnonzero(np.diff(arrays.title[order])) + 1)
    steps = EPOCHS * -(-len(titles) // size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / (WARMUP * steps), 1 - step / steps)
    )
    best = loss(reading.scores(untrained, validation), validation), untrained
    with tqdm(total=steps, desc="post-training the encoder", mininterval=2) as progress:
        for _ in range(EPOCHS):
            own.model.train()
            shuffled = rng.permutation(len(titles))
            for start in range(0, len(titles), size):
                part = plays.take(np.concatenate([titles[number] for number in shuffled[start : start + size]]))
                few = part.arrays()
                asked = np.unique(few.candidates[few.mask])
                similar = reading.similarities(own.vectors, own.vectors(reading.labels), asked)
                table = torch.zeros(untrained.shape).index_copy(0, torch.from_numpy(asked), similar)
                cost = imitation(reading.logits(table.double(), part), few)
                optimiser.zero_grad()
                (cost / (len(arrays) / len(titles) * size)).backward()
                optimiser.step()
                schedule.step()
                progress.update()
            own.model.eval()
            found = reading.table(own, artworks)
            judged = loss(reading.scores(found, validation), validation)
            if judged < best[0]:
                best = judged, found
    return functools.partial(reading.scores, best[1])


def imitation(scores: torch.Tensor, arrays: Arrays) -> torch.Tensor:
    """The language model's own objective, `objectives.sft`, summed over the plays. Without production's odds: given
    these, what it shows nearly always teaches next to nothing, and the encoder learns less (docs/results.md)."""
    shown, reward, propensity = (torch.tensor(values) for values in (arrays.shown, arrays.reward, arrays.propensity))
    decisions = objectives.Decisions(scores.log_softmax(dim=1), shown, reward, propensity, torch.tensor(arrays.mask))
    return objectives.sft(decisions, objectives.Hyperparameters()).sum()
