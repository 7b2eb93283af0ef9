"""The members of the fictional world: what they like, and so what suits them and what they play."""

import dataclasses

import numpy as np

from artlib.worlds import fiction_catalogue
from artlib.worlds.fiction_catalogue import KINDS, Catalogue, Kind
from artlib.worlds.fiction_text import text


@dataclasses.dataclass(frozen=True)
class Population:
    """A catalogue, and what U members like."""

    kind: Kind
    catalogue: Catalogue
    taste: np.ndarray  # (U, themes)
    mood: np.ndarray  # (U, tones)
    fandom: np.ndarray  # (U, actors)

    def appeal(self, user: np.ndarray, titles: np.ndarray) -> np.ndarray:
        """(users, titles) how well the themes, the tone and the cast of titles suit users."""
        fans = sum(self.fandom[np.ix_(user, self.catalogue.cast[titles, place])] for place in range(3))
        suits = self.taste[user] @ (2 * self.catalogue.themes[titles].T) + self.kind.fans * fans
        if self.kind.told:
            suits += self.kind.told * self.mood[user] @ self.catalogue.tones[titles].T
        return suits

    def play_probability(self, user: np.ndarray, title: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """(n, K) probability of a play for each candidate; padded cells hold nonsense."""
        kind, suits = self.kind, np.einsum("nt,nt->n", self.taste[user], self.catalogue.themes[title])[:, None]
        theme, tone, actor = self.shown(*self.likes(user), candidates)
        logit = kind.base + kind.appeal * suits + kind.theme * theme + kind.tone * tone + kind.actor * actor
        return 1 / (1 + np.exp(-(logit + self.catalogue.quality[candidates])))

    def likes(self, user: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What n users like: (n, themes), (n, tones), (n, actors)."""
        return self.taste[user], self.mood[user], self.fandom[user]

    def shown(
        self, taste: np.ndarray, mood: np.ndarray, fandom: np.ndarray, candidates: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """How much n users with such likes like what each of (n, K) candidates shows: theme, tone and actor."""
        rows, catalogue = np.arange(len(candidates))[:, None], self.catalogue
        actor = catalogue.actor[candidates]
        return (
            taste[rows, catalogue.theme[candidates]],
            mood[rows, catalogue.tone[candidates]],
            np.where(actor >= 0, fandom[rows, actor], 0),
        )


def draw(n_users: int, n_titles: int, genres: str, rng: np.random.Generator) -> Population:
    """Members and a catalogue of one of `KINDS`."""
    kind = KINDS[genres]
    catalogue = fiction_catalogue.draw(kind, n_titles, rng)
    tastes = _broad_tastes if genres == "broad" else _fine_tastes
    return Population(kind, catalogue, *tastes(kind, n_users, rng))


def _fine_tastes(kind: Kind, n_users: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(U, themes), (U, tones) and (U, actors): a few are liked, some themes are disliked, all others leave the member
    cold."""
    n_themes = len(text().names)
    rank = rng.random((n_users, n_themes)).argsort(axis=1).argsort(axis=1)
    liked = rng.integers(2, 5, (n_users, 1))
    taste = np.where(rank < liked, rng.uniform(1.2, 2.0, rank.shape), 0)
    taste = np.where(rank >= n_themes - 4, rng.uniform(-1.2, -0.4, rank.shape), taste)
    return taste, np.zeros((n_users, len(text().tones))), _fandom(kind, n_users, rng)


def _broad_tastes(kind: Kind, n_users: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same: themes of three genres are liked, one of each, and another theme of these genres is disliked; one or
    two tones are liked, and as many disliked."""
    broad = np.array(text().broad)
    genres = np.unique(broad)
    members = np.arange(n_users)[:, None]
    # A random order of the genres for each member, and of the themes within each genre.
    within = np.stack([rng.permuted(np.tile(np.flatnonzero(broad == g), (n_users, 1)), axis=1) for g in genres], axis=1)
    liked = rng.random((n_users, len(genres))).argsort(axis=1)[:, :3]
    taste = np.zeros((n_users, len(broad)))
    taste[members, within[members, liked, 0]] = rng.uniform(1.0, 2.0, liked.shape)
    taste[members, within[members, liked, 1]] = rng.uniform(-1.2, -0.4, liked.shape)
    mood, n_tones = np.zeros((n_users, len(text().tones))), rng.integers(1, 3, (n_users, 1))
    order = rng.random(mood.shape).argsort(axis=1).argsort(axis=1)
    mood = np.where(order < n_tones, rng.uniform(1.0, 2.0, mood.shape), mood)
    mood = np.where(order >= mood.shape[1] - n_tones, rng.uniform(-1.2, -0.4, mood.shape), mood)
    return taste, mood, _fandom(kind, n_users, rng)


def _fandom(kind: Kind, n_users: int, rng: np.random.Generator) -> np.ndarray:
    rank = rng.random((n_users, kind.cast)).argsort(axis=1).argsort(axis=1)
    return np.where(rank < kind.favourites, 1.0, 0.0)
