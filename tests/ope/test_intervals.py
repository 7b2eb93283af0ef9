"""Intervals: closed forms, brute-force bootstraps, scipy, and coverage of a known truth."""

import numpy as np
import pytest
from made_intervals import share_covered, sums_of
from scipy import stats

from artlib import ope
from artlib.ope import intervals, sequences
from artlib.ope.estimators import terms, value_of_sums
from artlib.ope.synthetic import simulate, true_value


@pytest.fixture(scope="module")
def feedback():
    return simulate(150, target="softmax", seed=5).feedback


def unclustered(reward, weight):
    """A Feedback with given weights: two candidates, propensity 1/2, target w/2."""
    target = np.column_stack([weight / 2, 1 - weight / 2])
    return ope.Feedback(reward, np.zeros(len(reward), int), np.full(len(reward), 0.5), target)


def test_standard_errors_of_mean_and_ratio_are_the_textbook_ones():
    rng = np.random.default_rng(0)
    r, w = rng.uniform(size=200), rng.uniform(0, 2, 200)
    feedback = unclustered(r, w)
    n = len(r)
    assert ope.estimate(feedback, "ips", method="normal").std_error == pytest.approx(np.std(w * r, ddof=1) / np.sqrt(n))
    ratio = (w * r).sum() / w.sum()
    delta_method = np.sqrt(n / (n - 1) * np.sum((w * (r - ratio)) ** 2)) / w.sum()
    assert ope.estimate(feedback, "snips", method="normal").std_error == pytest.approx(delta_method)


def test_normal_interval_is_students_t_for_few_clusters():
    r = np.array([0.0, 1.0, 1.0, 0.0, 1.0])
    found = ope.estimate(unclustered(r, np.ones(5)), "ips", method="normal")
    expected = stats.t.interval(0.95, 4, r.mean(), stats.sem(r))
    assert (found.lower, found.upper) == pytest.approx(expected)


def test_clustered_standard_error_counts_users_not_impressions():
    """Repeating every impression of every user tells nothing new and must not narrow the interval."""
    once = simulate(100, seed=1).feedback
    names = ("reward", "action", "propensity", "target", "q_hat", "mask", "cluster")
    twice = ope.Feedback(**{name: np.concatenate([getattr(once, name)] * 2) for name in names})
    for estimator in ("ips", "snips", "sndr"):
        a, b = ope.estimate(once, estimator, method="bca"), ope.estimate(twice, estimator, method="bca")
        assert (b.std_error, b.lower, b.upper) == pytest.approx((a.std_error, a.lower, a.upper))


