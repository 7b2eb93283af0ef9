"""Readings of captions by an encoder, as it comes and post-trained: against sums written out; what they learn."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
import scipy.special
import torch

from artlib import data
from artlib.data import clauses, genre_names
from artlib.lm import encoder as encoders
from artlib.lm.embeddings import SHARPNESS, Inputs
from artlib.policies import encoder, finetuned, readings
from artlib.policies.readings import BLUR, Clauses, Genres
from artlib.worlds import fiction


@pytest.fixture(scope="module")
def model():
    return encoders.load(encoders.TINY)


@pytest.fixture(scope="module")
def artworks(small_log) -> np.ndarray:
    arrays = small_log.arrays()
    return np.unique(arrays.candidates[arrays.mask])


@pytest.fixture(scope="module", params=["genres", "clauses"])
def read(request, small_log, model, artworks):
    """A reading, and the untrained encoder's table."""
    if request.param == "clauses":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(clauses, "MOST_CLAUSES", 80)  # for speed; more than finetuned.MANY
            reading = Clauses(dataclasses.replace(small_log))
        return reading, reading.table(model, artworks)
    inputs = Inputs.read(small_log, model, artworks)
    return Genres(inputs), inputs.similarity()


def test_a_caption_speaks_through_the_clause_that_is_most_similar(small_log, model):
    reading, some = Clauses(small_log), np.array([5, 2])
    labels = model.embed(reading.labels)
    table = reading.table(model, some)
    assert not np.delete(table, some, axis=0).any()
    for row in some:
        own = model.embed(clauses.clauses(small_log.artworks["caption"][int(row)].as_py())) @ labels.T
        np.testing.assert_allclose(table[row], np.log(np.exp(BLUR * own).sum(axis=0)) / BLUR, atol=1e-5)
    part = small_log.split("test").take(np.array([0]))
    asked = part.arrays().candidates[0][part.arrays().mask[0]]
    table = reading.table(model, asked)
    expected = SHARPNESS * table[asked] @ reading.weights(part)[0]
    np.testing.assert_allclose(reading.scores(table, part)[0, : len(asked)], expected, atol=1e-9)


def test_impressions_are_scored_in_parts_as_all_at_once(small_log, read, monkeypatch):
    reading, table = read
    test = small_log.split("test")
    at_once = reading.scores(table, test)
    monkeypatch.setattr(readings, "ROWS", 7)
    np.testing.assert_allclose(reading.scores(table, test), at_once, atol=1e-12)


def test_the_encoder_that_comes_with_the_package_reads_clauses_where_genres_say_little():
    """On a catalogue with broad genres, clauses tell more of what members like than genres do."""
    log = fiction.build(n_users=300, n_titles=40, n_train=400, n_validation=40, n_test=800, seed=3, genres="broad")
    test = log.split("test")
    asked, model = np.unique(test.arrays().candidates[test.arrays().mask]), encoders.load()
    reading = Clauses(log)
    scores = reading.scores(reading.table(model, asked), test)
    best = scores == scores.max(axis=1, keepdims=True)
    chosen = (best / best.sum(axis=1, keepdims=True) * test.expected_reward()).sum(axis=1)
    mask = test.arrays().mask
    chance = (mask / mask.sum(axis=1, keepdims=True) * test.expected_reward()).sum(axis=1)
    assert (chosen - chance).mean() > 2 * (chosen - chance).std() / len(chance) ** 0.5


def test_a_post_trained_encoder_fits_plays_better_and_labels_the_one_it_began_from_alone(
    small_log, read, artworks, model, monkeypatch
):
    monkeypatch.setattr(finetuned, "RATE", 2e-3)  # the tiny encoder knows nothing, and has much to learn
    reading, untrained = read
    train, test = data.plays(small_log, "train", None, 0), small_log.split("test")
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    loss = encoder.loss(reading.scores(untrained, train), train)
    trained = finetuned.finetuned(reading, untrained, artworks, model, train, train)
    assert encoder.loss(trained(train), train) < loss - 0.005
    assert all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())
    scores, mask = trained(test), test.arrays().mask
    assert np.isfinite(scores[mask]).all() and (scores[~mask] == -np.inf).all()
    np.testing.assert_array_equal(finetuned.finetuned(reading, untrained, artworks, model, train, train)(test), scores)


def test_an_encoder_that_post_training_makes_worse_is_not_taken(small_log, read, artworks, model, monkeypatch):
    monkeypatch.setattr(finetuned, "RATE", 10.0)
    reading, untrained = read
    plays, validation = (data.plays(small_log, split, None, 0) for split in ("train", "validation"))
    liked = pa.array(reading.scores(untrained, validation).argmax(axis=1), pa.int32())  # it knows what will be played
    at = validation.impressions.schema.get_field_index("shown")
    field = validation.impressions.schema.field(at)
    known = validation.impressions.set_column(at, field, liked.cast(field.type))
    validation = dataclasses.replace(validation, impressions=known)
    scores = finetuned.finetuned(reading, untrained, artworks, model, plays, validation)(small_log.split("test"))
    np.testing.assert_array_equal(scores, reading.scores(untrained, small_log.split("test")))


def test_an_encoder_learns_targets_with_a_head_and_is_kept_where_it_learns_them_worse(small_log, model, monkeypatch):
    part, texts = small_log.split("train").take(np.arange(200)), small_log.artworks["caption"].to_pylist()
    head = np.random.default_rng(1).normal(size=model.model.config.hidden_size)
    before = (model.vectors(texts) @ torch.tensor(head, dtype=torch.float32)).numpy()

    def shares(each: np.ndarray, some=part) -> np.ndarray:
        arrays = some.arrays()
        return scipy.special.softmax(np.where(arrays.mask, each[arrays.candidates], -1e9), axis=1)

    def learnt(wanted: np.ndarray, rate: float) -> np.ndarray:
        monkeypatch.setattr(finetuned, "RATE", rate)
        return finetuned.finetuned_on_targets(model, head, texts, part, part, lambda some: shares(wanted, some))

    np.testing.assert_allclose(learnt(before, 10.0), before, rtol=1e-5)  # what it knew could not be known better
    wanted = np.random.default_rng(0).normal(size=len(texts))
    losses = [
        -(shares(wanted) * np.log(shares(each) + 1e-12)).sum(axis=1).mean() for each in (before, learnt(wanted, 5e-3))
    ]
    assert losses[1] < losses[0] - 0.01


def test_genres_are_those_of_the_log(small_log, model, artworks):
    assert Genres(Inputs.read(small_log, model, artworks)).labels == genre_names(small_log.titles)


def test_post_training_imitates_plays_as_the_language_model_does(small_log):
    """The cross-entropy of what was played, each by its reward; ignored impressions teach nothing."""
    part = small_log.split("train").take(np.arange(50))
    arrays = dataclasses.replace(part.arrays(), reward=part.arrays().reward * np.arange(50))
    scores = torch.randn(arrays.mask.shape, dtype=torch.float64).masked_fill(~torch.tensor(arrays.mask), -1e9)
    chosen = scores.log_softmax(dim=1).numpy()[np.arange(50), arrays.shown]
    assert 0 < np.count_nonzero(arrays.reward) < 50
    assert float(finetuned.imitation(scores, arrays)) == pytest.approx(-(arrays.reward * chosen).sum())
