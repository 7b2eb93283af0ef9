"""Hyper-parameters, reward models, and the size of a log."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier

from artlib import ope
from artlib.ope.selection import _slope, default_grid
from artlib.ope.synthetic import simulate, true_value

HARD = {"target": "greedy", "sharpness": 2.0, "exploration": 0.02}


@pytest.fixture(scope="module")
def feedback():
    return simulate(300, seed=2, **HARD).feedback


def test_slope_stops_at_the_first_disagreement_and_not_after_it():
    """By hand: 0.69 is within 0.05 + 1.449 * 0.2 of 1.0 but not within 0.05 + 1.449 * 0.1 of 0.9."""
    errors = np.array([0.2, 0.1, 0.05, 0.01])
    assert _slope(np.array([1.0, 0.9, 0.71]), errors[:3]) == 2
    assert _slope(np.array([1.0, 0.9, 0.69, 0.9]), errors) == 1
    assert _slope(np.array([1.0, 0.9, 0.9]), errors[[0, 1, 3]]) == 2


@pytest.mark.parametrize("estimator", ope.PARAMETER)
@pytest.mark.parametrize("rule", ["slope", "mse"])
def test_a_chosen_parameter_is_reported_and_used(feedback, estimator, rule):
    choice = ope.select(feedback, estimator, rule)
    result = ope.estimate(feedback, estimator, parameter=rule, method="normal")
    assert result.parameters == {choice.name: choice.value}
    assert result.rule == rule
    assert choice.value in choice.grid
    assert result.value == pytest.approx(choice.values[choice.grid.index(choice.value)])


@pytest.mark.parametrize("estimator", ope.PARAMETER)
def test_the_grid_runs_from_unregularised_to_steadier(feedback, estimator):
    unregularised = {"clipped-ips": "ips", "sgips": "ips"}.get(estimator, "dr")
    choice = ope.select(feedback, estimator)
    assert choice.values[0] == pytest.approx(ope.ESTIMATORS[unregularised](feedback).value)
    assert choice.std_errors[-1] < choice.std_errors[0]


def test_mse_choice_minimises_squared_error_plus_squared_distance(feedback):
    choice = ope.select(feedback, "clipped-ips", "mse", grid=[np.inf, 20.0, 1.0])
    cost = np.square(choice.std_errors) + np.square(np.array(choice.values) - choice.values[0])
    assert choice.value == choice.grid[int(np.argmin(cost))]


def test_a_grid_is_ordered_from_least_biased_whatever_its_order(feedback):
    assert ope.select(feedback, "clipped-ips", grid=[1, 100, 10]).grid == (100, 10, 1)
    assert ope.select(feedback, "sgips", grid=[1, 0, 0.5]).grid == (0, 0.5, 1)
    with pytest.raises(ValueError, match="grid is empty"):
        ope.select(feedback, "sgips", grid=[])
    assert default_grid(simulate(3).feedback, "clipped-ips")[0] == np.inf


def test_chosen_shrinkage_has_less_error_than_none_when_weights_explode():
    """200 logs of a nearly deterministic policy: SLOPE and MSE beat plain DR with a mediocre model."""
    truth = true_value(60_000, **HARD)
    errors = {"plain": [], "slope": [], "mse": []}
    for seed in range(200):
        log = simulate(60, seed=seed, **HARD).feedback
        model = np.where(log.mask, 0.4 + 0.3 * log.q_hat, 0)
        log = ope.Feedback(log.reward, log.action, log.propensity, log.target, model, log.mask, log.cluster)
        errors["plain"].append(ope.ESTIMATORS["dr"](log).value - truth)
        for rule in ("slope", "mse"):
            choice = ope.select(log, "dros", rule)
            errors[rule].append(choice.values[choice.grid.index(choice.value)] - truth)
    rmse = {name: np.sqrt(np.mean(np.square(e))) for name, e in errors.items()}
    assert rmse["slope"] < rmse["plain"]
    assert rmse["mse"] < rmse["plain"]


class Memory(LogisticRegression):
    """A model that records which rows it was fitted on and predicts with what it knows of them."""

    fitted: list = []

    def fit(self, x, y, sample_weight=None):
        Memory.fitted.append(set(x[:, 0].astype(int)))
        return super().fit(x, y, sample_weight)

    def predict_proba(self, x):
        seen = np.isin(x[:, 0].astype(int), list(Memory.fitted[-1]))
        return np.column_stack([1 - seen, seen]).astype(float)


def test_no_row_is_predicted_by_a_model_that_saw_its_user():
    rng = np.random.default_rng(0)
    user = rng.integers(0, 40, 200)
    features = np.repeat(user[:, None, None], 3, axis=1)
    Memory.fitted = []
    q_hat = ope.cross_fit(features, rng.integers(0, 2, 200), rng.integers(0, 3, 200), user, model=Memory(), folds=4)
    assert len(Memory.fitted) == 4
    assert not q_hat.any(), "a prediction of 1 would mean that the user was in the training fold"


@pytest.mark.parametrize("fractional", [False, True])
def test_a_cross_fitted_model_finds_the_signal_and_lowers_drs_error(fractional):
    simulation = simulate(600, target="greedy", seed=1)
    log = simulation.feedback
    reward = log.reward * 0.5 if fractional else log.reward
    q_hat = ope.cross_fit(simulation.features, reward, log.action, log.cluster, log.mask)
    assert (q_hat[~log.mask] == 0).all()
    assert q_hat.min() >= 0 and q_hat.max() <= reward.max()
    assert np.corrcoef(q_hat[log.mask], log.q_hat[log.mask])[0, 1] > 0.6
    fitted = ope.Feedback(reward, log.action, log.propensity, log.target, q_hat, log.mask, log.cluster)
    assert (
        ope.estimate(fitted, "dr", method="normal").std_error < ope.estimate(fitted, "ips", method="normal").std_error
    )


def test_cross_fit_takes_any_model_and_weights():
    simulation = simulate(100, seed=1)
    log = simulation.feedback
    arguments = (simulation.features, log.reward, log.action, log.cluster, log.mask)
    plain = ope.cross_fit(*arguments, model=Ridge())
    weighted = ope.cross_fit(*arguments, model=Ridge(), sample_weight=log.weight)
    assert not np.allclose(plain, weighted)
    assert not np.allclose(ope.cross_fit(*arguments), ope.cross_fit(*arguments, sample_weight=log.weight))
    assert (ope.cross_fit(simulation.features, np.zeros(log.n), log.action)[log.mask] == 0).all()


def test_clusters_of_mixed_types_are_cross_fitted_as_the_same_of_one():
    rng = np.random.default_rng(0)
    features, user = rng.normal(size=(60, 2, 3)), rng.integers(0, 9, 60)
    mixed = np.array([int(u) if u % 2 else f"anon-{u}" for u in user], dtype=object)
    reward, action = rng.integers(0, 2, 60), rng.integers(0, 2, 60)
    found = ope.cross_fit(features, reward, action, mixed)
    in_order = pd.factorize(user)[0]  # no order of its own: that in which they come
    np.testing.assert_array_equal(found, ope.cross_fit(features, reward, action, in_order))


def test_cross_fit_names_what_is_wrong():
    with pytest.raises(ValueError, match=r"features has shape \(4, 2\): it must be \(n, K, d\)"):
        ope.cross_fit(np.zeros((4, 2)), np.zeros(4), np.zeros(4, int))
    with pytest.raises(ValueError, match=r"cluster has 2 users but folds is 5"):
        ope.cross_fit(np.zeros((4, 2, 1)), np.zeros(4), np.zeros(4, int), cluster=["a", "a", "b", "b"])
    with pytest.raises(ValueError, match=r"folds is 1: it must be at least 2"):
        ope.cross_fit(np.zeros((4, 2, 1)), np.zeros(4), np.zeros(4, int), folds=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": [0.0, 1.0]}, r"features has 4 rows but reward has 2: give both for the same impressions"),
        ({"reward": [0.0, np.nan, 1.0, 1.0]}, r"reward at row 1 is nan: must be finite"),
        ({"reward": [0.0, "play", 1.0, 1.0]}, r"reward cannot be read as numbers: row 1 has 'play'"),
        ({"action": [0, -1, 0, 0]}, r"action at row 1 is -1: must be a column of features, 0 to 1"),
        ({"action": [0, 0, 2, 0]}, r"action at row 2 is 2: must be a column of features, 0 to 1"),
        ({"action": [0, 0.5, 0, 0]}, r"action at row 1 is 0\.5: must be a whole number"),
        ({"action": [0, 1, 0, 0]}, r"action at row 1 is 1: is a padded cell"),
        ({"action": [0, 0, 0]}, r"action has 3 rows but reward has 4"),
        ({"mask": [[True, True]] * 3}, r"mask has shape \(3, 2\) but features has \(4, 2\)"),
        ({"mask": [[True, 2]] * 4}, r"mask has values other than True and False"),
        ({"cluster": ["ann", None, "bob", "eve"]}, r"cluster at row 1 is None: must not be missing"),
        ({"sample_weight": [1.0, 1.0, -1.0, 1.0]}, r"sample_weight at row 2 is -1\.0: must be finite and >= 0"),
        (
            {"features": [[[1.0], [0.0]], [[np.inf], [0.0]], [[0.0], [0.0]], [[0.0], [0.0]]]},
            r"features at row 1, column 0, feature 0 is inf: must be finite for every candidate",
        ),
        (
            {"features": [[[1.0], [0.0]], [[0.0]], [[0.0], [0.0]], [[0.0], [0.0]]]},
            r"features at row 1 has 1 candidates but row 0 has 2: .* pad features with 0 to K = 2 columns and pass",
        ),
        (
            {"features": [[[1.0, 2.0], [0.0]]] * 4},
            r"features is a nested list whose innermost lists differ in length",
        ),
    ],
)
def test_cross_fit_judges_its_arguments_as_feedback_does(change, message):
    good = {
        "features": [[[1.0], [0.0]], [[0.0], [np.nan]], [[2.0], [1.0]], [[3.0], [1.0]]],
        "reward": [0.0, 1.0, 1.0, 0.0],
        "action": [0, 0, 1, 1],
        "mask": [[True, True], [True, False], [True, True], [True, True]],
    }
    assert ope.cross_fit(**good, folds=2).shape == (4, 2), "padded cells may be anything"
    with pytest.raises(ValueError, match=message):
        ope.cross_fit(**good | change, folds=2)


@pytest.mark.parametrize("rewards", [(0, 1, 2), (0, 0.5), (1, 2)])
def test_a_classifier_is_refused_for_rewards_other_than_0_and_1(rewards):
    rng = np.random.default_rng(0)
    features, action, reward = rng.normal(size=(60, 3, 2)), np.zeros(60, int), np.resize(rewards, 60)
    message = r"reward at row \d+ is .* must be 0 or 1 with a classifier \(LogisticRegression\); give a regressor"
    with pytest.raises(ValueError, match=message):
        ope.cross_fit(features, reward, action, model=LogisticRegression())
    assert ope.cross_fit(features, reward, action, model=Ridge()).mean() == pytest.approx(np.mean(reward), abs=0.1)


def test_a_classifier_without_probabilities_is_refused():
    with pytest.raises(ValueError, match=r"model is a RidgeClassifier, a classifier without probabilities; give a reg"):
        ope.cross_fit(np.zeros((9, 2, 1)), np.zeros(9), np.zeros(9, int), model=RidgeClassifier())


def test_a_training_fold_of_one_class_predicts_that_class():
    """All plays are one user's: the fold that leaves this user out has seen no play."""
    features = np.random.default_rng(0).normal(size=(40, 2, 1))
    user = np.repeat([0, 1], 20)
    q_hat = ope.cross_fit(
        features, (user == 0).astype(float), np.zeros(40, int), user, model=LogisticRegression(), folds=2
    )
    assert (q_hat[user == 0] == 0).all() and (q_hat[user == 1] == 1).all()


