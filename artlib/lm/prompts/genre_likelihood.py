"""The form `genre-likelihood`: whose fans does a picture appeal to? One pass of a poster does for all members."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import scipy.special
import torch

from artlib.data.contract import one_line
from artlib.data.history import affinities
from artlib.lm.forward import MASKED_SCORE, leaf_log_probabilities, leaf_table
from artlib.lm.prompts.text import PromptForm, Reader, leading_ids
from artlib.lm.tree import Tree, collate_trees, lay_out, packs

SHARPNESS = 0.5  # of a model's answers, which are too sure of themselves; chosen on the demo's validation plays
PACKED = 64  # posters of about one length among which those of a sequence are found
MOST_KNOWN = 200_000  # posters of which answers are kept: about 200 MB


@dataclasses.dataclass(frozen=True)
class GenrePrompt:
    """One impression.

    Attributes:
        frame: token ids of what stands before every poster.
        posters: token ids of each candidate's caption and what stands between it and the name of a genre; the same
            list for the same artwork wherever it comes up, so that it need be read once only.
        genres: token ids of every genre's name, of as many words as tell it from the others.
        average: (G,) the share of each genre in what the average member watched, > 0.
        affinity: (G,) how many times that is the share in what this member watched, shrunk as in `data.history`, > 0.
        sample: posters of the training split: what a model says of these tells what it says of any.
    """

    form: ClassVar[str] = "genre-likelihood"
    frame: list[int]
    posters: list[list[int]]
    genres: list[list[int]]
    average: np.ndarray
    affinity: np.ndarray
    sample: list[list[int]]

    @property
    def n_tokens(self) -> int:
        """The length of the longest candidate's tree."""
        return len(self.frame) + max(map(len, self.posters)) + sum(map(len, self.genres))


class GenreReader(Reader):
    """Takes all genres by their shares, and no titles: no budget for a member's summary is needed."""

    def __init__(self, log, *arguments, **options):
        super().__init__(log, *arguments, **options)
        if not self._genres:
            raise ValueError("the log's titles have no genres, by which members are told apart: use prompt=caption")
        # Without chat markers: half of the tokens.
        self._frame = [*leading_ids(self._tokenizer), *self._pieces.first("A film poster shows this:")]
        self._after_poster = self._special("\nIt appeals to fans of")
        self.genres = [self._encode(f" {name}") for name in shortest_unique_prefixes(self._genres)]
        self._average = log.background.average
        self.sample = [self._encode_artwork(one_line(caption)) for caption in log.background.captions]

    def _prompt(self, title: int, profile: np.ndarray, watched: np.ndarray, artworks: np.ndarray) -> GenrePrompt:
        affinity = affinities(profile, np.array(len(watched)), self._average)
        posters = [self._artwork(k) for k in artworks]
        return GenrePrompt(self._frame, posters, self.genres, self._average, affinity, self.sample)

    def _encode_artwork(self, caption: str) -> list[int]:
        return self._encode(f" {caption}") + self._after_poster


def shortest_unique_prefixes(names: list[str]) -> list[str]:
    """Each name's fewest leading words with which no other name begins; the whole name where there are none."""
    words = [name.split() for name in names]

    def shortest(i: int) -> list[str]:
        lengths = range(1, len(words[i]))
        unique = (n for n in lengths if sum(other[:n] == words[i][:n] for other in words) == 1)
        return words[i][: next(unique, len(words[i]))]

    return [" ".join(shortest(i)) for i in range(len(names))]


def genre_tree(frame: list[int], posters: Sequence[Sequence[int]], genres: list[list[int]]) -> Tree:
    """Several posters as roots, which share what stands before them, and the name of every genre as a leaf of each."""
    return lay_out(frame, posters, genres)


def unique_posters(prompts: Sequence) -> tuple[list, np.ndarray, np.ndarray]:
    """Each different poster once; (n, K) which of them each candidate is; (n, K) mask."""
    numbers: dict[tuple, int] = {}
    mask = np.arange(max(len(p.posters) for p in prompts)) < np.array([[len(p.posters)] for p in prompts])
    poster = np.zeros(mask.shape, dtype=np.int64)
    poster[mask] = [numbers.setdefault(tuple(ids), len(numbers)) for p in prompts for ids in p.posters]
    return list(numbers), poster, mask


