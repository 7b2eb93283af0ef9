"""A fictional catalogue with known truth: the embedded default world, which needs no download.

A title carries several themes; each of its artworks shows one of them through a scene that never names it. A member
likes a few themes and a few actors, and watches and plays accordingly. Whoever reads captions can therefore learn
from any title which artwork suits which member; whoever knows only ids must learn every artwork anew.

There are two kinds of catalogue. With *fine* genres, every theme is a listed genre: a member's genre profile says all
that there is to know. With *broad* genres, each covers three themes, and titles and artworks have a tone, too: themes,
tones and cast are told by synopses and captions alone, and tastes show only in what was watched, so that a genre
profile says next to nothing and whoever reads both wins. `worth` says how much.
"""

import dataclasses

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from artlib.data import Arrays, History, Log, table
from artlib.worlds import fiction_text, simulation
from artlib.worlds.fiction_text import SHARES, text
from artlib.worlds.registry import World
from artlib.worlds.simulation import ids

COLD = 0.2  # share of validation and test titles that are new: production never saw them
DAY = 86_400_000_000  # microseconds
EARLIER, START = 1_735_689_600_000_000, 1_751_328_000_000_000  # 2025-01-01, 2025-07-01 UTC
WINDOWS = {"train": (0, 90), "validation": (90, 100), "test": (100, 120)}  # days after START


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


def build(
    n_users: int = 4000,
    n_titles: int = 900,
    n_train: int = 40_000,
    n_validation: int = 4000,
    n_test: int = 2000,
    seed: int = 0,
    genres: str = "fine",
) -> Log:
    """Simulate a log.

    Args:
        n_users, n_titles: size of the world.
        n_train, n_validation, n_test: impressions a split. The earlier period, on which production is fitted, is as
            long as the training split, or `Kind.earlier` times that.
        seed: of everything; the same seed and sizes give the same bytes.
        genres: "broad" or "fine", see above.

    Returns:
        A log with truth and earlier period. Reward: 1 for a play.
    """
    for name, value in {"n_users": n_users, "n_train": n_train, "n_validation": n_validation, "n_test": n_test}.items():
        if value < 1:
            raise ValueError(f"{name} = {value}: at least 1 is needed")
    if n_titles < 40:
        raise ValueError(f"n_titles = {n_titles}: at least 40 are needed, so that every split has warm and cold ones")
    if genres not in KINDS:
        raise ValueError(f"genres = {genres!r} is not one of {', '.join(KINDS)}")
    rng = np.random.default_rng(seed)
    sizes = {"train": n_train, "validation": n_validation, "test": n_test}
    world = _world(n_users, n_titles, genres, rng)
    catalogue = world.catalogue

    # Sorted by time within each period; the earlier period offers every title that is not cold.
    n_earlier = world.kind.earlier * n_train
    periods = [_draw_impressions(world, ~catalogue.cold, n_earlier, EARLIER, START, rng)]
    for name, n in sizes.items():
        first, last = (START + day * DAY for day in WINDOWS[name])
        periods.append(_draw_impressions(world, catalogue.split == name, n, first, last, rng))
    user, title, time = (np.concatenate(parts) for parts in zip(*periods, strict=True))
    # With broad genres, what was watched may have been offered in the earlier period, which is long.
    past = n_earlier if genres == "broad" else 0
    histories = _histories(world, user[past:], title[past:], time[past:], rng)

    candidates = catalogue.artworks[title]
    mask = candidates >= 0
    truth = np.where(mask, world.play_probability(user, title, candidates), 0)
    asked = pa.table({"user_id": ids("u", user), "timestamp": pa.array(time, pa.timestamp("us", tz="UTC"))})
    profile = History(catalogue.titles, histories).genre_profile(asked)

    split = np.concatenate([np.full(n_earlier, ""), np.repeat(list(sizes), list(sizes.values()))])
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
            "parameters": {
                "n_users": n_users,
                "n_titles": n_titles,
                **{f"n_{k}": v for k, v in sizes.items()},
                "genres": genres,
            },
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


