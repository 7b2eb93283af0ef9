"""How an encoder's reading of captions becomes scores: by the genres that they suggest, or by the clauses of what the
member watched. Each can be asked as the encoder comes, or post-trained (`finetuned`).

A artworks, L leaves (genres or clauses), d the encoder's width, n impressions with K candidates at most.
"""

import abc
import functools
import re
from collections.abc import Callable

import numpy as np
import scipy.sparse
import torch

from artlib.data import Log, genre_names
from artlib.data.contract import one_line
from artlib.data.history import PSEUDO_TITLES
from artlib.lm.embeddings import SHARPNESS, Inputs
from artlib.lm.encoder import Encoder

MOST_CLAUSES = 512  # of the titles that were watched most often
PARTS = re.compile(r"[.;:,!?]+(?:\s+|$)")  # what stands between the clauses of a text
BLUR = 10.0  # how sharply the most similar clause of a caption speaks for the whole
BATCH = 64  # captions that are read at once
Embed = Callable[[list[str]], torch.Tensor]  # (n, d) unit vectors of texts


class Reading(abc.ABC):
    """What leaves an encoder compares captions with, and how members weigh them."""

    leaves: list[str]

    @abc.abstractmethod
    def table(self, embed: Embed, leaves: torch.Tensor, artworks: np.ndarray) -> torch.Tensor:
        """(M, L) how much each leaf is in the captions of some artworks.

        Args:
            leaves: (L, d) what `embed` makes of them.
            artworks: (M,) rows in `artworks`.
        """

    @abc.abstractmethod
    def scores(self, table: torch.Tensor, part: Log) -> torch.Tensor:
        """(n, K) of a part of the log; -1e9 where padded.

        Args:
            table: (A, L) of all artworks that are candidates in it, in float64.
        """

    def numbers(self, table: np.ndarray, part: Log) -> np.ndarray:
        """(n, K) the same in numbers; -inf where padded."""
        return np.where(part.arrays().mask, self.scores(torch.from_numpy(table), part).numpy(), -np.inf)

    def whole(self, model: Encoder, artworks: np.ndarray, n_artworks: int) -> np.ndarray:
        """(A, L) the table of some artworks as an encoder has it now; 0 for the others."""
        found = np.zeros((n_artworks, len(self.leaves)))
        with torch.inference_mode():
            embed = functools.partial(embedded, model)
            leaves = embed(self.leaves)
            for part in np.array_split(artworks, -(-len(artworks) // BATCH)):
                found[part] = self.table(embed, leaves, part).double().numpy()
        return found


def embedded(model: Encoder, texts: list[str]) -> torch.Tensor:
    """(n, d) texts of one length together, so that little is padded."""
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    parts = [model([texts[row] for row in order[at : at + BATCH]]) for at in range(0, len(order), BATCH)]
    back = torch.empty(len(order), dtype=torch.long)
    back[torch.tensor(order)] = torch.arange(len(order))
    return torch.cat(parts)[back]


class Genres(Reading):
    """log sum_g p(g | c) a_g: p by the similarity of caption and genre name, a the member's affinity to the genre."""

    def __init__(self, inputs: Inputs):
        self.log, self.usual = inputs.log, torch.from_numpy(inputs.usual).float()
        self.leaves = [one_line(name) for name in genre_names(inputs.log.titles)]
        self._captions = [one_line(text) for text in inputs.log.artworks["caption"].to_pylist()]

    def table(self, embed, leaves, artworks):
        captions = embed([self._captions[row] for row in artworks])
        return SHARPNESS * (captions @ leaves.T - self.usual)

    def scores(self, table, part):
        arrays = part.arrays()
        affinity = torch.from_numpy(self.log.history.affinity(part.impressions, self.log.average_profile))
        p = table.log_softmax(dim=1)[torch.from_numpy(np.maximum(arrays.candidates, 0))]
        scores = torch.logsumexp(p + affinity.log()[:, None, :], dim=2)
        return scores.masked_fill(~torch.tensor(arrays.mask), -1e9)


class Clauses(Reading):
    """sum_j w_j s_cj: s_cj how similar clause j, of the synopsis of something watched, is to the clause of the caption
    that is most similar to it; w_j how much more often than the average member this one watched what it tells.

    A vector of a whole text says what most of it is about; who stars in it, and in which tone it is told, is lost in
    the mean. Clause by clause it is not.
    """

    def __init__(self, log: Log):
        self.log = log
        synopses = [clauses(text) for text in log.titles["synopsis"].to_pylist()]
        often = np.bincount(log.history.title, minlength=len(synopses))
        place: dict[str, int] = {}
        for title in np.argsort(-often, kind="stable")[: np.count_nonzero(often)]:
            if len(place) + len(synopses[title]) > MOST_CLAUSES:
                break
            for clause in synopses[title]:
                place.setdefault(clause, len(place))
        self.leaves = list(place)
        told = [sorted({place[clause] for clause in own if clause in place}) for own in synopses]
        indptr = np.cumsum([0, *map(len, told)])
        shape = len(synopses), len(place)
        self._told = scipy.sparse.csr_matrix(
            (np.ones(indptr[-1]), np.concatenate([[], *told]).astype(int), indptr), shape
        )
        train = log.split("train")
        self._average = self._shares(train if len(train.impressions) else log)[0].mean(axis=0)
        self._captions = [clauses(text) or [""] for text in log.artworks["caption"].to_pylist()]

    def table(self, embed, leaves, artworks):
        own = [self._captions[row] for row in artworks]
        place = {clause: at for at, clause in enumerate(dict.fromkeys(clause for parts in own for clause in parts))}
        similar = embed(list(place)) @ leaves.T
        most = max(map(len, own))
        at = torch.tensor([[place[clause] for clause in parts] + [0] * (most - len(parts)) for parts in own])
        there = torch.tensor([[True] * len(parts) + [False] * (most - len(parts)) for parts in own])
        each = (BLUR * similar[at]).masked_fill(~there[:, :, None], -1e9)
        return each.logsumexp(dim=1) / BLUR

    def scores(self, table, part):
        arrays = part.arrays()
        weights = torch.from_numpy(self.weights(part)).to(table.dtype)
        chosen = table[torch.from_numpy(np.maximum(arrays.candidates, 0))]
        return (SHARPNESS * torch.einsum("nl,nkl->nk", weights, chosen)).masked_fill(~torch.tensor(arrays.mask), -1e9)

    def weights(self, part: Log) -> np.ndarray:
        """(n, J) the share of what a member watched that tells each clause, less the average member's; a short history
        says little, as in `history.affinities`."""
        share, n = self._shares(part)
        return (n / (n + PSEUDO_TITLES))[:, None] * (share - self._average)

    def _shares(self, part: Log) -> tuple[np.ndarray, np.ndarray]:
        """(n, J) shares of the titles watched before, 0 without any; (n,) how many these were."""
        start, stop = self.log.history.spans(part.impressions)
        n, indptr = stop - start, np.cumsum([0, *(stop - start)])
        rows = np.arange(indptr[-1]) - np.repeat(indptr[:-1] - start, n)
        shape = len(n), self._told.shape[0]
        watched = scipy.sparse.csr_matrix((np.ones(len(rows)), self.log.history.title[rows], indptr), shape)
        return (watched @ self._told).toarray() / np.maximum(n, 1)[:, None], n


def clauses(text: str) -> list[str]:
    """What stands between the marks of a text, each once."""
    return list(dict.fromkeys(part for part in PARTS.split(one_line(text)) if part))