def test_power_of_ips_on_a_uniform_log_is_the_closed_form():
    """Uniform log over K candidates, deterministic target, Bernoulli(p) rewards, on-policy baseline:
    (w - 1) r has variance p (K - 1), as w is K or 0, so the lift's per impression is (K - 1) / p."""
    rng = np.random.default_rng(0)
    n, k, p = 400_000, 4, 0.2
    target = np.eye(k)[rng.integers(0, k, n)]
    log = ope.Feedback((rng.random(n) < p).astype(float), rng.integers(0, k, n), np.full(n, 1 / k), target)
    row = ope.power(log, lift=0.03, estimators=["ips"]).iloc[0]
    z = 1.959964 + 0.841621
    assert row.impressions == pytest.approx(z**2 * (k - 1) / p / 0.03**2, rel=0.02)
    assert row.detectable_lift == pytest.approx(0.03 * np.sqrt(row.impressions / n), rel=1e-3)


def test_power_is_what_a_simulation_finds():
    """A uniform log over two arms of which the second is 20 % better, tested with `compare`."""
    n, p, lift = 1500, 0.4, 0.2

    def log(seed, better):
        rng = np.random.default_rng(seed)
        action = rng.integers(0, 2, n)
        reward = (rng.random(n) < np.where(action == 1, better, p)).astype(float)
        return [ope.Feedback(reward, action, np.full(n, 0.5), np.tile(np.eye(2)[a], (n, 1))) for a in (0, 1)]

    base, new = log(0, p)
    planned = ope.power(new, base, lift=lift, estimators=["snips"], n=n).iloc[0].power
    rejected = []
    for seed in range(300):
        base, new = log(seed + 1, p * (1 + lift))
        rejected.append(ope.compare({"base": base, "new": new}, "base", method="normal").p_value.iloc[1] < 0.05)
    assert np.mean(rejected) == pytest.approx(planned, abs=0.08)


