"""Predicted rewards: they know captions and the past, of no row what came of it, and are judged beside plain means."""

import dataclasses
import math

import numpy as np
import pyarrow as pa
import pytest

from artlib import ope
from artlib.lm.embeddings import Inputs
from artlib.policies.baselines import greedy
from artlib.posttrain import rewards
from artlib.posttrain.settings import Settings
from artlib.worlds import fiction

SETTINGS = Settings(base="tiny", method="policy-gradient")


@pytest.fixture
def inputs(small_log) -> Inputs:
    """Captions and titles in two directions, genres in one of them."""
    rng = np.random.default_rng(0)

    def vectors(n: int) -> np.ndarray:
        angle = rng.uniform(0, 2 * np.pi, n)
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)

    genres = vectors(len(small_log.history.genres))
    return Inputs(
        small_log, vectors(len(small_log.artworks)), genres, vectors(len(small_log.titles)), np.zeros(len(genres))
    )


def test_each_feature_is_what_it_says(small_log, inputs):
    part = small_log.split("train").take(np.arange(40))
    arrays, found = part.arrays(), rewards.features(inputs, part)
    assert found.shape == (*arrays.mask.shape, 5) and (found[~arrays.mask] == 0).all()
    earlier = small_log.arrays("earlier")
    average = earlier.reward.mean()
    for row, column in [(0, 0), (7, 1), (39, 2)]:
        artwork, title = arrays.candidates[row, column], arrays.title[row]
        start, stop = small_log.history.spans(part.impressions)
        watched = small_log.history.title[start[row] : stop[row]]
        similar = np.mean([inputs.titles[t] @ inputs.captions[artwork] for t in watched]) if len(watched) else 0
        p = np.exp(inputs.similarity()[artwork])
        affinity = small_log.history.affinity(part.impressions, small_log.background.average)[row]
        rates = [
            (earlier.reward[same].sum() + 5 * average) / (same.sum() + 5)
            for same in (earlier.shown_artwork == artwork, earlier.title == title)
        ]
        expected = [math.log(arrays.production[row, column]), similar, math.log(p @ affinity / p.sum())]
        assert found[row, column].tolist() == pytest.approx([*expected, *np.log(rates)])


def test_a_log_without_genres_and_earlier_period_has_rewards_predicted_too(small_log):
    bare = small_log.titles.set_column(
        small_log.titles.schema.get_field_index("genres"), "genres", pa.array([[]] * 60, pa.list_(pa.string()))
    )
    log = dataclasses.replace(small_log, titles=bare, earlier=None, _shared={})
    part = log.split("train")
    found = rewards.predicted(log, part, SETTINGS)
    assert (
        np.isfinite(found).all() and (found[part.arrays().mask] > 0).all() and (found[~part.arrays().mask] == 0).all()
    )


def test_no_reward_is_predicted_by_a_model_that_saw_its_members_plays(small_log):
    """Other rewards of a member, other predictions for others, and the same for the member."""
    part = small_log.split("train")
    arrays = part.arrays()
    member = arrays.user == np.bincount(arrays.user).argmax()

    def predicted(reward: np.ndarray) -> np.ndarray:
        column = part.impressions.schema.get_field_index("reward")
        changed = part.impressions.set_column(column, "reward", pa.array(reward))
        return rewards.predicted(small_log, dataclasses.replace(part, impressions=changed), SETTINGS)

    before, after = predicted(arrays.reward), predicted(np.where(member, 1 - arrays.reward, arrays.reward))
    np.testing.assert_array_equal(before[member], after[member])
    assert (before[~member] != after[~member]).any()


def test_quality_is_that_of_the_shown_beside_the_means_of_the_others(small_log):
    arrays = small_log.split("train").arrays()
    q_hat = np.random.default_rng(0).uniform(0.05, 0.95, arrays.mask.shape)
    found = rewards.quality(arrays, q_hat)
    errors = {name: [] for name in found}
    losses = {name: [] for name in found}
    for row in range(len(arrays)):
        others = np.arange(len(arrays)) != row
        average = arrays.reward[others].mean()

        def mean(same: np.ndarray, others=others, average=average) -> float:
            return (arrays.reward[same & others].sum() + 5 * average) / ((same & others).sum() + 5)

        predictions = {
            "predicted": q_hat[row, arrays.shown[row]],
            "title mean": mean(arrays.title == arrays.title[row]),
            "user mean": mean(arrays.user == arrays.user[row]),
            "global mean": average,
        }
        for name, q in predictions.items():
            errors[name].append((arrays.reward[row] - q) ** 2)
            losses[name].append(-math.log(q if arrays.reward[row] else 1 - q))
    for name, judged in found.items():
        assert judged["squared_error"] == pytest.approx(np.mean(errors[name]))
        assert judged["log_loss"] == pytest.approx(np.mean(losses[name]))


def test_rewards_that_are_no_plays_have_no_log_loss(small_log):
    arrays = small_log.split("train").arrays()
    fractions = dataclasses.replace(arrays, reward=arrays.reward / 2)
    assert {judged["log_loss"] for judged in rewards.quality(fractions, np.full(arrays.mask.shape, 0.1)).values()} == {
        None
    }


@pytest.mark.slow
def test_a_model_that_reads_captions_predicts_better_than_means_and_knows_the_better_artwork():
    """And better than production's preference alone, by the embedded encoder."""
    log = fiction.build(n_users=2000, n_titles=200, n_train=6000, n_validation=200, n_test=200, seed=0)
    part = log.split("train")
    arrays, truth = part.arrays(), part.expected_reward()
    found = rewards.predicted(log, part, Settings(method="policy-gradient"))
    losses = {name: judged["log_loss"] for name, judged in rewards.quality(arrays, found).items()}
    assert losses["predicted"] < min(loss for name, loss in losses.items() if name != "predicted") - 0.01
    features = np.log(np.maximum(arrays.production, 1e-6))[:, :, None]
    by_production = ope.cross_fit(features, arrays.reward, arrays.shown, arrays.user, arrays.mask)
    assert losses["predicted"] < rewards.quality(arrays, by_production)["predicted"]["log_loss"] - 0.01
    values = [(greedy(np.where(arrays.mask, q, -1)) * truth).sum(axis=1).mean() for q in (found, by_production)]
    assert values[0] > 1.1 * values[1]