def _catalogue(kind: Kind, n_titles: int, rng: np.random.Generator) -> _Catalogue:
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
    return _Catalogue(
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


@dataclasses.dataclass(frozen=True)
class _World:
    """A catalogue, and what U members like."""

    kind: Kind
    catalogue: _Catalogue
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

    def known(self, taste: np.ndarray, mood: np.ndarray, fandom: np.ndarray, candidates: np.ndarray) -> dict:
        """(n, K) log-odds of a play by what is known, less what all candidates of a title have in common."""
        genres = text().broad if self.kind.tone else text().genres
        same = np.array(genres)[:, None] == np.array(genres)
        by_genre = taste @ (same / same.sum(axis=0))
        theme, tone, actor = self.shown(taste, mood, fandom, candidates)
        genre = self.shown(by_genre, mood, fandom, candidates)[0]
        kind = self.kind
        found = {"the genres of themes": genre, "themes": kind.theme * theme}
        if kind.tone:
            found["themes and tones"] = kind.theme * theme + kind.tone * tone
        last = "themes, tones and cast" if kind.tone else "themes and cast"
        return found | {last: kind.theme * theme + kind.tone * tone + kind.actor * actor}

    def average(self, title: np.ndarray, candidates: np.ndarray, most: int = 300) -> np.ndarray:
        """(n, K) the mean play probability of candidates over some members: what can be known by ids alone."""
        several = np.linspace(0, len(self.taste) - 1, min(most, len(self.taste))).astype(int)
        total = np.zeros(candidates.shape)
        for user in several:
            total += self.play_probability(np.full(len(title), user), title, candidates)
        return total / len(several)


def _world(n_users: int, n_titles: int, genres: str, rng: np.random.Generator) -> _World:
    kind = KINDS[genres]
    catalogue = _catalogue(kind, n_titles, rng)
    tastes = _broad_tastes if genres == "broad" else _fine_tastes
    return _World(kind, catalogue, *tastes(kind, n_users, rng))


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
    length = np.clip(rng.lognormal(world.kind.watched, 0.7, n_users), 4, min(150, len(titles) // 2)).astype(int)
    popularity = rng.normal(0, 0.7, len(titles))
    asked = np.unique(user * len(catalogue.cold) + title)
    last = np.zeros(n_users, dtype=np.int64)
    np.maximum.at(last, user, time)
    columns = {"user": [], "title": [], "time": [], "weight": []}
    for members in np.array_split(np.arange(n_users), max(1, n_users * len(titles) // 10_000_000)):
        appeal = world.appeal(members, titles)
        # The m largest of (log-odds + Gumbel noise) are m draws without replacement.
        key = world.kind.choosy * appeal + popularity + rng.gumbel(size=appeal.shape)
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


def worth(log: Log) -> pd.DataFrame:
    """What knowing is worth: the true value, on the test split, of always showing what suits best by a part of what
    makes members play.

    Args:
        log: of this world; its members' tastes are drawn again from the seed.

    Returns:
        A row for each thing to know, the later ones besides the earlier, with its lift over production (a ratio):
        everywhere, on warm titles, on cold ones; and, where it is a matter of tastes, everywhere if they are not known
        but read off what the member watched before, by the best linear reading of the themes that synopses tell, of
        tones and of cast.
    """
    parameters = log.manifest["parameters"]
    world = _world(
        parameters["n_users"],
        parameters["n_titles"],
        parameters["genres"],
        np.random.default_rng(log.manifest["seed"]),
    )
    test = log.split("test")
    arrays, truth = test.arrays(), test.expected_reward()
    cold = log.cold()[pc.equal(log.impressions["split"], "test").to_numpy()]
    ids_only = np.where(cold[:, None], 0, world.average(arrays.title, arrays.candidates))
    uniform = arrays.mask / arrays.mask.sum(axis=1, keepdims=True)
    known = {
        "nothing": uniform,
        "production": arrays.production,
        "each artwork's average": _best(ids_only, arrays),
    }
    read = {}
    for found, tastes in ((known, world.likes(_members(test))), (read, _read_off(world, log, test))):
        taste, mood, fandom = tastes
        for name, scores in world.known(taste, mood, fandom, arrays.candidates).items():
            found[name] = _best(scores, arrays)
    known["everything"] = _best(truth, arrays)
    rows = [np.ones(len(arrays), dtype=bool), ~cold, cold]

    def lift(policy: np.ndarray, at: np.ndarray) -> float:
        won, usual = ((truth * p).sum(axis=1)[at].mean() for p in (policy, arrays.production))
        return won / usual - 1

    table = {name: [lift(policy, at) for at in rows] for name, policy in known.items()}
    frame = pd.DataFrame.from_dict(table, orient="index", columns=["everywhere", "warm titles", "cold titles"])
    frame["tastes read off histories"] = pd.Series({name: lift(policy, rows[0]) for name, policy in read.items()})
    return frame.rename_axis("what is known")


def _best(scores: np.ndarray, arrays: Arrays) -> np.ndarray:
    """(n, K) the policy that shows the candidate with the highest score, each as often where several have it."""
    scores = np.where(arrays.mask, scores, -np.inf)
    best = scores >= scores.max(axis=1, keepdims=True) - 1e-9
    return best / best.sum(axis=1, keepdims=True)


def _members(log: Log) -> np.ndarray:
    return np.array([int(user[1:]) for user in log.impressions["user_id"].to_pylist()])


def _read_off(world: _World, log: Log, part: Log) -> list[np.ndarray]:
    """Themes, tones and actors that the members of a part of the log like, by ridge regression on the shares of each
    in what they watched before, fitted on the training split."""
    catalogue = world.catalogue
    cast = np.zeros((len(catalogue.cast), world.kind.cast))
    np.put_along_axis(cast, catalogue.cast, 1, axis=1)
    carried = np.hstack([catalogue.plots, catalogue.tones, cast])
    counts = np.vstack([np.zeros(carried.shape[1]), np.cumsum(carried[log.history.title], axis=0)])

    def shares(some: Log) -> np.ndarray:
        start, stop = log.history.spans(some.impressions)
        return np.hstack([(counts[stop] - counts[start]) / (stop - start + 5)[:, None], np.ones((len(start), 1))])

    train = log.split("train")
    x, y = shares(train), world.likes(_members(train))
    weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ np.hstack(y))
    return np.split(shares(part) @ weights, np.cumsum([one.shape[1] for one in y])[:-1], axis=1)


WORLD = World(
    "fiction",
    build,
    read=fiction_text.shown,
    reason="this poster shows {}, as such films do",
    palette=fiction_text.palette,
    worth=worth,
)
