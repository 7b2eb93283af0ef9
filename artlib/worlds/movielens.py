"""Real members, histories and titles from MovieLens, captions from the titles' TMDB keywords, simulated plays.

A member's taste is read off the member's whole rating record; a model sees only what came before an impression.
Captions are in `artlib.worlds.movielens_text`.
"""

import dataclasses
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import scipy.sparse as sp

from artlib.data import History, Log, LogError, table
from artlib.worlds import movielens_posters, simulation, sources, tmdb
from artlib.worlds import movielens_text as texts
from artlib.worlds.registry import Frozen, World
from artlib.worlds.simulation import ids

# Share of the ratings, by time, in each period. Time is cut once for everybody, as a production system would see it:
# nothing is fitted on what lies after what it is judged on, and titles released late are cold by themselves. Most
# members rate within a few days, so a test member is usually new; the last periods are long, and members are drawn
# evenly from them, because few would otherwise fill them.
PERIODS = {"": 0.4, "train": 0.4, "validation": 0.08, "test": 0.12}
MIN_HISTORY = 5  # earlier ratings that an impression's member has
PLAY_RATE = 0.12  # over everything that could be shown
NOT_GENRES = ("(no genres listed)", "IMAX")
ARTICLE = re.compile(r"^(.+), (The|A|An|Le|La|Les|L'|El|Il|Lo|Los|Las|Der|Die|Das|Un|Une)$")
YEAR = re.compile(r"\s*\((\d{4})(?:\s*[-–]\s*\d{0,4})?\)\s*$")

APPEAL = 0.5  # of a title of the member's genres, whatever the artwork
GENRE = 0.9  # of an artwork that leans to a genre the member likes
KEYWORD = 0.5  # of an artwork that shows keywords the member likes
QUALITY = 0.4  # standard deviation of an artwork's appeal to everybody
PSEUDO_RATINGS = 5.0  # that shrink a member's taste towards everybody's
MIN_TITLES = 5  # that carry a keyword about which members have a taste


def build(
    data: str | os.PathLike = "",
    n_train: int = 20_000,
    n_validation: int = 3000,
    n_test: int = 2000,
    n_users: int = 4000,
    seed: int = 0,
) -> Log:
    """Build the log. All sizes are the largest: with less data it takes what there is, and the manifest says so.

    Args:
        data: folder with `movielens/` (or MovieLens's own files, .csv or the older editions' .dat, whose films are
            found in TMDB by name and year) and `tmdb/`; see `sources.folder`.
        n_train, n_validation, n_test: impressions a split. The earlier period, on which production is fitted, is as
            long as the training split.
        n_users: members, drawn at random from larger editions.
        seed: of everything that is drawn.

    Returns:
        A log with truth and earlier period. Reward: 1 for a play.

    Raises:
        LogError: a file or column is missing, or a value cannot be read; names file, row, column, value, remedy.
    """
    sizes = {"": n_train, "train": n_train, "validation": n_validation, "test": n_test}
    for name, value in {"n_train": n_train, "n_validation": n_validation, "n_test": n_test, "n_users": n_users}.items():
        if value < 1:
            raise ValueError(f"{name} = {value}: at least 1 is needed")
    rng = np.random.default_rng(seed)
    ratings, movies, counts, used = _read(sources.folder(data), n_users, rng)
    catalogue, movies = _catalogue(movies, rng, counts)
    ratings = _known(ratings, movies["movieId"].to_numpy())
    chosen, split = _impressions(ratings, sizes, rng)
    world = _World(catalogue, *_tastes(ratings, catalogue))

    user, title, time = (ratings[name].to_numpy()[chosen] for name in ("user", "title", "time"))
    candidates = catalogue.artworks[title]
    logit = np.where(candidates >= 0, world.logit(user, title, candidates), -np.inf)
    base = _solve_base(logit)
    truth = 1 / (1 + np.exp(-(base + logit)))
    titles = _titles(movies)
    user_id = np.char.add("u", ratings["userId"].to_numpy()[chosen].astype(str))
    histories = _histories(ratings, titles, user, time)
    asked = pa.table({"user_id": user_id, "timestamp": pa.array(time, pa.timestamp("us", tz="UTC"))})
    offers = simulation.Offers(
        user_id=user_id,
        title=title,
        title_ids=titles["title_id"].to_numpy().astype(str),
        time=time,
        split=split,
        candidates=candidates,
        truth=truth,
        profile=History(titles, histories).genre_profile(asked),
        n_artworks=len(catalogue.captions),
    )
    tables, bandit = simulation.feedback(offers, rng)
    taken = {name or "earlier": int((split == name).sum()) for name in sizes}
    return Log(
        titles=titles,
        artworks=table(
            "artworks",
            {
                "artwork_id": ids("a", np.arange(len(catalogue.captions))),
                "title_id": titles["title_id"].take(pa.array(catalogue.owner)),
                "caption": catalogue.captions,
                "image": pa.nulls(len(catalogue.captions), pa.string()),
            },
        ),
        histories=histories,
        **tables,
        manifest={
            "world": "movielens",
            "parameters": {"n_users": n_users, **{f"n_{k}": v for k, v in sizes.items() if k}},
            "seed": seed,
            "source": {"files": used, "counts": counts},
            "taken": {**taken, "asked": {name or "earlier": n for name, n in sizes.items()}},
            "reward": "1 for a play, else 0; simulated from the taste that the member's whole rating record shows",
            "production": {"exploration": bandit.exploration, "sharpness": bandit.sharpness},
            "licence": "MovieLens: GroupLens terms, research use, acknowledge; TMDB metadata: research use with "
            "attribution, not endorsed or certified by TMDB. Do not publish this log.",
        },
    )