def collate_posters(prompts: Sequence, leaves: list[list[int]]) -> dict[str, torch.Tensor]:
    """A batch of `collate_trees` in which every poster is read once, several a sequence, each with the same leaves.

    Args:
        prompts: with `frame` and `posters` as in `GenrePrompt`.

    Returns:
        The batch, with poster: (n, K) place of each candidate among the batch's (B * R) roots, and mask: (n, K).
    """
    posters, poster, mask = unique_posters(prompts)
    frame = prompts[0].frame
    packed = packs([_tokens(ids, leaves) for ids in posters], len(frame))
    batch = collate_trees([genre_tree(frame, [posters[i] for i in pack], leaves) for pack in packed])
    most, place = max(map(len, packed)), np.zeros(len(posters), dtype=np.int64)
    for row, pack in enumerate(packed):
        place[pack] = row * most + np.arange(len(pack))
    return batch | {"poster": torch.from_numpy(place[poster]), "mask": torch.from_numpy(mask)}


def poster_answers(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """(n, K, L) log-probability of each leaf after each candidate of a batch of `collate_posters`."""
    answers = leaf_log_probabilities(model, batch).flatten(0, 1)
    # Not answers[poster]: on a CPU its gradient is summed up in whatever order the threads come, and no two runs agree.
    return answers.index_select(0, batch["poster"].flatten()).view(*batch["poster"].shape, -1)


def centred_profile(prompts: Sequence[GenrePrompt]) -> np.ndarray:
    """(n, G) the share of each genre in what the member watched, less its share for the average member."""
    return np.stack([p.average * (p.affinity - 1) for p in prompts])


def likelihood_scores(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """score(c) = sum_g (w_g - average_g) log p(g | c): what training maximises for the artwork that was played.

    w_g is the share of genre g in what the member watched, shrunk as in `GenrePrompt`. This is query likelihood
    (Ponte and Croft 1998), with the history for a query and the poster for a document, relative to an average history.
    Decisions are taken by `mixture_scores`; but its gradient hardly reaches a genre that the model holds for
    unlikely, while this one reaches all alike.

    What the model says of a poster does not depend on the member, so that one forward pass of a poster does for all.

    Args:
        model: a causal LM, with or without adapters.
        batch: from `GenreLikelihood.collate`.

    Returns:
        (n, K) scores in float32; `MASKED_SCORE` where padded.
    """
    scores = torch.einsum("nkg,ng->nk", poster_answers(model, batch), batch["profile"])
    return scores.masked_fill(~batch["mask"], MASKED_SCORE)


def mixture_scores(
    genres: np.ndarray, usual: np.ndarray, poster: np.ndarray, affinity: np.ndarray, sharpness: float = SHARPNESS
) -> np.ndarray:
    """score(c) = log sum_g p(g | c) a_g: the member's affinity to the genre that a picture appeals to, expected.

    p(g | c) is the softmax over genres of sharpness (log p(g | poster c) - usual_g). Taking off what the model says on
    average is the batch calibration of Zhou et al. (2024): without it the genres whose names are likely words win
    everywhere.

    Args:
        genres: (P, G) log-probability of each genre's name after each poster.
        usual: (G,) the same, averaged over a sample of posters.
        poster: (n, K) which poster each candidate is.
        affinity: (n, G) how many times as much of each genre the member watched as the average member.

    Returns:
        (n, K) scores.
    """
    p = scipy.special.softmax(sharpness * (genres - usual), axis=1)
    return np.log(np.einsum("nkg,ng->nk", p[poster], affinity))


def genre_table(
    model,
    posters: Sequence[Sequence[int]],
    frame: list[int],
    genres: list[list[int]],
    batch_tokens: int = 2048,
    known: dict | None = None,
) -> np.ndarray:
    """(P, G) log-probability of each genre's name after each poster, several posters a sequence.

    Args:
        posters, frame, genres: as in `GenrePrompt`.
        known: what the same model said of posters before, see `PromptForm.remembering`; gets what it says now.
    """
    if known is None:
        return _genre_table(model, posters, frame, genres, batch_tokens)
    read = [tuple(poster) for poster in posters]
    if len(known) > MOST_KNOWN:
        known.clear()
    if new := [poster for poster in dict.fromkeys(read) if poster not in known]:
        known.update(zip(new, _genre_table(model, new, frame, genres, batch_tokens), strict=True))
    return np.stack([known[poster] for poster in read])


def _genre_table(model, posters, frame, genres, batch_tokens: int) -> np.ndarray:
    lengths = np.array([_tokens(poster, genres) for poster in posters], dtype=int)
    order = np.argsort(-lengths, kind="stable")  # so that sequences are of one length
    chunks = np.split(order, range(PACKED, len(order), PACKED))
    packed = [chunk[pack] for chunk in chunks for pack in packs(lengths[chunk].tolist(), len(frame))]
    table = leaf_table(
        model,
        [functools.partial(genre_tree, frame, [posters[i] for i in pack], genres) for pack in packed],
        [len(frame) + int(lengths[pack].sum()) for pack in packed],
        (max(map(len, packed)), len(genres)),
        batch_tokens,
        "posters",
    )
    found = np.empty((len(posters), len(genres)))
    for row, pack in enumerate(packed):
        found[pack] = table[row, : len(pack)]
    return found


def _tokens(poster: Sequence[int], leaves: list[list[int]]) -> int:
    """How many tokens of a sequence a poster takes, with its leaves."""
    return len(poster) + sum(len(leaf) - 1 for leaf in leaves)


class GenreLikelihood(PromptForm):
    name = "genre-likelihood"
    meaning = (
        "the model reads a poster and says whose fans it appeals to; a choice weighs that by the member's affinities"
    )
    reader = GenreReader
    summarised = False
    by_title = True

    def decode(self, prompt: GenrePrompt, tokenizer) -> str:
        order = np.argsort(-prompt.affinity, kind="stable")
        names = [f"{tokenizer.decode(prompt.genres[g])} (x{prompt.affinity[g]:.1f})" for g in order]
        shown = [*names[:3], " ...", *names[-2:]] if len(names) > 5 else names
        return f"{tokenizer.decode(prompt.frame + prompt.posters[0])} ... [{','.join(shown)}]"

    def tree(self, prompt: GenrePrompt) -> Tree:
        """Two of its posters, as they are packed."""
        return genre_tree(prompt.frame, prompt.posters[:2], prompt.genres)

    def collate(self, prompts: Sequence[GenrePrompt], orders=None) -> dict[str, torch.Tensor]:
        profile = torch.from_numpy(centred_profile(prompts).astype(np.float32))
        return collate_posters(prompts, prompts[0].genres) | {"profile": profile}

    def candidate_scores(self, model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return likelihood_scores(model, batch)

    def score(self, model, prompts: Sequence[GenrePrompt], batch_tokens: int) -> np.ndarray:
        return self._deciding(model, prompts, *self._answers(model, prompts, batch_tokens), batch_tokens)

    def genres_and_scores(
        self, model, prompts: Sequence[GenrePrompt], batch_tokens: int = 2048
    ) -> tuple[np.ndarray, np.ndarray]:
        """(n, K) the genre that each candidate appeals to above all, by `mixture_scores`, 0 where padded; and (n, K)
        scores to decide by."""
        own, first = self.remembering(), prompts[0]
        genres, poster, mask = own._answers(model.eval(), prompts, batch_tokens)
        usual = genre_table(model, first.sample, first.frame, first.genres, batch_tokens, own.known).mean(axis=0)
        about = np.where(mask, (genres - usual).argmax(axis=1)[poster], 0)
        return about, own._deciding(model, prompts, genres, poster, mask, batch_tokens)

    def score_as_trained(self, model, prompts, orders, batch_tokens: int) -> np.ndarray:
        return self._as_trained(prompts, *self._answers(model, prompts, batch_tokens))

    def score_both_ways(self, model, prompts, orders, batch_tokens: int) -> tuple[np.ndarray, np.ndarray]:
        answers = self._answers(model, prompts, batch_tokens)
        return self._as_trained(prompts, *answers), self._deciding(model, prompts, *answers, batch_tokens)

    def _answers(
        self, model, prompts: Sequence[GenrePrompt], batch_tokens: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the model says of each poster, once: (P, G); (n, K) which poster each candidate is; (n, K) mask."""
        posters, poster, mask = unique_posters(prompts)
        genres = genre_table(model, posters, prompts[0].frame, prompts[0].genres, batch_tokens, self.known)
        return genres, poster, mask

    @staticmethod
    def _as_trained(prompts: Sequence[GenrePrompt], genres, poster, mask) -> np.ndarray:
        return np.where(mask, np.einsum("nkg,ng->nk", genres[poster], centred_profile(prompts)), -np.inf)

    def _deciding(self, model, prompts: Sequence[GenrePrompt], genres, poster, mask, batch_tokens) -> np.ndarray:
        first, affinity = prompts[0], np.stack([p.affinity for p in prompts])
        usual = genre_table(model, first.sample, first.frame, first.genres, batch_tokens, self.known).mean(axis=0)
        return np.where(mask, mixture_scores(genres, usual, poster, affinity), -np.inf)


FORM = GenreLikelihood()
