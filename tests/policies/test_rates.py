"""Ridge regression of play rates: its closed form, what it recovers, and what it is blind to."""

import numpy as np
import pytest

from artlib.policies import encoder, rates


def planted(n_titles: int = 300, per_title: int = 4, width: int = 12, seed: int = 0):
    """Artworks whose log rates are linear in their embeddings, of titles with rates of their own."""
    rng = np.random.default_rng(seed)
    title = np.repeat(np.arange(n_titles), per_title)
    embeddings, truth = rng.normal(size=(len(title), width)), 0.2 * rng.normal(size=width)
    rate = 0.015 * np.exp(rng.normal(size=n_titles)[title] + embeddings @ truth)
    shown = rng.integers(2000, 4000, len(title)).astype(float)
    return title, embeddings, truth, rng.binomial(shown.astype(int), np.minimum(rate, 0.9)).astype(float), shown


def test_a_planted_signal_is_recovered_from_clicks():
    title, embeddings, truth, played, shown = planted()
    found = rates.fit(embeddings, played, shown, title, prior=100)
    assert np.corrcoef(found, truth)[0, 1] > 0.97
    assert np.abs(found - truth).max() < 0.08


def test_without_a_signal_little_is_learnt():
    title, embeddings, truth, _, shown = planted()
    played = np.random.default_rng(1).binomial(shown.astype(int), 0.015).astype(float)
    found = rates.fit(embeddings, played, shown, title, prior=100)
    assert np.linalg.norm(found) < 0.1 * np.linalg.norm(truth)


@pytest.mark.parametrize("code", [0, 7])
def test_where_one_title_leaves_nothing_to_check_by_the_penalty_is_the_largest(code):
    title, embeddings, _, played, shown = planted(1, 8)
    title = title + code  # of a catalogue of which the others were not shown
    found = rates.fit(embeddings, played, shown, title, prior=100)
    rate = rates.log_rates(played, shown, title, 100)
    x, y = (rates.centred(values, title, shown) for values in (embeddings, rate))
    np.testing.assert_allclose(found, rates.ridge(x, y, shown)[np.argmax(rates.PENALTIES)])


def test_ridge_is_its_closed_form():
    rng = np.random.default_rng(0)
    x, y, weight = rng.normal(size=(40, 5)), rng.normal(size=40), rng.random(40)
    scaled = np.diag(weight / weight.sum())
    for penalty, found in zip(rates.PENALTIES, rates.ridge(x, y, weight), strict=True):
        np.testing.assert_allclose(found, np.linalg.solve(x.T @ scaled @ x + penalty * np.eye(5), x.T @ scaled @ y))


def test_rates_are_shrunk_to_their_titles_and_centred_there():
    played, shown = np.array([30.0, 0.0, 5.0, 0.0, 0.0]), np.array([1000.0, 1000.0, 100.0, 50.0, 10.0])
    title = np.array([0, 0, 2, 5, 5])
    found = rates.log_rates(played, shown, title, prior=200)
    expected = [33 / 1200, 3 / 1200, 0.05]
    np.testing.assert_allclose(found[:3], np.log(expected))
    middle = rates.centred(found, title, shown)
    assert middle[:2].sum() == pytest.approx(0) and middle[2] == 0
    assert np.ptp(rates.log_rates(played, shown, title, prior=1e9)[:2]) == pytest.approx(0, abs=1e-5)
    both = rates.centred(np.column_stack([found, 2 * found]), title, shown)
    np.testing.assert_allclose(both[:, 1], 2 * middle)


def test_how_popular_a_title_is_does_not_count():
    title, embeddings, _, played, shown = planted(n_titles=100)
    factor = np.random.default_rng(2).integers(1, 4, 100)[title]
    np.testing.assert_allclose(
        rates.fit(embeddings, played, shown, title, prior=50),
        rates.fit(embeddings, played * factor, shown, title, prior=50),
    )


def test_a_log_teaches_its_reader_what_everybody_likes(small_log):
    """Captions of which one direction says how often they are played."""
    train = small_log.split("train")
    rng = np.random.default_rng(0)
    truth = train.expected_reward()
    arrays, n = train.arrays(), len(small_log.artworks)
    total = np.bincount(arrays.candidates[arrays.mask], truth[arrays.mask], n)
    mean = total / np.maximum(np.bincount(arrays.candidates[arrays.mask], minlength=n), 1)
    vectors = np.column_stack([mean, 0.1 * rng.normal(size=(n, 3))])
    inputs = encoder.Inputs(small_log, vectors, np.zeros((0, 4)), np.zeros((len(small_log.titles), 4)), np.zeros(0))
    scores = encoder.learnt_by_rates(inputs, train.take(np.flatnonzero(arrays.reward > 0)))(train)
    assert (scores[~arrays.mask] == -np.inf).all()
    best = truth[np.arange(len(truth)), scores.argmax(axis=1)].mean()
    assert best > 1.05 * truth[arrays.mask].mean()