def _read(folder: Path, n_users: int, rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame, dict, list[str]]:
    """Ratings of the drawn members, the films they rated with their metadata, what was counted, and the files."""
    places = [folder / "movielens", folder, *sorted(folder.glob("ml-*"))]
    paths = {name: sources.find(places, f"{name}.csv", f"{name}.dat") for name in ("ratings", "movies")}
    ratings = _table(
        paths["ratings"], {"userId": "int64", "movieId": "int64", "rating": "float64", "timestamp": "int64"}
    )
    rating, time = ratings["rating"], ratings["timestamp"]
    wrong = ~((rating >= 0) & (rating <= 5))
    sources.check(paths["ratings"], "rating", wrong, rating, "is outside [0, 5]", "repair it")
    wrong = (time < 0) | (time > 4e9)
    sources.check(paths["ratings"], "timestamp", wrong, time, "is no time in seconds since 1970", "repair it")
    counts = {"ratings_in_file": len(ratings), "users_in_file": int(ratings["userId"].nunique())}
    users = np.sort(rng.permutation(ratings["userId"].unique())[:n_users])
    ratings = ratings[ratings["userId"].isin(users)]
    ratings = ratings.sort_values(["timestamp", "userId", "movieId"], kind="stable")
    ratings = ratings.drop_duplicates(["userId", "movieId"], keep="last")

    movies = _table(paths["movies"], {"movieId": "int64", "title": str, "genres": str})
    sources.check(paths["movies"], "title", movies["title"].isna(), movies["title"], "is empty", "name the film")
    movies = movies.drop_duplicates("movieId")
    movies = movies[movies["movieId"].isin(ratings["movieId"].unique())]
    if ".dat" in paths["movies"].suffixes:  # older editions have no links to TMDB
        tmdb_id = tmdb.ids_by_name(folder / "tmdb", _names(movies["title"]).set_index(movies.index))
    else:
        paths["links"] = sources.find(places, "links.csv")
        tmdb_id = movies["movieId"].map(_links(paths["links"]))
    counts |= {"users": len(users), "titles_rated": len(movies), "titles_without_tmdb_id": int(tmdb_id.isna().sum())}
    movies = movies[tmdb_id.notna()]
    tmdb_id = tmdb_id.dropna().astype(np.int64)
    joined, used = tmdb.read(folder / "tmdb", tmdb_id.to_numpy())
    movies = pd.concat([movies.reset_index(drop=True), joined.loc[tmdb_id].reset_index(drop=True)], axis=1)
    return ratings, movies, counts, [path.name for path in paths.values()] + used


