"""The production policy of the simulated worlds: a contextual bandit on ids and genre profiles, without an LLM."""

import dataclasses

import numpy as np
import scipy.sparse as sp


@dataclasses.dataclass(frozen=True)
class Production:
    """A fitted bandit. A artworks, G genres.

    Attributes:
        quality: (A,) log-odds of a play that an artwork adds for everybody.
        affinity: (A, G) what it adds a unit of the member's genre profile.
        exploration: probability of showing a uniformly drawn candidate instead.
        sharpness: factor on the log-odds before the softmax over candidates.
    """

    quality: np.ndarray
    affinity: np.ndarray
    exploration: float
    sharpness: float

    def probabilities(self, profile: np.ndarray, candidates: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """The policy: pi(a | x) = (1 - e) softmax(s z(x, a)) + e / K, over each impression's own candidates.

        Args:
            profile: (n, G) member's genre profile at the impression.
            candidates: (n, K) artworks; any value where padded.
            mask: (n, K) True where there is a candidate.

        Returns:
            (n, K) probabilities, 0 where padded.
        """
        candidates = np.where(mask, candidates, 0)
        logit = np.empty(mask.shape)
        for k in range(mask.shape[1]):  # (n, K, G) at once would be gigabytes at the paper's scale
            column = candidates[:, k]
            logit[:, k] = self.quality[column] + np.einsum("ng,ng->n", self.affinity[column], profile)
        logit = np.where(mask, self.sharpness * logit, -np.inf)
        softmax = np.exp(logit - logit.max(axis=1, keepdims=True))
        softmax /= softmax.sum(axis=1, keepdims=True)
        uniform = mask / mask.sum(axis=1, keepdims=True)
        return (1 - self.exploration) * softmax + self.exploration * uniform


def fit(
    profile: np.ndarray,
    title: np.ndarray,
    artwork: np.ndarray,
    reward: np.ndarray,
    n_titles: int,
    n_artworks: int,
    exploration: float = 0.15,
    sharpness: float = 3.0,
    regularisation: float = 1.0,
    emphasis: float = 5.0,
) -> Production:
    """Fit the bandit: logistic regression of plays on title id, artwork id and genre profile x artwork id.

    Args:
        profile: (n, G) member's genre profile at each impression of the earlier period.
        title, artwork: (n,) ids of what was shown.
        reward: (n,) a play where > 0.
        exploration, sharpness: see `Production`.
        regularisation: strength of the L2 penalty (an artwork shown a handful of times should say little).
        emphasis: factor on the profile, whose shares are small numbers, so that the penalty does not silence it.
    """
    from sklearn.linear_model import LogisticRegression  # a second to import, for those who build a log only
    from threadpoolctl import threadpool_limits

    profile = emphasis * profile
    n, genres = profile.shape
    rows = np.arange(n)
    one = np.ones(n)
    # An artwork without impressions keeps zero weights: a cold title is explored uniformly.
    features = sp.hstack(
        [
            sp.csr_matrix((one, (rows, artwork)), shape=(n, n_artworks)),
            sp.csr_matrix(
                (profile.ravel(), (np.repeat(rows, genres), (artwork[:, None] * genres + np.arange(genres)).ravel())),
                shape=(n, n_artworks * genres),
            ),
            sp.csr_matrix((one, (rows, title)), shape=(n, n_titles)),
            sp.csr_matrix(profile),
        ]
    ).tocsr()
    features.eliminate_zeros()
    if len(np.unique(reward > 0)) < 2:
        raise ValueError("the earlier period has no plays or nothing but plays: make it longer")
    with threadpool_limits(1):  # the order of sums, and so the last digits, must not depend on the machine's cores
        weights = LogisticRegression(C=1 / regularisation, max_iter=300).fit(features, reward > 0).coef_[0]
    return Production(
        quality=weights[:n_artworks],
        affinity=weights[n_artworks : n_artworks * (1 + genres)].reshape(n_artworks, genres) * emphasis,
        exploration=exploration,
        sharpness=sharpness,
    )


def draw(probabilities: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw one column a row from (n, K) probabilities."""
    cumulative = np.cumsum(probabilities, axis=1)
    u = rng.random((len(probabilities), 1)) * cumulative[:, -1:]
    return (cumulative <= u).sum(axis=1)
