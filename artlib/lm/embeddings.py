"""What a sentence encoder makes of a log: captions, genres' names, titles, and members by what they watched.

A artworks, T titles, G genres, d the encoder's width, n impressions.
"""

import dataclasses

import numpy as np

from artlib.data import Log, genre_names
from artlib.data.contract import one_line
from artlib.lm import encoder
from artlib.lm.prompts.genre_likelihood import mixture_scores

SHARPNESS = 20.0  # of cosine similarities, before any is learnt


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What the encoder makes of a log.

    Attributes:
        captions: (A, d) unit vectors of the artworks that are asked for; 0 for the others.
        genres: (G, d) of the genres' names.
        titles: (T, d) of names and synopses.
        usual: (G,) mean similarity of each genre's name to the captions of the training split.
    """

    log: Log
    captions: np.ndarray
    genres: np.ndarray
    titles: np.ndarray
    usual: np.ndarray

    @classmethod
    def read(cls, log: Log, model: encoder.Encoder, artworks: np.ndarray) -> "Inputs":
        """Have an encoder read a log.

        Args:
            artworks: (M,) rows in `artworks`, those of the training split among them.
        """
        texts = [one_line(log.artworks["caption"][int(artwork)].as_py()) for artwork in artworks]
        captions = np.zeros((len(log.artworks), model.model.config.hidden_size))
        captions[artworks] = model.embed(texts)
        names = [one_line(name) for name in genre_names(log.titles)]
        genres = model.embed(names) if names else np.zeros((0, captions.shape[1]))
        titles = model.embed(
            [
                one_line(f"{name}. {synopsis}")
                for name, synopsis in zip(
                    log.titles["name"].to_pylist(), log.titles["synopsis"].to_pylist(), strict=True
                )
            ]
        )
        train = log.split("train").arrays()
        known = np.intersect1d(np.unique(train.candidates[train.mask]), artworks)
        return cls(log, captions, genres, titles, (captions[known] @ genres.T).mean(axis=0))

    def similarity(self) -> np.ndarray:
        """(A, G) of captions and genre names, less what is usual, sharpened: log-odds of the genre."""
        return SHARPNESS * (self.captions @ self.genres.T - self.usual)

    def members(self, part: Log) -> np.ndarray:
        """(n, d) the mean of what each member watched before; 0 without history."""
        start, stop = self.log.history.spans(part.impressions)
        total = np.vstack([np.zeros(self.titles.shape[1]), np.cumsum(self.titles[self.log.history.title], axis=0)])
        return (total[stop] - total[start]) / np.maximum(stop - start, 1)[:, None]


def mixture(log_odds: np.ndarray, part: Log, log: Log) -> np.ndarray:
    """(n, K) scores log sum_g p(g | c) a_g of impressions, with the average member of a log; -inf where padded.

    Args:
        log_odds: (A, G) of genres by artwork.
    """
    arrays = part.arrays()
    affinity = log.history.affinity(part.impressions, log.background.average)
    scores = mixture_scores(log_odds, np.zeros(log_odds.shape[1]), np.maximum(arrays.candidates, 0), affinity, 1.0)
    return np.where(arrays.mask, scores, -np.inf)