def _table(path: Path, columns: dict[str, str | type]) -> pd.DataFrame:
    return (sources.read_dat if ".dat" in path.suffixes else sources.read_csv)(path, columns)


def _links(path: Path) -> dict[int, float]:
    """The TMDB id of each movie; NaN where it has none."""
    links = sources.read_csv(path, {"movieId": "int64", "tmdbId": str}).drop_duplicates("movieId")
    number = pd.to_numeric(links["tmdbId"], errors="coerce")
    wrong = number.isna() & links["tmdbId"].notna()
    sources.check(path, "tmdbId", wrong, links["tmdbId"], "is no number", "repair it or leave it empty")
    return dict(zip(links["movieId"], number, strict=True))


@dataclasses.dataclass(frozen=True)
class _Catalogue:
    genres: np.ndarray  # (T, G) 1 / number of its genres
    keywords: sp.csr_matrix  # (T, W) 1 / number of its keywords, of those with MIN_TITLES
    artworks: np.ndarray  # (T, K) artworks, -1 where padded
    owner: np.ndarray  # (A,) title
    lean: np.ndarray  # (A,) genre
    shows: sp.csr_matrix  # (A, W) 1 / number of keywords it shows
    quality: np.ndarray  # (A,)
    captions: list[str]


def _catalogue(movies: pd.DataFrame, rng: np.random.Generator, counts: dict) -> tuple[_Catalogue, pd.DataFrame]:
    """Artworks of the titles that have what they need; the others are dropped, and counted into `counts`."""
    movies = pd.concat([movies, _names(movies["title"])], axis=1)
    movies["genres"] = [
        [genre for genre in str(text).split("|") if genre and genre not in NOT_GENRES] if isinstance(text, str) else []
        for text in movies["genres"]
    ]
    movies["keywords"] = [
        texts.usable(keywords, name) for keywords, name in zip(movies["keywords"], movies["name"], strict=True)
    ]
    lacks = {
        "titles_without_genres": movies["genres"].map(len) == 0,
        "titles_without_overview": movies["overview"] == "",
        "titles_with_too_few_keywords": movies["keywords"].map(len) < texts.MIN_ARTWORKS,
    }
    keep = np.ones(len(movies), dtype=bool)
    for name, bad in lacks.items():
        counts[name] = int((bad & keep).sum())
        keep &= ~bad.to_numpy()
    movies = movies[keep].reset_index(drop=True)
    if not len(movies):
        raise LogError(f"no title has an overview, genres and {texts.MIN_ARTWORKS} keywords ({counts}); add TMDB files")
    artworks, left = texts.compose(movies["name"].tolist(), movies["genres"].tolist(), movies["keywords"].tolist(), rng)
    counts["titles_that_every_caption_names"] = int((~left).sum())
    movies = movies[left].reset_index(drop=True)
    counts["titles"] = len(movies)

    genre_names = sorted({genre for genres in movies["genres"] for genre in genres})
    genres = _shares(movies["genres"], genre_names).toarray()
    used = pd.Series([keyword for keywords in movies["keywords"] for keyword in keywords]).value_counts()
    vocabulary = sorted(used.index[used >= MIN_TITLES])
    owner = np.array([artwork.title for artwork in artworks])
    place = pd.Series(owner).groupby(owner).cumcount().to_numpy()
    padded = np.full((len(movies), place.max() + 1), -1)
    padded[owner, place] = np.arange(len(owner))
    catalogue = _Catalogue(
        genres=genres,
        keywords=_shares(movies["keywords"], vocabulary),
        artworks=padded,
        owner=owner,
        lean=np.array([genre_names.index(artwork.genre) for artwork in artworks]),
        shows=_shares([artwork.keywords for artwork in artworks], vocabulary),
        quality=rng.normal(0, QUALITY, len(owner)),
        captions=[artwork.caption for artwork in artworks],
    )
    return catalogue, movies