def test_needed_impressions_fall_with_the_square_of_the_lift_and_reach_the_wanted_power():
    logs = {t: simulate(500, target=t, seed=0).feedback for t in ("logging", "softmax")}
    small, large = (ope.power(logs["softmax"], logs["logging"], lift=x) for x in (0.03, 0.06))
    assert small.impressions.to_numpy() == pytest.approx(4 * large.impressions.to_numpy(), rel=0.01)
    needed = int(small.impressions.iloc[0])
    at_needed = ope.power(logs["softmax"], logs["logging"], lift=0.03, n=needed).iloc[0]
    assert at_needed.power == pytest.approx(0.8, abs=0.001)
    assert at_needed.detectable_lift == pytest.approx(0.03, rel=0.001)


def test_no_power_is_claimed_for_a_policy_that_never_shows_what_was_logged():
    reward, action = np.tile([0.0, 1.0], 200), np.zeros(400, int)
    shown, never = (np.tile(np.eye(2)[a], (400, 1)) for a in (0, 1))
    base, new = (ope.Feedback(reward, action, np.full(400, 0.5), target) for target in (shown, never))
    plan = ope.power(new, base, estimators=["ips", "snips"])
    assert plan[["sd", "impressions", "power"]].isna().all(axis=None)


def test_impressions_that_repeat_a_users_others_do_not_count():
    """A log with every impression twice needs twice the impressions: what counts is users."""
    once = simulate(300, seed=0).feedback
    names = ("reward", "action", "propensity", "target", "mask", "cluster")
    twice = ope.Feedback(**{name: np.concatenate([getattr(once, name)] * 2) for name in names})
    needed = [ope.power(log, estimators=["snips"]).impressions.iloc[0] for log in (once, twice)]
    assert needed[1] == pytest.approx(2 * needed[0], rel=1e-4)


def test_power_names_what_is_wrong():
    log = simulate(50).feedback
    with pytest.raises(ValueError, match="lift is 0"):
        ope.power(log, lift=0)
    with pytest.raises(ValueError, match=r"power is 80: it must be between 0 and 1"):
        ope.power(log, power=80)
    worthless = ope.Feedback(np.zeros(log.n), log.action, log.propensity, log.target, mask=log.mask)
    with pytest.raises(ValueError, match=r"the baseline's value is 0\.0: a relative lift needs a positive one"):
        ope.power(worthless)
