"""The titles and artworks of the fictional catalogue, and what kinds of it there are."""

import dataclasses

import numpy as np
import pyarrow as pa

from artlib.data import table
from artlib.worlds import fiction_text
from artlib.worlds.fiction_text import SHARES, text
from artlib.worlds.simulation import ids

COLD = 0.2  # share of validation and test titles that are new: production never saw them


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of catalogue, in log-odds of a play where nothing else is said.

    Attributes:
        base: all else being 0.
        appeal: of a title that suits the member, whatever the artwork, a unit of how well it does.
        theme, tone, actor: of an artwork that shows what the member likes, a unit of liking.
        quality: standard deviation of an artwork's appeal to everybody.
        told, fans: what a title's tone and each liked actor add to how well it suits a member.
        cast, favourites: actors in the catalogue, and those that a member likes.
        credited: share of artworks that show an actor.
        watched: mean logarithm of the titles that a member watched.
        choosy: how much their suiting counts in what is watched.
        earlier: how many times as long as the training split the earlier period is.
    """

    base: float
    appeal: float
    theme: float
    tone: float
    actor: float
    quality: float
    told: float
    fans: float
    cast: int
    favourites: int
    credited: float
    watched: float
    choosy: float
    earlier: int


KINDS = {
    "broad": Kind(
        base=-2.9,
        appeal=0.4,
        theme=1.4,
        tone=1.2,
        actor=1.6,
        quality=0.3,
        told=0.6,
        fans=0.6,
        cast=36,
        favourites=5,
        credited=0.6,
        watched=3.7,
        choosy=3.5,
        earlier=2,
    ),
    "fine": Kind(
        base=-2.9,
        appeal=0.4,
        theme=1.8,
        tone=0.0,
        actor=0.5,
        quality=0.3,
        told=0.0,
        fans=0.3,
        cast=72,
        favourites=4,
        credited=0.6,
        watched=3.2,
        choosy=2.2,
        earlier=1,
    ),
}


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """T titles with at most K artworks each, A in all."""

    titles: pa.Table
    split: np.ndarray  # (T,) which split owns the title
    cold: np.ndarray  # (T,)
    themes: np.ndarray  # (T, themes) 1 / number of its themes, for those it carries
    tones: np.ndarray  # (T, tones) 1 for the one it is told in
    plots: np.ndarray  # (T, themes) 1 for the two that its synopsis tells
    cast: np.ndarray  # (T, 3) actors
    artworks: np.ndarray  # (T, K) artworks, -1 where padded
    owner: np.ndarray  # (A,) title
    theme: np.ndarray  # (A,) the theme it shows
    tone: np.ndarray  # (A,) the tone it shows, 0 where there are none
    actor: np.ndarray  # (A,) the actor it shows, -1 for none
    quality: np.ndarray  # (A,)
    captions: list[str]


def draw(kind: Kind, n_titles: int, rng: np.random.Generator) -> Catalogue:
    """A catalogue of a kind."""
    words, toned = text(), kind.tone > 0
    split, cold = _split_titles(n_titles, rng)
    scenes = fiction_text.split_words(words.scenes, rng)
    looks = fiction_text.split_words(words.looks, rng) if toned else []
    n_candidates = rng.integers(3, 9, n_titles)
    artworks = np.full((n_titles, 8), -1)
    rows: dict[str, list] = {key: [] for key in ("owner", "theme", "tone", "actor")}
    columns: list[dict] = []
    themes, plots = np.zeros((2, n_titles, len(words.names)))
    tones = np.zeros((n_titles, len(words.tones)))
    cast = np.empty((n_titles, 3), dtype=int)
    captions, names = [], set()
    for title in range(n_titles):
        k, tone = n_candidates[title], -1
        if toned:
            own, own_tones = _related_themes(rng), rng.choice(len(words.tones), size=2, replace=False)
            tone = own_tones[0]
            tones[title, tone] = 1
        else:
            own = rng.choice(len(words.names), size=max(2, round(0.7 * k)), replace=False)
        themes[title, own], plots[title, own[:2]] = 1 / len(own), 1
        cast[title] = rng.choice(kind.cast, size=3, replace=False)
        artworks[title, :k] = len(captions) + np.arange(k)
        shown = own[:k] if toned else own
        for theme in rng.permutation(np.concatenate([shown, rng.choice(own, size=k - len(shown))])):
            actor = rng.choice(cast[title]) if rng.random() < kind.credited else -1
            scene, look, looking = rng.choice(scenes[theme][split[title]]), "", 0
            if toned:
                looking = rng.choice(own_tones)
                look = rng.choice(looks[looking][split[title]])
            captions.append(fiction_text.caption(scene, look, actor, rng))
            for key, value in {"owner": title, "theme": theme, "tone": looking, "actor": actor}.items():
                rows[key].append(value)
        genres = [words.broad[theme] for theme in own] if toned else [words.genres[theme] for theme in own[:3]]
        described = fiction_text.describe(own, tone, cast[title], names, rng)
        columns.append({**described, "genres": list(dict.fromkeys(genres))})
    own_columns = {key: [column[key] for column in columns] for key in columns[0]}
    titles = table("titles", {"title_id": ids("t", np.arange(n_titles)), **own_columns})
    arrays = {key: np.array(value) for key, value in rows.items()}
    return Catalogue(
        titles,
        split,
        cold,
        themes,
        tones,
        plots,
        cast,
        artworks,
        captions=captions,
        quality=rng.normal(0, kind.quality, len(captions)),
        **arrays,
    )


def _related_themes(rng: np.random.Generator) -> np.ndarray:
    """The themes of a title with broad genres: two of one genre, often one of another, in random order."""
    broad = np.array(text().broad)
    first = rng.choice(np.unique(broad))
    own = rng.choice(np.flatnonzero(broad == first), size=2, replace=False)
    if rng.random() < 0.7:
        own = np.append(own, rng.choice(np.flatnonzero(broad != first)))
    return rng.permutation(own)


def _split_titles(n_titles: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Which split owns each title, and which of them are cold: exact shares in random order."""
    bounds = np.round(np.cumsum(list(SHARES.values())) * n_titles).astype(int)
    split, cold = np.empty(n_titles, dtype="<U10"), np.zeros(n_titles, dtype=bool)
    order = rng.permutation(n_titles)
    for name, part in zip(SHARES, np.split(order, bounds[:-1]), strict=True):
        split[part] = name
        if name != "train":
            cold[part[: round(COLD * len(part))]] = True
    return split, cold
