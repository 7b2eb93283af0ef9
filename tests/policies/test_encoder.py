"""Readers of captions by an encoder: they learn what is there to learn, and nothing of what production shows."""

import dataclasses
import functools

import numpy as np
import pytest
import torch

from artlib import data
from artlib.data import genre_names
from artlib.lm.embeddings import Inputs
from artlib.policies import encoder, readings
from artlib.policies.baselines import greedy, uniform
from artlib.worlds import fiction_text


@pytest.fixture(scope="module")
def inputs(small_log) -> Inputs:
    """What an encoder would make of the log that sees a caption's theme and nothing else, in 48 directions."""
    rng, themes = np.random.default_rng(0), fiction_text.text().scenes
    captions = [caption.lower() for caption in small_log.artworks["caption"].to_pylist()]
    shows = np.array([[any(scene.lower() in caption for scene in scenes) for scenes in themes] for caption in captions])
    directions = np.linalg.qr(rng.normal(size=(48, 48)))[0][: len(themes)]
    genres = np.array([directions[fiction_text.text().genres.index(name)] for name in genre_names(small_log.titles)])
    carries = np.array(
        [[name in own for name in genre_names(small_log.titles)] for own in small_log.titles["genres"].to_pylist()]
    )
    titles = carries @ genres / np.maximum(np.linalg.norm(carries @ genres, axis=1, keepdims=True), 1e-9)
    vectors = shows @ directions
    return Inputs(small_log, vectors, genres, titles, (vectors @ genres.T).mean(axis=0))


@pytest.fixture(scope="module")
def plays(small_log):
    return [data.plays(small_log, split, None, 0) for split in ("train", "validation")]


def by_genres(inputs: Inputs):
    return functools.partial(readings.Genres(inputs).scores, inputs.similarity())


def value(part, scores) -> float:
    return (greedy(scores) * part.expected_reward()).sum(axis=1).mean()


def test_an_encoder_that_sees_the_theme_needs_no_plays(small_log, inputs):
    test = small_log.split("test")
    chance = (uniform(test) * test.expected_reward()).sum(axis=1).mean()
    assert value(test, by_genres(inputs)(test)) > 1.2 * chance
    assert value(test, encoder.by_history(inputs)(test)) > chance


def test_readers_score_every_candidate_and_no_other_whoever_else_is_asked_about(small_log, inputs, plays):
    test, some = small_log.split("test"), np.array([3, 1, 8])
    untrained = [by_genres(inputs), encoder.by_history(inputs)]
    readers = [
        *untrained,
        encoder.learnt_by_genres(inputs, *plays),
        encoder.learnt_by_history(inputs, *plays),
        encoder.fusion(inputs.log, untrained, *plays),
    ]
    mask = test.arrays().mask
    for reader in readers:
        scores = reader(test)
        assert np.isfinite(scores[mask]).all() and (scores[~mask] == -np.inf).all()
        again = reader(test.take(some))
        np.testing.assert_allclose(again, scores[some, : again.shape[1]], atol=1e-9)


def test_what_is_learnt_fits_the_validation_plays_no_worse(inputs, plays):
    untrained = encoder.loss(by_genres(inputs)(plays[1]), plays[1])
    assert encoder.loss(encoder.learnt_by_genres(inputs, *plays)(plays[1]), plays[1]) <= untrained + 0.02


def test_a_fusion_takes_from_a_reader_what_it_knows_and_asks_it_once(small_log, plays):
    asked = []

    def knows(part):
        asked.append(part)
        return np.where(part.arrays().mask, np.log(np.maximum(part.expected_reward(), 1e-9)), -np.inf)

    def noise(part):
        arrays = part.arrays()
        drawn = np.random.default_rng(len(arrays)).normal(size=arrays.mask.shape)
        return np.where(arrays.mask, drawn, -np.inf)

    test = small_log.split("test")
    none, knowing, neither = (value(test, encoder.fusion(small_log, r, *plays)(test)) for r in ([], [knows], [noise]))
    best = (test.arrays().mask * test.expected_reward()).max(axis=1).mean()
    assert knowing > 0.9 * best > max(none, neither)
    assert [len(part.impressions) for part in asked] == [len(part.impressions) for part in (*plays, test)]


def test_a_fusion_of_no_reader_knows_production_and_the_earlier_period(small_log, plays):
    """Its scores are a sum of what production thinks and what was played, each also by how often a title was shown."""
    test = small_log.split("test")
    arrays, (shown, rate) = test.arrays(), encoder._earlier(small_log)
    titles = np.log1p(np.where(arrays.mask, shown[arrays.candidates], 0).sum(axis=1))[:, None]
    known = [np.log(np.maximum(arrays.production, 1e-3)), np.log(rate[arrays.candidates])]
    columns = np.stack([np.ones(arrays.mask.shape), *known, *(column * titles for column in known)], axis=2)
    columns, scores = columns[arrays.mask], encoder.fusion(small_log, [], *plays)(test)[arrays.mask]
    for left_out in ([1, 3], [2, 4], [3, 4], []):
        some = np.delete(columns, left_out, axis=1)
        rest = scores - some @ np.linalg.lstsq(some, scores)[0]
        assert (np.abs(rest).max() < 1e-6) == (not left_out)


def test_what_production_shows_is_not_learnt(small_log):
    """Plays follow what is shown. Where all candidates are equally good, the corrected loss of scores that repeat
    production's preference must be no better than that of none; uncorrected, it would be."""
    part = small_log.split("train")
    arrays = part.arrays()
    rng = np.random.default_rng(0)
    shown = np.array([rng.choice(len(p), p=p / p.sum()) for p in arrays.production])
    own = np.take_along_axis(arrays.production, shown[:, None], axis=1)[:, 0]
    drawn = dataclasses.replace(arrays, shown=shown, reward=np.ones(len(shown)), propensity=own)
    flat = torch.zeros(arrays.mask.shape, dtype=torch.float64).masked_fill(~torch.tensor(arrays.mask), -1e9)
    repeats = flat + torch.tensor(np.log(np.maximum(arrays.production, 1e-12)))
    assert encoder.cross_entropy(flat, drawn) < encoder.cross_entropy(repeats, drawn)
    uncorrected = [
        -float(s.log_softmax(dim=1)[torch.arange(len(shown)), torch.tensor(shown)].sum()) for s in (flat, repeats)
    ]
    assert uncorrected[1] < uncorrected[0]


def test_rows_that_another_policy_logged_are_not_corrected_by_production(small_log):
    arrays = small_log.split("train").arrays()
    elsewhere = dataclasses.replace(arrays, propensity=np.full(len(arrays), 1e-3))
    np.testing.assert_allclose(elsewhere.logging * arrays.mask.sum(axis=1, keepdims=True), arrays.mask)
    np.testing.assert_array_equal(arrays.logging, arrays.production)
