"""Diagnostics: their formulas, and a verdict that speaks up when and only when it should."""

import numpy as np
import pytest

from artlib import ope
from artlib.ope.sums import Spread
from artlib.ope.synthetic import simulate


def arms(weight, reward=None, **more):
    """A Feedback with the given weights: two candidates, propensity 0.01, the first shown."""
    weight = np.asarray(weight, dtype=float)
    target = np.column_stack([weight / 100, 1 - weight / 100])
    reward = np.ones(len(weight)) if reward is None else reward
    return ope.Feedback(reward, np.zeros(len(weight), int), np.full(len(weight), 0.01), target, **more)


def test_diagnostics_by_hand():
    found = ope.diagnose(arms([1, 1, 2, 0], reward=[1, 0, 0.5, 1]))
    assert found.n == found.n_clusters == 4
    assert found.ess == pytest.approx(16 / 6)
    assert found.max_weight == 2
    assert found.max_weight_share == pytest.approx(2 / 4)
    assert found.max_leverage == pytest.approx(4 / 6)
    assert found.reward_ess == pytest.approx(2), "w r is 1, 0, 1, 0"
    assert found.mean_weight == pytest.approx(1)
    assert found.mean_weight_p == pytest.approx(1)
    assert found.match_rate == pytest.approx(0.01)


def test_effective_size_is_n_for_equal_weights_and_1_when_one_carries_all():
    assert Spread.of(np.full(50, 3.0)).effective_size == pytest.approx(50)
    assert Spread.of(np.eye(50)[0]).effective_size == pytest.approx(1)
    assert Spread.of(np.zeros(5)).effective_size == 0


def test_mean_weight_test_is_the_one_sample_t_test():
    from scipy import stats

    weight = np.random.default_rng(0).uniform(0, 2.2, 300)
    assert ope.diagnose(arms(weight)).mean_weight_p == pytest.approx(stats.ttest_1samp(weight, 1).pvalue)


def test_a_well_overlapping_policy_is_trusted():
    for estimator in set(ope.ESTIMATORS) - {"dm", "replay", "sgips"}:
        result = ope.estimate(simulate(600, sharpness=0.5, exploration=0.4, seed=0).feedback, estimator)
        assert result.trusted, result.verdict


def test_false_alarms_of_the_mean_weight_are_rare():
    p = [ope.diagnose(simulate(300, sharpness=0.5, exploration=0.4, seed=s).feedback).mean_weight_p for s in range(200)]
    assert np.mean(np.array(p) < 0.05) < 0.12, "users are few and weights skewed: nominal 0.05"


def test_wrong_propensities_show_in_the_mean_weight():
    log = simulate(600, sharpness=0.5, exploration=0.4, seed=0).feedback
    wrong = ope.Feedback(log.reward, log.action, log.propensity * 0.8, log.target, cluster=log.cluster)
    result = ope.estimate(wrong, "ips")
    assert not result.trusted
    assert "wrong propensities or missing support" in result.verdict
    assert "mean weight 1.2" in result.verdict


def test_mass_on_candidates_that_were_never_shown():
    """The log never shows the third candidate; the target does 30 % of the time."""
    rng = np.random.default_rng(0)
    n = 2000
    target = np.tile([0.35, 0.35, 0.3], (n, 1))
    arguments = ((rng.random(n) < 0.3).astype(float), rng.integers(0, 2, n), np.full(n, 0.5), target)
    known = ope.Feedback(*arguments, logging=np.tile([0.5, 0.5, 0.0], (n, 1)))
    result = ope.estimate(known, "ips")
    assert result.diagnostics.unsupported_mass == pytest.approx(0.3)
    assert "30.0% of the target lies on candidates that the log could never show" in result.verdict
    unknown = ope.estimate(ope.Feedback(*arguments), "ips")
    assert unknown.diagnostics.unsupported_mass == pytest.approx(0.3), "the mean weight is 0.7"
    assert "mean weight 0.700 instead of 1" in unknown.verdict


def test_one_dominating_weight_raises_the_alarm():
    weight = np.ones(1000)
    weight[0] = 60
    verdict = ope.estimate(arms(weight), "snips").verdict
    assert "one impression, weight 60, makes up 78% of squared weights" in verdict