@pytest.mark.parametrize("estimator", ope.ESTIMATORS)
def test_influence_is_the_derivative_with_respect_to_a_clusters_weight(feedback, estimator):
    sums, sizes = sums_of(feedback, estimator), intervals.cluster_sizes(feedback)
    found = intervals.influence(sums, sizes)
    assert found.sum() == pytest.approx(0, abs=1e-12)
    step = 1e-6
    for g in (0, 7, 149):
        heavier = np.ones(len(sizes))
        heavier[g] += step
        moved = value_of_sums(heavier @ sums, heavier @ sizes)
        assert (moved - terms(feedback, estimator).value) / step == pytest.approx(found[g], rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("estimator", ["ips", "snips", "sndr", "replay"])
def test_a_bootstrap_replicate_is_the_estimator_on_the_resampled_rows(feedback, estimator):
    """Cluster sums times counts equal the estimator run anew on all rows of the drawn users."""
    sums, sizes = sums_of(feedback, estimator), intervals.cluster_sizes(feedback)
    drawn = intervals.replicate_sums(np.column_stack([sums, sizes]), 3, seed=11)
    counts = intervals.replicate_sums(np.eye(feedback.n_clusters), 3, seed=11).astype(int)  # the same draws
    assert (counts.sum(axis=1) == feedback.n_clusters).all() and counts.max() > 1
    names = ("reward", "action", "propensity", "target", "q_hat", "mask")
    for replicate, count in zip(drawn, counts, strict=True):
        users = np.repeat(np.arange(feedback.n_clusters), count)
        rows = np.concatenate([np.flatnonzero(feedback.cluster_codes == user) for user in users])
        resampled = ope.Feedback(**{name: getattr(feedback, name)[rows] for name in names})
        assert value_of_sums(replicate[:-1], replicate[-1]) == pytest.approx(terms(resampled, estimator).value)


@pytest.mark.parametrize("block", [7, 8, 32])  # a power of two draws from random bits
def test_drawing_in_blocks_has_the_distribution_of_drawing_at_once(monkeypatch, block):
    """Counts of 30 clusters in blocks: mean 1, variance 1 - 1/g, covariance -1/g, and always g draws."""
    monkeypatch.setattr(intervals, "BLOCK", block)
    counts = intervals.replicate_sums(np.eye(30), 20_000, seed=1)
    assert (counts.sum(axis=1) == 30).all()
    assert np.allclose(counts.mean(axis=0), 1, atol=0.04)
    covariance = np.cov(counts.T)
    assert np.allclose(covariance, np.eye(30) - 1 / 30, atol=0.06)
    assert np.mean(counts[:, 0] == 0) == pytest.approx((29 / 30) ** 30, abs=0.015)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another(feedback):
    first, again, other = (ope.estimate(feedback, "snips", seed=seed) for seed in (1, 1, 2))
    assert (first.lower, first.upper) == (again.lower, again.upper)
    assert first.lower != other.lower


def test_leave_one_out_equals_recomputing_without_each_cluster(feedback):
    found = intervals.leave_one_out(sums_of(feedback, "sndr"), intervals.cluster_sizes(feedback))
    names = ("reward", "action", "propensity", "target", "q_hat", "mask", "cluster")
    for g in (0, 30, 149):
        rows = feedback.cluster_codes != g
        without = ope.Feedback(**{name: getattr(feedback, name)[rows] for name in names})
        assert found[g] == pytest.approx(terms(without, "sndr").value)


def test_bca_agrees_with_scipy():
    rng = np.random.default_rng(3)
    r, w = rng.exponential(size=60), rng.uniform(0, 2, 60)
    ours = ope.estimate(unclustered(r, w), "snips", method="bca", n_bootstrap=20000)
    theirs = stats.bootstrap(
        (w * r, w),
        lambda a, b, axis: a.sum(axis) / b.sum(axis),
        paired=True,
        vectorized=True,
        method="BCa",
        n_resamples=20000,
        rng=np.random.default_rng(4),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert abs(ours.lower - theirs.low) < 0.03 * width
    assert abs(ours.upper - theirs.high) < 0.03 * width


def test_the_snips_interval_is_not_that_of_a_fixed_mean_weight():
    """obp resamples w r / mean(w) with the mean weight held fixed; with a constant reward the value cannot
    vary at all, but that interval has width."""
    w = np.random.default_rng(0).uniform(0, 2, 500)
    found = ope.estimate(unclustered(np.full(500, 0.7), w), "snips")
    assert (found.value, found.lower, found.upper) == pytest.approx((0.7, 0.7, 0.7))


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_p_values_are_where_the_interval_touches_the_null(method):
    rng = np.random.default_rng(1)
    replicates, jackknife = rng.gamma(4, 0.1, 4000) - 0.1, rng.gamma(4, 0.1, 80)
    value = 0.3
    if method == "percentile":
        p = intervals.percentile_p_value(replicates)
        bounds = [intervals.percentile_interval(replicates, p * f) for f in (0.8, 1.25)]
    else:
        p = intervals.bca_p_value(replicates, value, jackknife)
        bounds = [intervals.bca_interval(replicates, value, jackknife, p * f) for f in (0.8, 1.25)]
    assert 0.0005 < p < 0.5
    assert bounds[0][0] < 0 < bounds[1][0], "a smaller alpha includes 0, a larger one does not"


def covered(users, replications, settings, n_bootstrap=1000):
    """Share of simulated logs whose 95 % interval holds the truth, per estimator and method."""
    names = [e for e in ope.ESTIMATORS if e != "on-policy" and (e != "replay" or settings.get("sharpness") == 0)]
    truth = true_value(users=60_000, **settings)
    logs = (simulate(users, seed=seed, **settings).feedback for seed in range(replications))
    return share_covered(logs, truth, names, n_bootstrap)


SETTINGS = {
    "stochastic target": {"target": "softmax", "sharpness": 0.5, "exploration": 0.3},
    "deterministic target": {"target": "greedy", "sharpness": 0.5, "exploration": 0.3},
    "stochastic target, uniform log": {"target": "softmax", "sharpness": 0.0, "ragged": False},
    "deterministic target, uniform log": {"target": "greedy", "sharpness": 0.0, "ragged": False},
}


@pytest.mark.parametrize("case", ["stochastic target", "deterministic target, uniform log"])
def test_intervals_cover_the_truth_reduced(case):
    """100 logs of 400 users with 2,000 impressions: no estimator's interval is grossly off."""
    for key, share in covered(400, 100, SETTINGS[case], n_bootstrap=400).items():
        assert 0.88 <= share, f"{key} covers {share:.2f}"


@pytest.mark.slow
@pytest.mark.parametrize("case", SETTINGS)
def test_intervals_cover_the_truth_in_93_to_97_percent_of_3000_logs(case):
    for key, share in covered(400, 3000, SETTINGS[case]).items():
        assert 0.93 <= share <= 0.97, f"{key} covers {share:.3f}"


def test_intervals_that_ignore_users_cover_too_rarely():
    """The clustered interval is needed: the same logs with every row on its own cover far less."""
    settings = {"target": "logging", "sharpness": 0.5}
    truth = true_value(users=60_000, **settings)
    hits = {"users": 0, "rows": 0}
    for seed in range(200):
        clustered = simulate(200, seed=seed, **settings).feedback
        rows = ope.Feedback(clustered.reward, clustered.action, clustered.propensity, clustered.target)
        for name, feedback in (("users", clustered), ("rows", rows)):
            found = ope.estimate(feedback, "ips", method="normal")
            hits[name] += found.lower <= truth <= found.upper
    assert hits["users"] / 200 > 0.9 > hits["rows"] / 200


def test_bernstein_bound_holds_and_tightens_with_n():
    settings = {"target": "greedy", "sharpness": 0.5, "exploration": 0.3}
    truth = true_value(users=60_000, **settings)
    bounds = [ope.bernstein_lower_bound(simulate(300, seed=s, **settings).feedback, seed=s) for s in range(60)]
    assert np.mean(np.array(bounds) > truth) <= 0.05
    larger = ope.bernstein_lower_bound(simulate(6000, seed=1, **settings).feedback)
    assert np.mean(bounds) < larger < truth
    result = ope.estimate(simulate(300, seed=0, **settings).feedback, "ips", method="bernstein")
    assert result.lower == bounds[0] and result.upper == np.inf


def test_bernstein_margin_is_the_published_one():
    """Maurer and Pontil 2009, Theorem 11, for values in [0, 1]."""
    x = np.random.default_rng(0).uniform(size=100)
    margin = np.sqrt(2 * x.var(ddof=1) * np.log(2 / 0.05) / 100) + 7 * np.log(2 / 0.05) / (3 * 99)
    assert sequences._bernstein(x, 1.0, 0.05, 100) == pytest.approx(x.mean() - margin)


@pytest.mark.parametrize("weight_max", [None, 50.0])
def test_confidence_sequence_holds_at_every_time_in_nearly_all_logs(weight_max):
    """Independent users with one impression each: the value must never leave the bounds."""
    settings = {"target": "softmax", "sharpness": 1.0, "exploration": 0.1}
    first = simulate(60_000, seed=12345, **settings).feedback
    truth = first.q_target[np.unique(first.cluster, return_index=True)[1]].mean()
    failures = 0
    for seed in range(100):
        log = simulate(1500, seed=seed, **settings).feedback
        rows = np.unique(log.cluster, return_index=True)[1]
        names = ("reward", "action", "propensity", "target", "mask")
        alone = ope.Feedback(**{name: getattr(log, name)[rows] for name in names})
        found = ope.confidence_sequence(alone, 0.05, reward_max=1.0, weight_max=weight_max)
        failures += bool(((found.lower > truth) | (found.upper < truth)).any())
    assert failures <= 5
    assert (found.upper - found.lower).iloc[-1] < 0.5, "and it is not vacuous"


def moved(feedback, by):
    """The same log with a constant added to all rewards."""
    names = ("action", "propensity", "target", "mask", "cluster")
    return ope.Feedback(feedback.reward + by, **{name: getattr(feedback, name) for name in names})


def test_bounds_of_rewards_above_a_negative_minimum_are_those_above_0_moved(feedback):
    """Rewards 0 and 1 become -3 and -2: no bound may notice, and the estimate says what was done."""
    below = moved(feedback, -3)
    for estimator in sequences.NON_NEGATIVE:
        parameter = 0.1 if estimator == "sgips" else None
        bound = ope.bernstein_lower_bound(feedback, estimator, parameter=parameter)
        lower = ope.bernstein_lower_bound(below, estimator, parameter=parameter, reward_min=-3)
        assert bound > 0 and lower == pytest.approx(bound - 3)
    for limits in ({}, {"reward_max": 1}, {"reward_max": 1, "weight_max": 60}):
        expected = ope.confidence_sequence(feedback, **limits)[["lower", "upper"]]
        limits = limits | {name: limits[name] - 3 for name in limits if name == "reward_max"}
        found = ope.confidence_sequence(below, **limits, reward_min=-3)
        np.testing.assert_allclose(found[["lower", "upper"]] + 3, expected, atol=1e-9)
        assert found.value.iloc[-1] == pytest.approx(ope.ESTIMATORS["ips"](below).value)
    result = ope.estimate(below, "ips", method="bernstein", reward_min=-3)
    assert result.reward_shift == result.as_dict()["reward_shift"] == 3
    assert result.lower == pytest.approx(ope.bernstein_lower_bound(feedback) - 3)
    assert "(95%, bernstein, rewards shifted by +3 and back)" in str(result)


@pytest.mark.parametrize("method", ["bernstein", "sequence"])
def test_a_guarantee_is_refused_for_negative_rewards_without_their_smallest_possible(feedback, method):
    message = r"reward at row \d+ is -0\.5.*: is below reward_min, 0; .* that is possible, not the smallest seen"
    with pytest.raises(ValueError, match=message):
        ope.estimate(moved(feedback, -0.5), "ips", method=method)


@pytest.mark.parametrize("method", ["percentile", "bca", "normal", "asymptotic-sequence"])
def test_negative_rewards_move_snips_and_its_interval_by_as_much(feedback, method):
    before, after = (ope.estimate(log, "snips", method=method) for log in (feedback, moved(feedback, -2)))
    for name in ("value", "lower", "upper"):
        assert getattr(after, name) == pytest.approx(getattr(before, name) - 2)
    assert after.std_error == pytest.approx(before.std_error) and after.reward_shift == 0


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.3])
def test_the_asymptotic_sequences_p_value_is_alpha_where_it_touches_zero(alpha):
    margin = sequences.asymptotic_sequence_margin(0.2, 500, alpha)
    assert sequences.asymptotic_sequence_p_value(margin, 0.2, 500) == pytest.approx(alpha)
    assert sequences.asymptotic_sequence_p_value(0.0, 0.0, 500) == 1.0