def _names(titles: pd.Series) -> pd.DataFrame:
    """Name and year: "Third Man, The (1949)" is The Third Man of 1949; no year where none is given."""
    rows = []
    for text in titles:
        found = YEAR.search(text)
        parts = re.split(r"\s*\((.*?)\)", YEAR.sub("", text).strip())  # every second part stood in brackets
        parts = [ARTICLE.sub(_put_in_front, part.strip()) for part in parts]
        name = " ".join(f"({part})" if i % 2 else part for i, part in enumerate(parts) if part)
        rows.append((name or text.strip(), int(found[1]) if found else None))
    return pd.DataFrame({"name": [name for name, _ in rows], "year": pd.array([y for _, y in rows], dtype="Int32")})


def _put_in_front(found: re.Match) -> str:
    return found[2] + ("" if found[2].endswith("'") else " ") + found[1]


def _shares(lists, names: list[str]) -> sp.csr_matrix:
    """(n, names) 1 / number of the names in each list; names of no interest are left out."""
    column = {name: i for i, name in enumerate(names)}
    pairs = [(row, column[name]) for row, items in enumerate(lists) for name in items if name in column]
    rows, columns = np.array(pairs, dtype=int).reshape(-1, 2).T
    counts = np.bincount(rows, minlength=len(lists))
    return sp.csr_matrix((1 / counts[rows], (rows, columns)), shape=(len(lists), len(names)))


def _known(ratings: pd.DataFrame, movie_ids: np.ndarray) -> pd.DataFrame:
    """Ratings of titles in the catalogue, with user and title as codes and time in microseconds, sorted by time."""
    title = pd.Index(movie_ids).get_indexer(ratings["movieId"].to_numpy())
    ratings = ratings[title >= 0]
    return ratings.assign(
        title=title[title >= 0], user=pd.factorize(ratings["userId"])[0], time=ratings["timestamp"] * 1_000_000
    ).reset_index(drop=True)