@pytest.mark.parametrize("smallest", [1e-50, 1e-20])
@pytest.mark.parametrize("estimator", sorted(set(ope.ESTIMATORS) - {"on-policy", "dm", "replay"}))
def test_one_tiny_propensity_gives_finite_numbers_and_the_right_reason(estimator, smallest):
    rng = np.random.default_rng(0)
    propensity = np.full(400, 0.5)
    propensity[7] = smallest
    reward, half = rng.integers(0, 2, 400).astype(float), np.full((400, 2), 0.5)
    log = ope.Feedback(reward, np.zeros(400, int), propensity, half, np.full((400, 2), 0.4))
    for method in ("percentile", "bca", "normal", "asymptotic-sequence"):
        result = ope.estimate(log, estimator, method=method)
        assert np.isfinite([result.value, result.lower, result.upper]).all()
        assert result.std_error > 0
        assert result.ess == pytest.approx(1) and result.diagnostics.max_leverage == pytest.approx(1)
        assert f"one impression, weight {0.5 / smallest:.2g}, makes up 100% of squared weights" in result.verdict
        assert "never chooses" not in result.verdict and len(result.verdict) < 500


def test_a_target_that_hardly_ever_chooses_what_was_shown_is_not_one_that_never_does():
    """Squares of these weights underflow to 0."""
    log = ope.Feedback(np.resize([0.0, 1.0], 400), np.zeros(400, int), np.full(400, 0.5), [[1e-200, 1.0]] * 400)
    result = ope.estimate(log, "snips")
    assert result.ess == pytest.approx(400)
    assert result.diagnostics.max_leverage == pytest.approx(1 / 400)
    assert result.value == pytest.approx(0.5) and result.std_error == pytest.approx(0.5 / np.sqrt(399))
    assert result.verdict.startswith("do not trust: mean weight 0.000 instead of 1 (p = 0): wrong propensities or")


def test_a_small_effective_sample_raises_the_alarm():
    weight = np.zeros(5000)
    weight[::80] = 80
    assert "effective sample size 63 of 5000 (1.3%)" in ope.estimate(arms(weight), "snips").verdict


def test_few_rewards_and_few_clusters_raise_the_alarm():
    reward = np.zeros(3000)
    reward[:4] = 1
    assert "rests on about 4.0 rewarded impressions" in ope.estimate(arms(np.ones(3000), reward), "ips").verdict
    few = arms(np.ones(300), cluster=np.arange(300) % 12)
    assert "only 12 independent clusters" in ope.estimate(few, "ips").verdict


def test_rewards_that_cancel_are_rewards_and_raise_no_alarm():
    log = ope.Feedback(np.resize([-1.0, 1.0], 1000), np.zeros(1000, int), np.ones(1000), np.ones((1000, 1)))
    result = ope.estimate(log, "ips")
    assert result.diagnostics.reward_ess == pytest.approx(1000)
    assert result.value == 0 and result.trusted


def test_replay_on_a_log_that_is_not_uniform_raises_the_alarm():
    skewed = simulate(400, target="greedy", sharpness=1, seed=0).feedback
    assert "replay needs a uniform logging policy" in ope.estimate(skewed, "replay").verdict
    uniform = simulate(400, target="greedy", sharpness=0, ragged=False, seed=0).feedback
    assert ope.estimate(uniform, "replay").trusted


def test_the_direct_method_is_never_trusted_alone_and_its_models_error_is_stated():
    log = simulate(600, sharpness=0.5, exploration=0.4, seed=0).feedback
    fields = {n: getattr(log, n) for n in ("reward", "action", "propensity", "target", "mask", "cluster")}
    wrong = ope.Feedback(**fields, q_hat=log.q_hat * 0.5)
    result = ope.estimate(wrong, "dm")
    d = result.diagnostics
    assert d.model_bias == pytest.approx(ope.estimate(wrong, "dr").value - result.value)
    assert d.model_bias > 5 * d.model_bias_error
    assert f"the reward model's error, which the log puts at {d.model_bias:+.2g} +-" in result.verdict
    assert ope.estimate(wrong, "dr").trusted


def test_weights_clipped_until_the_value_moves_raise_the_alarm():
    log = simulate(600, target="greedy", sharpness=1, exploration=0.3, seed=0).feedback
    mild, harsh = (ope.estimate(log, "clipped-ips", parameter=clip) for clip in (100, 2))
    assert mild.shift == (0, 0) and mild.trusted
    assert harsh.shift.value == pytest.approx(harsh.value - mild.value)
    assert f"regularising the weights moves the value by {harsh.shift.value:+.2g} +-" in harsh.verdict
    nearly_dm = ope.estimate(log, "switch-dr", parameter=0.3)
    assert "regularising the weights" in nearly_dm.verdict, "it rests on the reward model alone"


def test_an_estimate_is_one_flat_row_of_a_table():
    row = ope.estimate(simulate(50).feedback, "clipped-ips", parameter=5).as_dict()
    assert {"estimator", "value", "lower", "upper", "ess", "max_weight", "verdict", "parameters"} <= set(row)
    assert row["parameters"] == {"clip": 5.0} and row["rule"] == "given"
