"""What the fictional catalogue is written from, and how its captions and synopses are put together.

The words lie in fiction.yaml (what all share), themes/ (scenes and plots of a theme, its fine genre and the broad one)
and tones/ (how a picture looks, how a story is told). No caption names its theme, its genre or its tone.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence
from importlib import resources

import numpy as np

# Share of a theme's scenes, and of a tone's looks, that the titles of each split use: captions of validation and test
# titles are made of words that no training caption holds.
SHARES = {"train": 0.6, "validation": 0.15, "test": 0.25}
THEME_KEYS = ("forbidden", "scenes", "title_words", "plots")


@dataclasses.dataclass(frozen=True)
class Text:
    """Lists by theme (names, genres, broad, forbidden, scenes, title_words, plots), by tone (tones, looks, tellings,
    avoided words), and of the whole catalogue."""

    names: list[str]
    genres: list[str]
    broad: list[str]
    forbidden: list[list[str]]
    scenes: list[list[str]]
    title_words: list[list[str]]
    plots: list[list[str]]
    tones: list[str]
    avoided: list[list[str]]
    looks: list[list[str]]
    tellings: list[list[str]]
    palettes: dict[str, list[str]]  # name -> three hex colours
    compositions: list[str]
    cast: list[str]
    adjectives: list[str]
    places: list[str]


@functools.cache
def text() -> Text:
    """Read the words that the package ships."""
    import yaml

    folder = resources.files("artlib.worlds")

    def read(name: str) -> list[dict]:
        paths = sorted(folder.joinpath(name).iterdir(), key=str)
        return [yaml.safe_load(path.read_text()) for path in paths if path.name.endswith(".yaml")]

    themes, tones = read("themes"), read("tones")
    shared = yaml.safe_load(folder.joinpath("fiction.yaml").read_text())
    return Text(
        names=[theme["name"] for theme in themes],
        genres=[theme["genre"] for theme in themes],
        **{key: [theme[key] for theme in themes] for key in ("broad", *THEME_KEYS)},
        tones=[tone["name"] for tone in tones],
        avoided=[tone["forbidden"] for tone in tones],
        **{key: [tone[key] for tone in tones] for key in ("looks", "tellings")},
        palettes={palette["name"]: palette["colours"] for palette in shared["palettes"]},
        **{key: shared[key] for key in ("compositions", "cast", "adjectives", "places")},
    )


def shown(caption: str) -> tuple[str, str]:
    """The genre of the theme that a fictional caption shows, and the scene that gives it away; LookupError for any
    other caption. Captions of the catalogue with broad genres go on with a tone."""
    words = text()
    for theme, scenes in enumerate(words.scenes):
        for scene in scenes:
            if caption.lower().startswith(scene.lower()):
                look = caption[len(scene) + 2 :].partition(".")[0].lower()
                genres = words.broad if any(look in looks for looks in words.looks) else words.genres
                return genres[theme], scene.lower()
    raise LookupError(f"{caption!r} shows no scene of fiction")


@dataclasses.dataclass(frozen=True)
class Said:
    """What a fictional caption says. `look`, `tone` and `actor` are empty where it says nothing of them; `palette` has
    three hex colours."""

    scene: str
    look: str
    tone: str
    composition: str
    palette: list[str]
    actor: str


def read(caption: str) -> Said | None:
    """Take a caption of `caption` apart; None for any other."""
    found = _caption_pattern().fullmatch(caption)
    if found is None:
        return None
    words, look = text(), found["look"] or ""
    tones = [tone for tone, looks in zip(words.tones, words.looks, strict=True) if look.lower() in looks]
    return Said(
        scene=found["scene"],
        look=look,
        tone=tones[0] if tones else "",
        composition=found["composition"].lower(),
        palette=words.palettes[found["palette"]],
        actor=found["actor"] or "",
    )


@functools.cache
def _caption_pattern() -> re.Pattern:
    words = text()
    compositions, palettes, cast = (
        "|".join(map(re.escape, part)) for part in (words.compositions, words.palettes, words.cast)
    )
    return re.compile(
        rf"(?P<scene>[^.]+)\. (?:(?P<look>[^.]+)\. )?(?P<composition>(?i:{compositions})) in (?P<palette>{palettes})"
        rf"(?:, with (?P<actor>{cast}))?\."
    )


def split_words(lists: Sequence[list[str]], rng: np.random.Generator) -> list[dict[str, np.ndarray]]:
    """For each list of scenes or looks, those of each split: exact shares in random order."""
    return [_split(words, rng) for words in lists]


def _split(words: list[str], rng: np.random.Generator) -> dict[str, np.ndarray]:
    bounds = np.round(np.cumsum(list(SHARES.values())) * len(words)).astype(int)
    parts = np.split(rng.permutation(np.array(words)), bounds[:-1])
    return dict(zip(SHARES, parts, strict=True))


def caption(scene: str, look: str, actor: int, rng: np.random.Generator) -> str:
    """A caption; `look` may be empty, `actor` -1 for none."""
    words = text()
    composition = rng.choice(words.compositions)
    said = f"{_capital(scene)}. {_capital(look)}. " if look else f"{_capital(scene)}. "
    said += f"{_capital(composition)} in {rng.choice(list(words.palettes))}"
    return said + (f", with {words.cast[actor]}." if actor >= 0 else ".")


def describe(
    themes: np.ndarray, tone: int, cast: np.ndarray, names: set[str], rng: np.random.Generator
) -> dict[str, str | int]:
    """Name, year and synopsis of a title: the plots of its first two themes, its cast, and, unless `tone` is -1, how
    it is told. The name is put into `names`, which it is not in yet."""
    words = text()
    while True:
        name = f"{rng.choice(words.adjectives)} {rng.choice(words.title_words[themes[0]])}"
        name = f"The {name}" if rng.random() < 0.4 else name
        if name not in names:
            names.add(name)
            break
    first, second = (rng.choice(words.plots[theme]) for theme in themes[:2])
    year = int(rng.integers(1970, 2025))
    synopsis = f"In {rng.choice(words.places)}, {first}; meanwhile {second}. "
    if tone >= 0:
        synopsis += f"{rng.choice(words.tellings[tone])}. "
    return {
        "name": name,
        "year": year,
        "synopsis": f"{synopsis}With {', '.join(words.cast[actor] for actor in cast)}.",
    }


def _capital(phrase: str) -> str:
    return f"{phrase[0].upper()}{phrase[1:]}"
