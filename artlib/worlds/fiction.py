"""A fictional catalogue with known truth: the embedded default world, which needs no download.

A title carries several themes; each of its artworks shows one of them through a scene that never names it. A member
likes a few themes and a few actors, and watches and plays accordingly. Whoever reads captions can therefore learn
from any title which artwork suits which member; whoever knows only ids must learn every artwork anew.
"""

import dataclasses
import functools
from importlib import resources

import numpy as np
import pyarrow as pa

from artlib.data import History, Log, table
from artlib.worlds import simulation
from artlib.worlds.registry import World
from artlib.worlds.simulation import ids

# Share of a theme's scenes, and of the titles, that each split owns. Captions of validation and test titles are
# made of scenes that no training caption holds.
SHARES = {"train": 0.6, "validation": 0.15, "test": 0.25}
COLD = 0.2  # share of validation and test titles that are new: production never saw them
DAY = 86_400_000_000  # microseconds
EARLIER, START = 1_735_689_600_000_000, 1_751_328_000_000_000  # 2025-01-01, 2025-07-01 UTC
WINDOWS = {"train": (0, 90), "validation": (90, 100), "test": (100, 120)}  # days after START

BASE = -2.9  # log-odds of a play, all else being 0
APPEAL = 0.4  # of a title whose themes suit the member, whatever the artwork
THEME = 1.8  # of an artwork that shows a theme the member likes
ACTOR = 0.5  # of an artwork that shows an actor the member likes
QUALITY = 0.3  # standard deviation of an artwork's appeal to everybody


@dataclasses.dataclass(frozen=True)
class Text:
    """What the catalogue is written from."""

    genres: list[str]  # by theme
    names: list[str]
    forbidden: list[list[str]]
    scenes: list[list[str]]
    title_words: list[list[str]]
    plots: list[list[str]]
    palettes: dict[str, list[str]]  # name -> three hex colours
    compositions: list[str]
    cast: list[str]
    adjectives: list[str]
    places: list[str]


@functools.cache
def text() -> Text:
    """Read the themes and the shared words that the package ships."""
    import yaml

    folder = resources.files("artlib.worlds")
    themes = [
        yaml.safe_load(path.read_text())
        for path in sorted(folder.joinpath("themes").iterdir(), key=str)
        if path.name.endswith(".yaml")
    ]
    shared = yaml.safe_load(folder.joinpath("fiction.yaml").read_text())
    return Text(
        genres=[theme["genre"] for theme in themes],
        names=[theme["name"] for theme in themes],
        **{key: [theme[key] for theme in themes] for key in ("forbidden", "scenes", "title_words", "plots")},
        palettes={palette["name"]: palette["colours"] for palette in shared["palettes"]},
        **{key: shared[key] for key in ("compositions", "cast", "adjectives", "places")},
    )


def shown(caption: str) -> tuple[str, str]:
    """The genre of the theme that a fictional caption shows, and the scene that gives it away; LookupError for any
    other caption."""
    for genre, scenes in zip(text().genres, text().scenes, strict=True):
        for scene in scenes:
            if caption.lower().startswith(scene.lower()):
                return genre, scene.lower()
    raise LookupError(f"{caption!r} shows no scene of fiction")


def palette(caption: str) -> list[str]:
    """The hex colours of the palette that a fictional caption names; empty for any other caption."""
    return next((colours for name, colours in text().palettes.items() if name in caption), [])