def _impressions(
    ratings: pd.DataFrame, sizes: dict[str, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `ratings` that become impressions, sorted by time, and the split of each ("" for the earlier period)."""
    before = ratings.groupby("user")["time"].rank(method="min").to_numpy() - 1
    rows = np.flatnonzero(before >= MIN_HISTORY)
    time = ratings["time"].to_numpy()[rows]
    cuts = np.quantile(time, np.cumsum(list(PERIODS.values()))[:-1]) if len(rows) else np.zeros(3)
    period = np.searchsorted(cuts, time, side="right")
    chosen, split = [], []
    for code, (name, n) in enumerate(sizes.items()):
        part = rng.permutation(rows[period == code])
        if not len(part):
            raise LogError(
                f"ratings.csv leaves no impression for the period {name or 'earlier'!r}: {len(rows)} ratings of known "
                f"titles follow {MIN_HISTORY} others of their member; take a larger edition or add TMDB files"
            )
        # Members take turns, so that a few who rate thousands do not fill a period.
        turn = ratings["user"].iloc[part].groupby(ratings["user"].iloc[part]).cumcount().to_numpy()
        chosen.append(np.sort(part[np.argsort(turn, kind="stable")[:n]]))
        split.append(np.full(len(chosen[-1]), name, dtype="<U10"))
    return np.concatenate(chosen), np.concatenate(split)


def _tastes(ratings: pd.DataFrame, catalogue: _Catalogue) -> tuple[np.ndarray, np.ndarray]:
    """(U, G) genre and (U, W) keyword tastes, each of unit variance.

    A rating weighs 2^(rating - the member's mean). With x that weight on a feature and e what it would be if the
    member were like everybody, taste = log((x + c) / (e + c)): 0 for a feature of which little is known.
    """
    user, title = ratings["user"].to_numpy(), ratings["title"].to_numpy()
    centred = ratings["rating"] - ratings.groupby("user")["rating"].transform("mean")
    shape = (user.max() + 1, len(catalogue.genres))
    weights = sp.csr_matrix((np.exp2(centred.to_numpy()), (user, title)), shape=shape)
    tastes = []
    for features in (sp.csr_matrix(catalogue.genres), catalogue.keywords):
        mine = np.asarray((weights @ features).todense(), dtype=np.float32)
        everybody = mine.sum(axis=0) / max(mine.sum(), 1e-12)
        # A keyword is a small share of a film, so less of a record bears on it.
        c = PSEUDO_RATINGS * min(1.0, mine.sum() / max(weights.sum(), 1e-12)) / np.diff(features.indptr).mean().clip(1)
        taste = np.log((mine + c) / (mine.sum(axis=1, keepdims=True) * everybody + c))
        tastes.append(np.clip(taste / max(taste.std(), 1e-6), -2.5, 2.5) if taste.size else taste)
    return tastes[0], tastes[1]


@dataclasses.dataclass(frozen=True)
class _World:
    catalogue: _Catalogue
    genre_taste: np.ndarray
    keyword_taste: np.ndarray

    def logit(self, user: np.ndarray, title: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """(n, K) log-odds of a play for each candidate, up to a constant; padded cells hold nonsense."""
        catalogue = self.catalogue
        suits = np.einsum("ng,ng->n", self.genre_taste[user], catalogue.genres[title])
        logit = APPEAL * suits[:, None] + catalogue.quality[candidates]
        logit += GENRE * self.genre_taste[user[:, None], catalogue.lean[candidates]]
        for k in range(candidates.shape[1]):
            for part in np.array_split(np.arange(len(user)), max(1, len(user) // 5000)):
                liked = catalogue.shows[candidates[part, k]].multiply(self.keyword_taste[user[part]])
                logit[part, k] += KEYWORD * np.asarray(liked.sum(axis=1)).ravel()
        return logit


def _solve_base(logit: np.ndarray) -> float:
    """The log-odds at which the mean over all candidates is PLAY_RATE, whatever the edition."""
    logit = logit[np.isfinite(logit)]
    low, high = -20.0, 20.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if (1 / (1 + np.exp(-(middle + logit)))).mean() > PLAY_RATE else (middle, high)
    return middle


def _titles(movies: pd.DataFrame) -> pa.Table:
    return table(
        "titles",
        {
            "title_id": np.char.add("m", movies["movieId"].to_numpy().astype(str)),
            "name": movies["name"].tolist(),
            "year": [None if pd.isna(year) else int(year) for year in movies["year"]],
            "genres": movies["genres"].tolist(),
            "synopsis": movies["overview"].tolist(),
        },
    )


def _histories(ratings: pd.DataFrame, titles: pa.Table, user: np.ndarray, time: np.ndarray) -> pa.Table:
    """All ratings of the impressions' members up to the last impression of each."""
    last = np.full(ratings["user"].max() + 1, np.iinfo(np.int64).min)
    np.maximum.at(last, user, time)
    kept = ratings[ratings["time"].to_numpy() < last[ratings["user"].to_numpy()]]
    kept = kept.sort_values(["user", "time"], kind="stable")
    return table(
        "histories",
        {
            "user_id": np.char.add("u", kept["userId"].to_numpy().astype(str)),
            "title_id": titles["title_id"].take(pa.array(kept["title"].to_numpy())),
            "timestamp": kept["time"].to_numpy(),
            "weight": kept["rating"].to_numpy() / 5,
        },
    )


WORLD = World(
    "movielens",
    build,
    sources.folder,
    read=texts.shown,
    reason="this poster looks like such films, {}",
    draw=movielens_posters.draw,
    frozen={
        "movielens-1": Frozen(
            {"n_train": 20_000, "n_validation": 3000, "n_test": 2000, "seed": 0},
            "f9b3116e7a1726d633abeafd3eda7d6cf6f819cc59dcc7385df4ec66cd020dc1",
        )
    },
)