def test_a_bet_against_a_wrong_mean_is_caught():
    """The lower sequence passes any value below the mean in the end: it has power, not only validity."""
    x = np.random.default_rng(0).exponential(0.5, 20_000)
    assert sequences.lower_sequence(x, np.zeros_like(x), 0.05)[-1] > 0.47


def test_bets_are_made_before_the_observation_they_bet_on():
    found = sequences._before(np.cumsum([1.0, 2.0, 4.0]), np.arange(1, 4), guess=5.0)
    assert found == pytest.approx([5, (5 + 1) / 2, (5 + 1 + 2) / 3])


def test_confidence_sequence_reads_nothing_ahead(feedback):
    whole = ope.confidence_sequence(feedback, reward_max=1.0)
    first = slice(0, 100)
    names = ("reward", "action", "propensity", "target", "mask", "cluster")
    early = ope.Feedback(**{name: getattr(feedback, name)[first] for name in names})
    part = ope.confidence_sequence(early, reward_max=1.0)
    assert np.allclose(part, whole.iloc[:100])


def test_looking_often_is_safe_with_the_asymptotic_sequence_and_not_with_the_normal_interval():
    settings = {"target": "softmax", "sharpness": 0.5, "exploration": 0.3}
    truth = true_value(users=60_000, **settings)
    wrong = {"asymptotic-sequence": 0, "normal": 0}
    for seed in range(100):
        feedback = simulate(800, seed=seed, **settings).feedback
        sums, sizes = sums_of(feedback, "snips"), intervals.cluster_sizes(feedback)
        looks = {name: False for name in wrong}
        for g in range(50, 801, 25):
            value = float(value_of_sums(sums[:g].sum(axis=0), sizes[:g].sum()))
            error = intervals.standard_error(intervals.influence(sums[:g], sizes[:g]))
            margin = sequences.asymptotic_sequence_margin(error, g, 0.05)
            looks["asymptotic-sequence"] |= abs(value - truth) > margin
            looks["normal"] |= abs(value - truth) > 1.96 * error
        for name in wrong:
            wrong[name] += looks[name]
    assert wrong["asymptotic-sequence"] <= 5
    assert wrong["normal"] >= 15