def build(
    n_users: int = 4000,
    n_titles: int = 900,
    n_train: int = 40_000,
    n_validation: int = 4000,
    n_test: int = 2000,
    seed: int = 0,
) -> Log:
    """Simulate a log.

    Args:
        n_users, n_titles: size of the world.
        n_train, n_validation, n_test: impressions a split. The earlier period, on which production is fitted, is as
            long as the training split.
        seed: of everything; the same seed and sizes give the same bytes.

    Returns:
        A log with truth and earlier period. Reward: 1 for a play.
    """
    for name, value in {"n_users": n_users, "n_train": n_train, "n_validation": n_validation, "n_test": n_test}.items():
        if value < 1:
            raise ValueError(f"{name} = {value}: at least 1 is needed")
    if n_titles < 40:
        raise ValueError(f"n_titles = {n_titles}: at least 40 are needed, so that every split has warm and cold ones")
    rng = np.random.default_rng(seed)
    catalogue = _catalogue(n_titles, rng)
    taste, fandom = _tastes(n_users, rng)
    sizes = {"train": n_train, "validation": n_validation, "test": n_test}
    world = _World(catalogue, taste, fandom)

    # Sorted by time within each period; the earlier period offers every title that is not cold.
    periods = [_draw_impressions(world, ~catalogue.cold, n_train, EARLIER, START, rng)]
    for name, n in sizes.items():
        first, last = (START + day * DAY for day in WINDOWS[name])
        periods.append(_draw_impressions(world, catalogue.split == name, n, first, last, rng))
    user, title, time = (np.concatenate(parts) for parts in zip(*periods, strict=True))
    histories = _histories(world, user, title, time, rng)

    candidates = catalogue.artworks[title]
    mask = candidates >= 0
    truth = np.where(mask, world.play_probability(user, title, candidates), 0)
    asked = pa.table({"user_id": ids("u", user), "timestamp": pa.array(time, pa.timestamp("us", tz="UTC"))})
    profile = History(catalogue.titles, histories).genre_profile(asked)

    split = np.concatenate([np.full(n_train, ""), np.repeat(list(sizes), list(sizes.values()))])
    offers = simulation.Offers(
        user_id=ids("u", user),
        title=title,
        title_ids=ids("t", np.arange(n_titles)),
        time=time,
        split=split,
        candidates=candidates,
        truth=truth,
        profile=profile,
        n_artworks=len(catalogue.captions),
    )
    tables, bandit = simulation.feedback(offers, rng)
    return Log(
        titles=catalogue.titles,
        artworks=table(
            "artworks",
            {
                "artwork_id": ids("a", np.arange(len(catalogue.captions))),
                "title_id": ids("t", catalogue.owner),
                "caption": catalogue.captions,
                "image": pa.nulls(len(catalogue.captions), pa.string()),
            },
        ),
        histories=histories,
        **tables,
        manifest={
            "world": "fiction",
            "parameters": {"n_users": n_users, "n_titles": n_titles, **{f"n_{k}": v for k, v in sizes.items()}},
            "seed": seed,
            "reward": "1 for a play, else 0",
            "production": {"exploration": bandit.exploration, "sharpness": bandit.sharpness},
            "licence": "Apache-2.0",
        },
    )


@dataclasses.dataclass(frozen=True)
class _Catalogue:
    titles: pa.Table
    split: np.ndarray  # (T,) which split owns the title
    cold: np.ndarray  # (T,)
    themes: np.ndarray  # (T, themes) 1 / number of its themes, for those it carries
    cast: np.ndarray  # (T, 3) actors
    artworks: np.ndarray  # (T, K) artworks, -1 where padded
    owner: np.ndarray  # (A,) title
    theme: np.ndarray  # (A,) the theme it shows
    actor: np.ndarray  # (A,) the actor it shows, -1 for none
    quality: np.ndarray  # (A,)
    captions: list[str]


