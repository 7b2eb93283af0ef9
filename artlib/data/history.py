"""What each member watched before an impression, and the genres of titles."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from artlib.data.columns import codes

PSEUDO_TITLES = 5.0  # of the average member's genres, added to what a member watched


class History:
    """What each user watched, ready to be asked for what came strictly before an impression.

    Args:
        genres: of a profile, in its order; by default all that titles have.
    """

    def __init__(self, titles: pa.Table, histories: pa.Table, genres: Sequence[str] | None = None):
        users = pc.unique(histories["user_id"])
        self._users = pa.chunked_array([users.take(pc.sort_indices(users))])
        time = pc.cast(histories["timestamp"], pa.int64()).to_numpy()
        self._times = np.unique(time)
        key = self._key(codes(self._users, histories["user_id"]), np.searchsorted(self._times, time))
        order = np.argsort(key, kind="stable")
        self._sorted = key[order]
        self.genres = genre_names(titles) if genres is None else list(genres)
        self._genres = genre_matrix(titles, self.genres)
        self.title = codes(titles["title_id"], histories["title_id"])[order]
        self.weight = histories["weight"].to_numpy()[order]

    @staticmethod
    def _key(user: np.ndarray, time_rank: np.ndarray | int) -> np.ndarray:
        return user << 32 | time_rank

    def spans(self, impressions: pa.Table) -> tuple[np.ndarray, np.ndarray]:
        """Where each impression's history lies: rows start to stop (exclusive) of `title` and `weight`, oldest first.

        Args:
            impressions: any table with user_id and timestamp, n rows.

        Returns:
            (n,) start and (n,) stop; equal where the user watched nothing before.
        """
        user = codes(self._users, impressions["user_id"])  # -1 for those who watched nothing: before all others
        rank = np.searchsorted(self._times, pc.cast(impressions["timestamp"], pa.int64()).to_numpy())
        return np.searchsorted(self._sorted, self._key(user, 0)), np.searchsorted(self._sorted, self._key(user, rank))

    def genre_profile(self, impressions: pa.Table) -> np.ndarray:
        """The share of each genre in what the user watched before, each title counted by its weight.

        Returns:
            (n, G) rows that sum to 1 (0 without history); genres in the order of `genre_names`.
        """
        start, stop = self.spans(impressions)
        profile = np.empty((len(start), self._genres.shape[1]))
        counts = np.zeros(len(self.title) + 1)
        for genre, share in enumerate(self._genres.T):  # at once, a long history of many genres would be gigabytes
            np.cumsum(share[self.title] * self.weight, out=counts[1:])
            profile[:, genre] = np.maximum(counts[stop] - counts[start], 0)
        return profile / np.maximum(profile.sum(axis=1, keepdims=True), 1e-12)

    def affinity(self, impressions: pa.Table, average: np.ndarray) -> np.ndarray:
        """(n, G) how many times as much of each genre the user watched as the average member, see `affinities`."""
        start, stop = self.spans(impressions)
        return affinities(self.genre_profile(impressions), stop - start, average)

    def favourites(self, impressions: pa.Table, n: int = 3) -> list[list[str]]:
        """The names of each user's top genres at the impression, most first, at most n."""
        names, profile = np.array(self.genres), self.genre_profile(impressions)
        top = np.argsort(-profile, axis=1, kind="stable")[:, :n]
        return [names[row[profile[i, row] > 0]].tolist() for i, row in enumerate(top)]


def affinities(profile: np.ndarray, n_watched: np.ndarray, average: np.ndarray) -> np.ndarray:
    """(..., G) how many times the average member's share of each genre this member's is, > 0.

    A short history says little: `PSEUDO_TITLES` titles of the average member's are added to it.

    Args:
        profile: (..., G) shares in what the member watched; 0 without history.
        n_watched: (...) titles.
        average: (G,) the average member's shares, > 0.
    """
    n = np.where(profile.any(axis=-1), n_watched, 0)[..., None]  # titles without a genre say nothing
    return (n * profile / average + PSEUDO_TITLES) / (n + PSEUDO_TITLES)


def genre_names(titles: pa.Table) -> list[str]:
    """All genres, sorted."""
    return sorted(pc.unique(pc.list_flatten(titles["genres"])).to_pylist())


def genre_matrix(titles: pa.Table, genres: Sequence[str] | None = None) -> np.ndarray:
    """(T, G) share of each genre in each title: 1 / number of its genres. Those that are not in `genres` are nobody's
    column."""
    names = {name: column for column, name in enumerate(genre_names(titles) if genres is None else genres)}
    matrix = np.zeros((len(titles), len(names)))
    for row, own in enumerate(map(dict.fromkeys, titles["genres"].to_pylist())):  # each once
        for genre in own:
            if genre in names:
                matrix[row, names[genre]] = 1 / len(own)
    return matrix
