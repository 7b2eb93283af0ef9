"""The estimators: brute force, closed forms and the algebra that ties them together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from artlib import ope
from artlib.ope.synthetic import simulate

WEIGHT_FREE = {"on-policy", "dm"}


def value(feedback, estimator, parameter=None):
    from artlib.ope.estimators import terms

    return terms(feedback, estimator, parameter).value


def arrays(feedback):
    """Constructor arguments of a Feedback, to be changed and built anew."""
    names = ("reward", "action", "propensity", "target", "q_hat", "mask", "cluster")
    return {name: getattr(feedback, name) for name in names}


@st.composite
def feedbacks(draw, min_rows=2, max_rows=12, max_candidates=5, lowest=0.0):
    """Small logs: ragged candidate sets, stochastic or deterministic targets, fractional rewards >= lowest."""
    n, k = draw(st.integers(min_rows, max_rows)), draw(st.integers(2, max_candidates))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mask = np.arange(k) < rng.integers(1, k + 1, n)[:, None]
    logging = _normalised(rng.uniform(0.05, 1, (n, k)) * mask)
    target = _normalised(rng.gamma(draw(st.sampled_from([0.1, 1.0])), size=(n, k)) * mask + 1e-6 * mask)
    if draw(st.booleans()):
        target = np.eye(k)[target.argmax(axis=1)]
    action = np.array([rng.choice(k, p=row) for row in logging])
    return ope.Feedback(
        reward=rng.uniform(lowest, 2, n) * rng.integers(0, 2, n),
        action=action,
        propensity=logging[np.arange(n), action],
        target=target,
        q_hat=rng.uniform(0, 1, (n, k)),
        mask=mask,
        cluster=rng.integers(0, max(2, n // 2), n),
    )


def _normalised(weights):
    return weights / weights.sum(axis=1, keepdims=True)


def brute_force(feedback, estimator):
    """Each estimator again, in loops over rows, from the formula in its paper."""
    direct, weights, rewards, model, match = [], [], [], [], []
    for i in range(feedback.n):
        a = feedback.action[i]
        direct.append(sum(feedback.target[i, c] * feedback.q_hat[i, c] for c in range(feedback.target.shape[1])))
        weights.append(feedback.target[i, a] / feedback.propensity[i])
        rewards.append(feedback.reward[i])
        model.append(feedback.q_hat[i, a])
        match.append(feedback.target[i, a])
    n, rows = feedback.n, range(feedback.n)
    second = sum(w * w for w in weights) / n
    lam = min(1.0, (2 * np.log(20) / (3 * second * n)) ** 0.5) if second else 0.0
    bounded = [w / (1 - lam + lam * w) if w else 0.0 for w in weights]
    shrunk = [100 * w / (w * w + 100) for w in weights]
    switched = [w if w <= 10 else 0.0 for w in weights]

    def corrected(u):
        return sum(direct[i] + u[i] * (rewards[i] - model[i]) for i in rows) / n

    return {
        "on-policy": lambda: sum(rewards) / n,
        "ips": lambda: sum(weights[i] * rewards[i] for i in rows) / n,
        "clipped-ips": lambda: sum(min(weights[i], 10) * rewards[i] for i in rows) / n,
        "snips": lambda: sum(weights[i] * rewards[i] for i in rows) / sum(weights),
        "dm": lambda: sum(direct) / n,
        "dr": lambda: corrected(weights),
        "sndr": lambda: sum(direct) / n + sum(weights[i] * (rewards[i] - model[i]) for i in rows) / sum(weights),
        "switch-dr": lambda: corrected(switched),
        "dros": lambda: corrected(shrunk),
        "sgips": lambda: sum(bounded[i] * rewards[i] for i in rows) / n,
        "sgdr": lambda: corrected(bounded),
        "replay": lambda: sum(match[i] * rewards[i] for i in rows) / sum(match),
    }[estimator]()


@pytest.mark.parametrize("estimator", ope.ESTIMATORS)
@given(feedback=feedbacks(lowest=-2.0))
def test_every_estimator_equals_its_formula_in_plain_loops(estimator, feedback):
    if feedback.weight.any() or estimator in WEIGHT_FREE:
        assert value(feedback, estimator) == pytest.approx(brute_force(feedback, estimator), rel=1e-9, abs=1e-12)
    else:
        assert np.isnan(value(feedback, estimator))


@given(feedback=feedbacks())
def test_ips_and_snips_equal_the_on_policy_mean_when_the_target_is_the_logging_policy(feedback):
    logging = np.where(feedback.mask, 1.0, 0.0)
    rows = np.arange(feedback.n)
    logging[rows, feedback.action] = 0
    others = logging.sum(axis=1, keepdims=True)
    shown = np.where(others[:, 0] > 0, feedback.propensity, 1.0)
    logging = logging * (1 - shown[:, None]) / np.maximum(others, 1)
    logging[rows, feedback.action] = shown
    same = ope.Feedback(**arrays(feedback) | {"propensity": shown, "target": logging})
    for estimator in ("ips", "snips"):
        assert value(same, estimator) == pytest.approx(feedback.reward.mean(), abs=1e-12)


@given(feedback=feedbacks())
def test_dr_family_equals_ips_family_with_a_zero_model(feedback):
    zero = ope.Feedback(**arrays(feedback) | {"q_hat": np.zeros_like(feedback.target)})
    for with_model, without in (("dr", "ips"), ("sndr", "snips"), ("sgdr", "sgips")):
        assert value(zero, with_model) == pytest.approx(value(zero, without), abs=1e-12, nan_ok=True)


@given(feedback=feedbacks())
def test_dr_family_equals_dm_with_a_model_that_fits_every_shown_reward(feedback):
    q_hat = feedback.q_hat.copy()
    q_hat[np.arange(feedback.n), feedback.action] = feedback.reward
    perfect = ope.Feedback(**arrays(feedback) | {"q_hat": q_hat})
    if perfect.weight.any():
        for estimator in ("dr", "sndr", "switch-dr", "dros", "sgdr"):
            assert value(perfect, estimator) == pytest.approx(value(perfect, "dm"), abs=1e-9)


@given(feedback=feedbacks(), factor=st.floats(0.01, 1.0))
def test_snips_and_sndr_are_invariant_to_scaling_all_propensities(feedback, factor):
    scaled = ope.Feedback(**arrays(feedback) | {"propensity": feedback.propensity * factor})
    for estimator in ("snips", "sndr"):
        assert value(scaled, estimator) == pytest.approx(value(feedback, estimator), rel=1e-9, nan_ok=True)


@given(feedback=feedbacks(), shift=st.floats(-5, 5))
def test_snips_moves_with_a_shift_of_the_reward_and_stays_within_its_range(feedback, shift):
    shifted = ope.Feedback(**arrays(feedback) | {"reward": feedback.reward + shift})
    before = value(feedback, "snips")
    assert value(shifted, "snips") == pytest.approx(before + shift, abs=1e-9, nan_ok=True)
    if not np.isnan(before):
        assert feedback.reward.min() - 1e-9 <= before <= feedback.reward.max() + 1e-9


@pytest.mark.parametrize("estimator", ope.ESTIMATORS)
@given(feedback=feedbacks(), seed=st.integers(0, 1000))
def test_permuting_candidates_and_rows_changes_nothing(estimator, feedback, seed):
    rng = np.random.default_rng(seed)
    rows = rng.permutation(feedback.n)
    order = rng.permuted(np.tile(np.arange(feedback.target.shape[1]), (feedback.n, 1)), axis=1)
    moved = arrays(feedback)
    for name in ("target", "q_hat", "mask"):
        moved[name] = np.take_along_axis(moved[name], order, axis=1)
    moved["action"] = np.argmax(order == feedback.action[:, None], axis=1)
    moved = ope.Feedback(**{name: array[rows] for name, array in moved.items()})
    assert value(moved, estimator) == pytest.approx(value(feedback, estimator), rel=1e-9, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("estimator", ope.ESTIMATORS)
@given(feedback=feedbacks(), extra=st.integers(1, 3))
def test_padding_candidate_sets_further_changes_nothing(estimator, feedback, extra):
    padded = arrays(feedback)
    for name, fill in (("target", 0.0), ("q_hat", np.nan), ("mask", False)):
        padded[name] = np.pad(padded[name], ((0, 0), (0, extra)), constant_values=fill)
    padded = ope.Feedback(**padded)
    assert value(padded, estimator) == pytest.approx(value(feedback, estimator), rel=1e-12, nan_ok=True)


@given(feedback=feedbacks())
def test_hyper_parameters_reach_the_estimators_they_interpolate(feedback):
    pairs = [
        ("clipped-ips", np.inf, "ips"),
        ("switch-dr", np.inf, "dr"),
        ("switch-dr", 0.0, "dm"),
        ("dros", np.inf, "dr"),
        ("dros", 1e12, "dr"),
        ("sgips", 0.0, "ips"),
        ("sgdr", 0.0, "dr"),
    ]
    if feedback.weight.any():
        for estimator, parameter, limit in pairs:
            assert value(feedback, estimator, parameter) == pytest.approx(value(feedback, limit), rel=1e-6, abs=1e-9)


@given(feedback=feedbacks())
def test_regularised_weights_are_bounded_as_their_papers_promise(feedback):
    from artlib.ope.estimators import _subgaussian_weight

    assert np.all(_subgaussian_weight(feedback, 0.1) <= 10 + 1e-9), "w / (1 - lam + lam w) <= 1 / lam"
    assert value(feedback, "clipped-ips", 2.0) <= value(feedback, "ips") + 1e-12 or not feedback.weight.any()


def test_a_deterministic_targets_replay_is_the_mean_of_its_matched_rewards():
    feedback = simulate(100, target="greedy", seed=3).feedback
    matched = feedback.target.argmax(axis=1) == feedback.action
    assert value(feedback, "replay") == pytest.approx(feedback.reward[matched].mean())
    assert ope.diagnose(feedback).match_rate == pytest.approx(matched.mean())


def test_estimates_are_unbiased_over_many_logs():
    """Averaged over 300 logs, each unbiased estimator is within 3.5 standard errors of the truth."""
    settings = {"target": "greedy", "sharpness": 1.0, "exploration": 0.3}
    errors = {name: [] for name in ("ips", "dr", "dm", "snips", "sndr")}
    for seed in range(300):
        feedback = simulate(60, seed=seed, **settings).feedback
        for name, found in errors.items():
            found.append(value(feedback, name) - feedback.q_target.mean())
    for name in ("ips", "dr", "snips", "sndr"):
        z = np.mean(errors[name]) / (np.std(errors[name]) / np.sqrt(300))
        assert abs(z) < 3.5, f"{name} is off by {z:.1f} standard errors"
    assert np.allclose(errors["dm"], 0), "the simulated model is the truth"


def test_no_match_is_nan_with_a_warning_and_never_zero():
    feedback = ope.Feedback([1.0, 1.0, 0.0], [0, 0, 0], [0.5] * 3, [[0.0, 1.0]] * 3, [[0.5, 0.5]] * 3)
    for estimator in set(ope.ESTIMATORS) - WEIGHT_FREE:
        with pytest.warns(ope.EvaluationWarning, match="never chooses what was shown"):
            result = ope.estimate(feedback, estimator)
        assert np.isnan([result.value, result.lower, result.upper, result.std_error]).all()
        assert "never chooses what was shown" in result.verdict


def test_one_user_has_a_value_but_no_interval():
    feedback = ope.Feedback([1.0, 0.0, 1.0], [0, 1, 0], [0.5] * 3, [[0.5, 0.5]] * 3, cluster=["ann"] * 3)
    for method in ("percentile", "bca", "normal", "asymptotic-sequence"):
        with pytest.warns(ope.EvaluationWarning, match="one cluster"):
            result = ope.estimate(feedback, "ips", method=method)
        assert result.value == pytest.approx(2 / 3)
        assert np.isnan([result.lower, result.upper, result.std_error]).all()