def _catalogue(n_titles: int, rng: np.random.Generator) -> _Catalogue:
    words = text()
    n_themes = len(words.names)
    split, cold = _split_titles(n_titles, rng)
    scenes = [_split_scenes(theme, rng) for theme in words.scenes]
    n_candidates = rng.integers(3, 9, n_titles)
    artworks = np.full((n_titles, 8), -1)
    rows, columns = {key: [] for key in ("owner", "theme", "actor")}, []
    themes, cast = np.zeros((n_titles, n_themes)), np.empty((n_titles, 3), dtype=int)
    captions, names = [], set()
    for title in range(n_titles):
        k = n_candidates[title]
        own = rng.choice(n_themes, size=max(2, round(0.7 * k)), replace=False)
        themes[title, own] = 1 / len(own)
        cast[title] = rng.choice(len(words.cast), size=3, replace=False)
        shown = rng.permutation(np.concatenate([own, rng.choice(own, size=k - len(own))]))
        artworks[title, :k] = len(captions) + np.arange(k)
        for theme in shown:
            actor = rng.choice(cast[title]) if rng.random() < 0.6 else -1
            captions.append(_caption(rng.choice(scenes[theme][split[title]]), actor, rng))
            for key, value in {"owner": title, "theme": theme, "actor": actor}.items():
                rows[key].append(value)
        columns.append(_describe(own, cast[title], names, rng))
    described = {key: [column[key] for column in columns] for key in columns[0]}
    titles = table("titles", {"title_id": ids("t", np.arange(n_titles)), **described})
    arrays = {key: np.array(value) for key, value in rows.items()}
    return _Catalogue(
        titles,
        split,
        cold,
        themes,
        cast,
        artworks,
        captions=captions,
        quality=rng.normal(0, QUALITY, len(captions)),
        **arrays,
    )


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


def _split_scenes(scenes: list[str], rng: np.random.Generator) -> dict[str, np.ndarray]:
    bounds = np.round(np.cumsum(list(SHARES.values())) * len(scenes)).astype(int)
    parts = np.split(rng.permutation(np.array(scenes)), bounds[:-1])
    return dict(zip(SHARES, parts, strict=True))


def _caption(scene: str, actor: int, rng: np.random.Generator) -> str:
    words = text()
    composition = rng.choice(words.compositions)
    caption = f"{scene[0].upper()}{scene[1:]}. {composition[0].upper()}{composition[1:]}"
    caption += f" in {rng.choice(list(words.palettes))}"
    return caption + (f", with {words.cast[actor]}." if actor >= 0 else ".")


def _describe(own: np.ndarray, cast: np.ndarray, names: set[str], rng: np.random.Generator) -> dict:
    """Name, year, genres and synopsis of a title; the genres are those of at most three of its themes."""
    words = text()
    while True:
        name = f"{rng.choice(words.adjectives)} {rng.choice(words.title_words[own[0]])}"
        name = f"The {name}" if rng.random() < 0.4 else name
        if name not in names:
            names.add(name)
            break
    first, second = (rng.choice(words.plots[theme]) for theme in own[:2])
    return {
        "name": name,
        "year": int(rng.integers(1970, 2025)),
        "genres": [words.genres[theme] for theme in own[:3]],
        "synopsis": f"In {rng.choice(words.places)}, {first}; meanwhile {second}. "
        f"With {', '.join(words.cast[actor] for actor in cast)}.",
    }


