"""How an encoder's reading of captions becomes scores: by the genres that they suggest, or by the clauses of what the
member watched. Each can be asked as the encoder comes, or post-trained (`finetuned`).

A artworks, L labels (genres or clauses), d the encoder's width, n impressions with K candidates at most.
"""

import abc
from collections.abc import Callable

import numpy as np
import torch
from tqdm import tqdm

from artlib.data import Log, genre_names
from artlib.data.clauses import clauses, excess, shares, told_by
from artlib.data.contract import one_line
from artlib.lm.embeddings import SHARPNESS, Inputs
from artlib.lm.encoder import Encoder

BLUR = 10.0  # how sharply the most similar clause of a caption speaks for the whole
BATCH = 64  # captions that are read at once
ROWS = 4096  # impressions that are scored at once
Embed = Callable[[list[str]], torch.Tensor]  # (n, d) unit vectors of texts


class Reading(abc.ABC):
    """Which texts an encoder compares captions with, and how members weigh them.

    Attributes:
        log: whose captions are read.
        labels: L texts, of genres or clauses.
    """

    log: Log
    labels: list[str]

    @abc.abstractmethod
    def similarities(self, embed: Embed, labels: torch.Tensor, artworks: np.ndarray) -> torch.Tensor:
        """(M, L) how much of each label is in the captions of some artworks.

        Args:
            labels: (L, d) what `embed` makes of them.
            artworks: (M,) rows in `artworks`.
        """

    @abc.abstractmethod
    def logits(self, table: torch.Tensor, part: Log) -> torch.Tensor:
        """(n, K) scores of a part of the log, with gradients; -1e9 where padded.

        Args:
            table: (A, L) similarities of all artworks that are candidates in it, in float64.
        """

    def scores(self, table: np.ndarray, part: Log) -> np.ndarray:
        """(n, K) the same without; -inf where padded."""
        mask, similar = part.arrays().mask, torch.from_numpy(table)
        found = np.full(mask.shape, -np.inf)
        for start in range(0, len(mask), ROWS):
            rows = np.arange(start, min(start + ROWS, len(mask)))
            few = self.logits(similar, part.take(rows)).numpy()
            found[rows, : few.shape[1]] = few
        return np.where(mask, found, -np.inf)

    def table(self, model: Encoder, artworks: np.ndarray) -> np.ndarray:
        """(A, L) similarities of some artworks as an encoder has them now; 0 for the others."""
        found = np.zeros((len(self.log.artworks), len(self.labels)))
        with torch.inference_mode(), tqdm(total=len(artworks), desc="reading captions", mininterval=2) as progress:
            labels = model.vectors(self.labels)
            for part in np.array_split(artworks, -(-len(artworks) // BATCH)):
                found[part] = self.similarities(model.vectors, labels, part).double().numpy()
                progress.update(len(part))
        return found


class Genres(Reading):
    """log sum_g p(g | c) a_g: p by the similarity of caption and genre name, a the member's affinity to the genre."""

    def __init__(self, inputs: Inputs):
        self.log, self.usual = inputs.log, torch.from_numpy(inputs.usual).float()
        self.labels = [one_line(name) for name in genre_names(inputs.log.titles)]
        self._captions = [one_line(text) for text in inputs.log.artworks["caption"].to_pylist()]

    def similarities(self, embed, labels, artworks):
        captions = embed([self._captions[row] for row in artworks])
        return SHARPNESS * (captions @ labels.T - self.usual)

    def logits(self, table, part):
        arrays = part.arrays()
        affinity = torch.from_numpy(self.log.history.affinity(part.impressions, self.log.background.average))
        p = table.log_softmax(dim=1)[torch.from_numpy(np.maximum(arrays.candidates, 0))]
        scores = torch.logsumexp(p + affinity.log()[:, None, :], dim=2)
        return scores.masked_fill(~torch.tensor(arrays.mask), -1e9)


class Clauses(Reading):
    """sum_j w_j s_cj: s_cj how similar clause j, of the synopsis of something watched, is to the clause of the caption
    that is most similar to it; w_j how much more often than the average member this one watched what it tells, see
    `data.clauses`."""

    def __init__(self, log: Log):
        self.log, self.labels = log, list(log.background.told)
        self._told, self._average = told_by(log.titles, self.labels), np.array(list(log.background.told.values()))
        self._captions = [clauses(text) or [""] for text in log.artworks["caption"].to_pylist()]

    def similarities(self, embed, labels, artworks):
        own = [self._captions[row] for row in artworks]
        place = {clause: at for at, clause in enumerate(dict.fromkeys(clause for parts in own for clause in parts))}
        similar = embed(list(place)) @ labels.T
        most = max(map(len, own))
        at = torch.tensor([[place[clause] for clause in parts] + [0] * (most - len(parts)) for parts in own])
        there = torch.tensor([[True] * len(parts) + [False] * (most - len(parts)) for parts in own])
        each = (BLUR * similar[at]).masked_fill(~there[:, :, None], -1e9)
        return each.logsumexp(dim=1) / BLUR

    def logits(self, table, part):
        arrays = part.arrays()
        weights = torch.from_numpy(self.weights(part)).to(table.dtype)
        chosen = table[torch.from_numpy(np.maximum(arrays.candidates, 0))]
        return (SHARPNESS * torch.einsum("nl,nkl->nk", weights, chosen)).masked_fill(~torch.tensor(arrays.mask), -1e9)

    def weights(self, part: Log) -> np.ndarray:
        """(n, L) of `data.clauses.excess`."""
        return excess(*shares(self.log.history, self._told, part.impressions), self._average)
