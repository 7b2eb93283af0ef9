"""What knowing is worth in the fictional world, to whoever chooses artworks by it."""

import numpy as np
import pandas as pd
import pyarrow.compute as pc

from artlib.data import Arrays, Log
from artlib.worlds import fiction_members
from artlib.worlds.fiction_members import Population
from artlib.worlds.fiction_text import text


def worth(log: Log) -> pd.DataFrame:
    """What knowing is worth: the true value, on the test split, of always showing what suits best by a part of what
    makes members play.

    Args:
        log: of this world; its members' tastes are drawn again from the seed.

    Returns:
        A row for each thing to know, from themes on besides what stands above, with its lift over production (a
        ratio): everywhere, on warm titles, on cold ones; and, where it is a matter of tastes, everywhere if they are
        not known but read off what the member watched before, by the best linear reading of the themes that synopses
        tell, of tones and of cast.
    """
    parameters = log.manifest["parameters"]
    population = fiction_members.draw(
        parameters["n_users"],
        parameters["n_titles"],
        parameters.get("genres", "fine"),  # logs that are older than the other kind
        np.random.default_rng(log.manifest["seed"]),
    )
    test = log.split("test")
    arrays, truth = test.arrays(), test.expected_reward()
    cold = log.cold()[pc.equal(log.impressions["split"], "test").to_numpy()]
    ids_only = np.where(cold[:, None], 0, _average(population, arrays.title, arrays.candidates))
    uniform = arrays.mask / arrays.mask.sum(axis=1, keepdims=True)
    known = {
        "nothing": uniform,
        "production": arrays.production,
        "each artwork's average": _best(ids_only, arrays),
    }
    read = {}
    for found, tastes in ((known, population.likes(_members(test))), (read, _read_off(population, log, test))):
        taste, mood, fandom = tastes
        for name, scores in _known(population, taste, mood, fandom, arrays.candidates).items():
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


def _known(
    population: Population, taste: np.ndarray, mood: np.ndarray, fandom: np.ndarray, candidates: np.ndarray
) -> dict[str, np.ndarray]:
    """(n, K) log-odds of a play by what is known, less what all candidates of a title have in common."""
    genres = text().broad if population.kind.tone else text().genres
    same = np.array(genres)[:, None] == np.array(genres)
    by_genre = taste @ (same / same.sum(axis=0))
    theme, tone, actor = population.shown(taste, mood, fandom, candidates)
    genre = population.shown(by_genre, mood, fandom, candidates)[0]
    kind = population.kind
    found = {"the genres of themes": genre, "themes": kind.theme * theme}
    if kind.tone:
        found["themes and tones"] = kind.theme * theme + kind.tone * tone
    last = "themes, tones and cast" if kind.tone else "themes and cast"
    return found | {last: kind.theme * theme + kind.tone * tone + kind.actor * actor}


def _average(population: Population, title: np.ndarray, candidates: np.ndarray, most: int = 300) -> np.ndarray:
    """(n, K) the mean play probability of candidates over some members: what can be known by ids alone."""
    several = np.linspace(0, len(population.taste) - 1, min(most, len(population.taste))).astype(int)
    total = np.zeros(candidates.shape)
    for user in several:
        total += population.play_probability(np.full(len(title), user), title, candidates)
    return total / len(several)


def _best(scores: np.ndarray, arrays: Arrays) -> np.ndarray:
    """(n, K) the policy that shows the candidate with the highest score, each as often where several have it."""
    scores = np.where(arrays.mask, scores, -np.inf)
    best = scores >= scores.max(axis=1, keepdims=True) - 1e-9
    return best / best.sum(axis=1, keepdims=True)


def _members(log: Log) -> np.ndarray:
    return np.array([int(user[1:]) for user in log.impressions["user_id"].to_pylist()])


def _read_off(population: Population, log: Log, part: Log) -> list[np.ndarray]:
    """Themes, tones and actors that the members of a part of the log like, by ridge regression on the shares of each
    in what they watched before, fitted on the training split."""
    catalogue = population.catalogue
    cast = np.zeros((len(catalogue.cast), population.kind.cast))
    np.put_along_axis(cast, catalogue.cast, 1, axis=1)
    carried = np.hstack([catalogue.plots, catalogue.tones, cast])
    counts = np.vstack([np.zeros(carried.shape[1]), np.cumsum(carried[log.history.title], axis=0)])

    def shares(some: Log) -> np.ndarray:
        start, stop = log.history.spans(some.impressions)
        return np.hstack([(counts[stop] - counts[start]) / (stop - start + 5)[:, None], np.ones((len(start), 1))])

    train = log.split("train")
    x, y = shares(train), population.likes(_members(train))
    weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ np.hstack(y))
    return np.split(shares(part) @ weights, np.cumsum([one.shape[1] for one in y])[:-1], axis=1)
