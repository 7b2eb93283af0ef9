"""A fictional catalogue with known truth: the embedded default world, which needs no download.

A title carries several themes; each of its artworks shows one of them through a scene that never names it. A member
likes a few themes and a few actors, and watches and plays accordingly. Whoever reads captions can therefore learn
from any title which artwork suits which member; whoever knows only ids must learn every artwork anew.

There are two kinds of catalogue. With *fine* genres, every theme is a listed genre: a member's genre profile says all
that there is to know. With *broad* genres, each covers three themes, and titles and artworks have a tone, too: themes,
tones and cast are told by synopses and captions alone, and tastes show only in what was watched, so that a genre
profile says next to nothing and whoever reads both wins. `worth` says how much.
"""

import itertools

import numpy as np
import pyarrow as pa

from artlib.data import History, Log, table
from artlib.worlds import fiction_members, fiction_posters, fiction_text, simulation
from artlib.worlds.fiction_catalogue import KINDS
from artlib.worlds.fiction_members import Population
from artlib.worlds.fiction_worth import worth
from artlib.worlds.registry import Frozen, World
from artlib.worlds.simulation import ids

DAY = 86_400_000_000  # microseconds
EARLIER, START = 1_735_689_600_000_000, 1_751_328_000_000_000  # 2025-01-01, 2025-07-01 UTC
WINDOWS = {"train": (0, 90), "validation": (90, 100), "test": (100, 120)}  # days after START


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
    world = fiction_members.draw(n_users, n_titles, genres, rng)
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


def _draw_impressions(
    world: Population, offered: np.ndarray, n: int, first: int, last: int, rng: np.random.Generator
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
        ends = np.searchsorted(at, np.arange(len(members) + 1))  # a member's rows lie together
        for member, (start, end) in enumerate(itertools.pairwise(ends)):
            title[part[start:end]] = titles[np.searchsorted(cumulative[member], u[start:end], side="right")]
    time = np.sort(rng.choice(np.arange(first, last, 1_000_000), size=n, replace=n > (last - first) // 1_000_000))
    mixed = rng.permutation(n)
    return user[mixed], title[mixed], time


def _histories(
    world: Population, user: np.ndarray, title: np.ndarray, time: np.ndarray, rng: np.random.Generator
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


FROZEN = {"n_users": 2000, "n_titles": 200, "n_train": 20_000, "n_validation": 2000, "n_test": 2000, "seed": 0}
WORLD = World(
    "fiction",
    build,
    read=fiction_text.shown,
    reason="this poster shows {}, as such films do",
    draw=fiction_posters.draw,
    worth=worth,
    frozen={
        "fiction-1": Frozen(FROZEN, "b2317382ed53608519f05b3de275fce14828441a42b7929e6b769613943ab8e1"),
        "fiction-broad-1": Frozen(
            FROZEN | {"genres": "broad"}, "678fb7491490296fb44d2dbb7700afff45ceea2d88f3127d90d00ff77312719e"
        ),
    },
)
