"""The sentence encoder itself, post-trained end to end on plays: what a team without a language model would ship."""

import copy

import numpy as np
import torch
from tqdm import tqdm

from artlib.data import Log, genre_names
from artlib.data.contract import one_line
from artlib.lm import encoder
from artlib.lm.embeddings import SHARPNESS, Inputs, mixture
from artlib.policies.encoder import Scores, by_genres, cross_entropy, loss, mixture_torch

RATE, WARMUP = 5e-5, 0.1  # AdamW's peak, after a tenth of the steps; then linear to 0
EPOCHS, TITLES = 3, 8  # passes over the plays, titles a step


def finetuned(inputs: Inputs, model: encoder.Encoder, plays: Log, validation: Log, seed: int = 0) -> Scores:
    """Untrained `by_genres`, whose encoder then learns: the captions of some titles are read in a step, all their plays
    teach. The pass that suits the validation plays best is kept, the one before the first included.

    Args:
        model: what `inputs` were read with; it stays as it is.
    """
    torch.manual_seed(seed)  # of dropout
    own = encoder.Encoder(copy.deepcopy(model.model).requires_grad_(True), model.tokenizer, model.by_first)
    reader = _Reader(own, inputs)
    optimiser = torch.optim.AdamW(own.model.parameters(), lr=RATE, weight_decay=0.0)
    arrays, rng = plays.arrays(), np.random.default_rng(seed)
    order = np.argsort(arrays.title, kind="stable")
    titles = np.split(order, np.flatnonzero(np.diff(arrays.title[order])) + 1)
    steps = EPOCHS * -(-len(titles) // TITLES)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / (WARMUP * steps), 1 - step / steps)
    )
    best = loss(by_genres(inputs)(validation), validation), inputs.similarity()
    with tqdm(total=steps, desc="post-training the encoder", mininterval=2) as progress:
        for _ in range(EPOCHS):
            own.model.train()
            shuffled = rng.permutation(len(titles))
            for start in range(0, len(titles), TITLES):
                part = plays.take(np.concatenate([titles[number] for number in shuffled[start : start + TITLES]]))
                few = part.arrays()
                log_odds = reader(np.unique(few.candidates[few.mask]))
                cost = cross_entropy(mixture_torch(log_odds.double(), part, inputs.log), few)
                optimiser.zero_grad()
                (cost / (len(arrays) / len(titles) * TITLES)).backward()
                optimiser.step()
                schedule.step()
                progress.update()
            own.model.eval()
            with torch.inference_mode():
                found = reader(np.flatnonzero(inputs.captions.any(axis=1))).double().numpy()
            judged = loss(mixture(found, validation, inputs.log), validation)
            if judged < best[0]:
                best = judged, found
    return lambda part: mixture(best[1], part, inputs.log)


class _Reader:
    """(A, G) log-odds of the genres of some artworks, 0 for the others, by an encoder in training."""

    def __init__(self, model: encoder.Encoder, inputs: Inputs):
        self.model, self.usual = model, torch.from_numpy(inputs.usual).float()
        self.captions = [one_line(text) for text in inputs.log.artworks["caption"].to_pylist()]
        self.genres = [one_line(name) for name in genre_names(inputs.log.titles)]

    def __call__(self, artworks: np.ndarray, batch: int = 64) -> torch.Tensor:
        parts = np.array_split(artworks, -(-len(artworks) // batch))
        captions = torch.cat([self.model([self.captions[row] for row in part]) for part in parts])
        read = SHARPNESS * (captions @ self.model(self.genres).T - self.usual)
        found = torch.zeros(len(self.captions), len(self.genres))
        return found.index_copy(0, torch.from_numpy(artworks), read)
