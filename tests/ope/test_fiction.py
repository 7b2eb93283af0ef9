"""Intervals on the world that the notebooks use: members of fiction, its production policy, its true play rates."""

import numpy as np
import pytest
from made_intervals import share_covered

from artlib import ope
from artlib.worlds import fiction

# Those whose assumptions hold: the direct method's does not (its model is wrong), replay's only on a uniform log.
NAMES = ("ips", "snips", "dr", "sndr")


@pytest.fixture(scope="module")
def population():
    log = fiction.build(n_users=4000, n_titles=300, n_train=40_000, n_validation=500, n_test=500, seed=3)
    return log.arrays(), log.expected_reward()


def logs(population, target: str, logging: str, users: int, replications: int):
    """Draw users with all their impressions, then what they were shown and whether they played."""
    arrays, truth = population
    mask = arrays.mask
    uniform = mask / mask.sum(axis=1, keepdims=True)
    shown_by = {"production": arrays.production, "uniform": uniform}[logging]
    best = np.where(mask, truth, -1).argmax(axis=1)
    # A good policy that is not the oracle: half of the members' best artworks, else production.
    targets = {
        "stochastic": 0.5 * np.eye(mask.shape[1])[best] + 0.5 * arrays.production,
        "deterministic": np.eye(mask.shape[1])[np.where(arrays.title % 2, best, 0)],
    }
    pi = targets[target]
    # Cross-fitted in practice; here a model that is wrong but fixed, so that DR's assumption holds exactly.
    q_hat = np.where(mask, 0.5 * truth + 0.05, 0)
    value = float((pi * truth).sum(axis=1).mean())
    rows_of = np.split(np.argsort(arrays.user, kind="stable"), np.cumsum(np.bincount(arrays.user))[:-1])

    def draw():
        for seed in range(replications):
            rng = np.random.default_rng(seed)
            drawn = [rows_of[u] for u in rng.integers(0, len(rows_of), users)]
            rows, cluster = np.concatenate(drawn), np.repeat(np.arange(users), [len(part) for part in drawn])
            p = shown_by[rows]
            action = (p.cumsum(axis=1) < rng.random((len(rows), 1)) * p.sum(axis=1, keepdims=True)).sum(axis=1)
            at = np.arange(len(rows))
            reward = (rng.random(len(rows)) < truth[rows, action]).astype(float)
            yield ope.Feedback(reward, action, p[at, action], pi[rows], q_hat[rows], mask[rows], cluster)

    return draw(), value


CASES = [("stochastic", "production"), ("stochastic", "uniform"), ("deterministic", "uniform")]


@pytest.mark.parametrize(("target", "logging"), CASES)
def test_intervals_cover_the_truth_on_fiction_reduced(population, target, logging):
    found = share_covered(*logs(population, target, logging, 200, 100), NAMES, n_bootstrap=300)
    for key, share in found.items():
        assert share >= 0.88, f"{key} covers {share:.2f}"


@pytest.mark.slow
@pytest.mark.parametrize(("target", "logging"), CASES)
def test_intervals_cover_the_truth_on_fiction_in_93_to_97_percent_of_1000_logs(population, target, logging):
    found = share_covered(*logs(population, target, logging, 200, 1000), NAMES, n_bootstrap=1000)
    for key, share in found.items():
        assert 0.93 <= share <= 0.97, f"{key} covers {share:.3f}"
