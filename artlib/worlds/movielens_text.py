"""Captions of the movielens world: a title's own keywords, in a picture that leans to one of its genres."""

import collections
import dataclasses
import functools
import re
from importlib import resources

import numpy as np

MIN_ARTWORKS, MAX_ARTWORKS, MAX_KEYWORDS = 3, 6, 3
SMOOTHING = 2.0  # titles that pull a keyword's genres towards everybody's


@dataclasses.dataclass(frozen=True)
class Artwork:
    """One artwork: the row of its title, the genre to which it leans, the keywords it shows."""

    title: int
    genre: str
    keywords: list[str]
    caption: str


@functools.cache
def words() -> dict:
    """Templates, moods by genre, and the keywords that no picture can show."""
    import yaml

    text = resources.files("artlib.worlds").joinpath("movielens.yaml").read_text()
    content = yaml.safe_load(text)
    return content | {"unseen_keywords": {str(keyword) for keyword in content["unseen_keywords"]}}


def shown(caption: str) -> tuple[str, str]:
    """The genre to which a caption leans, and the mood that gives it away; LookupError where no genre owns the mood."""
    for genre, moods in words()["moods"].items():
        for mood in moods:
            if caption.endswith(f", {mood}."):
                return genre, mood
    raise LookupError(f"{caption!r} leans to no genre that has moods")


def parts(caption: str) -> tuple[list[str], str] | None:
    """The keywords of a caption and its mood; None for a caption of another world."""
    moods = [mood for own in words()["moods"].values() for mood in own] + words()["other"]
    mood = next((mood for mood in moods if caption.endswith(f", {mood}.")), None)
    for template in words()["templates"]:
        before = template.partition("{keywords}")[0]
        if mood and caption.startswith(before):
            *first, last = caption[len(before) : -len(f", {mood}.")].split(", ")
            # A keyword with "and" in it takes no harm from being two.
            return [*first, *last.rsplit(" and ", 1)], mood
    return None


def usable(keywords: list[str], name: str) -> list[str]:
    """The keywords that a caption can show and that do not name the title."""
    return [
        keyword
        for keyword in keywords
        if keyword not in words()["unseen_keywords"]
        and re.fullmatch(r"[\w' .&/-]{3,30}", keyword)
        and not names(keyword, name)
        and not names(name, keyword)
    ]


def names(text: str, name: str) -> bool:
    """Whether a text names a title, word by word; the title's article and what is in brackets do not matter."""
    words_of_text = " ".join(re.findall(r"\w+", text.lower()))
    return f" {plain(name)} " in f" {words_of_text} "


def plain(name: str) -> str:
    """A name in lower-case words without its article and its brackets, unless nothing were left."""
    found = re.findall(r"\w+", re.sub(r"\(.*?\)", " ", name).lower()) or re.findall(r"\w+", name.lower())
    return " ".join(found[1:] if len(found) > 1 and found[0] in ("the", "a", "an") else found) or name.lower()


def compose(
    titles: list[str], genres: list[list[str]], keywords: list[list[str]], rng: np.random.Generator
) -> tuple[list[Artwork], np.ndarray]:
    """Artworks of each title: its keywords are dealt out to three to six pictures, each to the genre it speaks for.

    Args:
        titles, genres, keywords: of T titles; at least one genre and MIN_ARTWORKS keywords each.
        rng: of everything.

    Returns:
        The artworks, with their titles counted among those left; and (T,) False where every caption would name it.
    """
    lift = _lift(genres, keywords)
    artworks, left = [], np.ones(len(titles), dtype=bool)
    for row, name in enumerate(titles):
        captions, parts = [], _deal(genres[row], keywords[row], lift, rng)
        for genre, shown in parts:
            captions.append(_caption(genre, shown, name, rng))
        if None in captions:
            left[row] = False
            continue
        place = int(left[:row].sum())
        pictures = zip(parts, captions, strict=True)
        artworks += [Artwork(place, genre, shown, caption) for (genre, shown), caption in pictures]
    return artworks, left


def _lift(genres: list[list[str]], keywords: list[list[str]]) -> dict[tuple[str, str], float]:
    """How much more often each genre goes with each keyword than with any: a smoothed ratio, by (keyword, genre)."""
    n_genre, n_keyword, n_pair = collections.Counter(), collections.Counter(), collections.Counter()
    for own, shown in zip(genres, keywords, strict=True):
        n_genre.update(own)
        n_keyword.update(shown)
        n_pair.update((keyword, genre) for keyword in shown for genre in own)
    share = {genre: n / len(genres) for genre, n in n_genre.items()}
    return {
        (keyword, genre): (n + SMOOTHING * share[genre]) / ((n_keyword[keyword] + SMOOTHING) * share[genre])
        for (keyword, genre), n in n_pair.items()
    }


def _deal(genres: list[str], keywords: list[str], lift: dict, rng: np.random.Generator) -> list[tuple[str, list[str]]]:
    """(genre, keywords) of each picture: in turn, each takes the keyword left that speaks most for its genre."""
    n = int(rng.integers(MIN_ARTWORKS, min(MAX_ARTWORKS, len(keywords)) + 1))
    order = rng.permutation(genres)
    leans = [str(order[i % len(order)]) for i in range(n)]
    left, parts = list(keywords), [[] for _ in leans]
    for _ in range(MAX_KEYWORDS):
        for genre, part in zip(leans, parts, strict=True):
            if left:
                part.append(max(left, key=lambda keyword: lift[keyword, genre]))  # noqa: B023, used at once
                left.remove(part[-1])
    pictures = list(zip(leans, parts, strict=True))
    return [pictures[i] for i in rng.permutation(n)]


def _caption(genre: str, keywords: list[str], name: str, rng: np.random.Generator) -> str | None:
    """A sentence of the keywords and one of the genre's moods that does not name the title; None if there is none."""
    shown = keywords[0] if len(keywords) == 1 else f"{', '.join(keywords[:-1])} and {keywords[-1]}"
    moods = words()["moods"].get(genre, words()["other"])
    for template in rng.permutation(words()["templates"]):
        for mood in rng.permutation(moods):
            caption = template.format(keywords=shown, mood=mood)
            if not names(caption, name):
                return caption
    return None