def _tastes(n_users: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(U, themes) and (U, actors): a few are liked, some themes are disliked, all others leave the member cold."""
    n_themes, n_actors = len(text().names), len(text().cast)
    taste, fandom = np.zeros((n_users, n_themes)), np.zeros((n_users, n_actors))
    rank = rng.random((n_users, n_themes)).argsort(axis=1).argsort(axis=1)
    liked = rng.integers(2, 5, (n_users, 1))
    taste[:] = np.where(rank < liked, rng.uniform(1.2, 2.0, taste.shape), 0)
    taste[:] = np.where(rank >= n_themes - 4, rng.uniform(-1.2, -0.4, taste.shape), taste)
    fandom[:] = rng.random(fandom.shape).argsort(axis=1).argsort(axis=1) < 4
    return taste, fandom


@dataclasses.dataclass(frozen=True)
class _World:
    catalogue: _Catalogue
    taste: np.ndarray
    fandom: np.ndarray

    def appeal(self, user: np.ndarray, titles: np.ndarray) -> np.ndarray:
        """(users, titles) how well the themes and the cast of titles suit users."""
        fans = sum(self.fandom[np.ix_(user, self.catalogue.cast[titles, place])] for place in range(3))
        return self.taste[user] @ (2 * self.catalogue.themes[titles].T) + 0.3 * fans

    def play_probability(self, user: np.ndarray, title: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """(n, K) probability of a play for each candidate; padded cells hold nonsense."""
        catalogue = self.catalogue
        suits = np.einsum("nt,nt->n", self.taste[user], catalogue.themes[title])[:, None]
        actor = catalogue.actor[candidates]
        liked = np.where(actor >= 0, self.fandom[user[:, None], actor], 0)
        theme = self.taste[user[:, None], catalogue.theme[candidates]]
        logit = BASE + APPEAL * suits + THEME * theme + ACTOR * liked + catalogue.quality[candidates]
        return 1 / (1 + np.exp(-logit))


def _draw_impressions(
    world: _World, offered: np.ndarray, n: int, first: int, last: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users, titles and times of n impressions: a member's page holds titles that roughly suit the member."""
    titles = np.flatnonzero(offered)
    user = np.sort(rng.integers(0, len(world.taste), n))
    title = np.empty(n, dtype=int)
    for part in np.array_split(np.arange(n), max(1, n * len(titles) // 20_000_000)):
        members, at = np.unique(user[part], return_inverse=True)
        odds = np.exp(0.7 * world.appeal(members, titles))
        cumulative = np.cumsum(odds, axis=1)
        u = rng.random(len(part)) * cumulative[at, -1]
        for row, member in enumerate(at):
            title[part[row]] = titles[np.searchsorted(cumulative[member], u[row], side="right")]
    time = np.sort(rng.choice(np.arange(first, last, 1_000_000), size=n, replace=n > (last - first) // 1_000_000))
    mixed = rng.permutation(n)
    return user[mixed], title[mixed], time


def _histories(
    world: _World, user: np.ndarray, title: np.ndarray, time: np.ndarray, rng: np.random.Generator
) -> pa.Table:
    """What members watched over the two years to their last impression, other than titles they are asked about."""
    catalogue = world.catalogue
    n_users = len(world.taste)
    titles = np.flatnonzero(~catalogue.cold)
    length = np.clip(rng.lognormal(3.2, 0.7, n_users), 4, min(150, len(titles) // 2)).astype(int)
    popularity = rng.normal(0, 0.7, len(titles))
    asked = np.unique(user * len(catalogue.cold) + title)
    last = np.zeros(n_users, dtype=np.int64)
    np.maximum.at(last, user, time)
    columns = {"user": [], "title": [], "time": [], "weight": []}
    for members in np.array_split(np.arange(n_users), max(1, n_users * len(titles) // 10_000_000)):
        appeal = world.appeal(members, titles)
        # The m largest of (log-odds + Gumbel noise) are m draws without replacement.
        key = 2.2 * appeal + popularity + rng.gumbel(size=appeal.shape)
        order = np.argsort(-key, axis=1)[:, : length.max()]
        row, place = np.nonzero(np.arange(order.shape[1]) < length[members][:, None])
        chosen = order[row, place]
        columns["user"].append(members[row])
        columns["title"].append(titles[chosen])
        columns["time"].append(rng.integers(START - 540 * DAY, START + 120 * DAY, len(row)))
        noise = rng.normal(0, 0.7, len(row))
        columns["weight"].append(1 / (1 + np.exp(-(0.8 + 0.8 * appeal[row, chosen] + noise))))
    watched = {key: np.concatenate(parts) for key, parts in columns.items()}
    keep = ~np.isin(watched["user"] * len(catalogue.cold) + watched["title"], asked)
    keep &= watched["time"] < np.where(last == 0, np.iinfo(np.int64).max, last)[watched["user"]]
    order = np.lexsort((watched["time"], watched["user"]))
    order = order[keep[order]]
    return table(
        "histories",
        {
            "user_id": ids("u", watched["user"][order]),
            "title_id": ids("t", watched["title"][order]),
            "timestamp": watched["time"][order],
            "weight": np.round(watched["weight"][order], 3),
        },
    )


WORLD = World("fiction", build, read=shown, reason="this poster shows {}, as such films do", palette=palette)
