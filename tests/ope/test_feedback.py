"""The validator: every fault names the argument, the row, the value and the remedy."""

import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest

from artlib import ope

GOOD = {
    "reward": [1.0, 0.0, 0.5],
    "action": [0, 1, 2],
    "propensity": [0.5, 0.5, 0.2],
    "target": [[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.2, 0.2, 0.6]],
    "q_hat": [[0.1, 0.2, np.nan], [0.1, 0.2, 0.3], [0.1, 0.2, 0.3]],
    "mask": [[True, True, False], [True, True, True], [True, True, True]],
    "cluster": ["ann", "ann", "bob"],
}


def with_change(name, value):
    return GOOD | {name: value}


def test_good_feedback_is_accepted_and_typed():
    feedback = ope.Feedback(**GOOD)
    assert feedback.n == len(feedback) == 3
    assert feedback.n_clusters == 2
    assert feedback.weight == pytest.approx([1.0, 2.0, 3.0])
    assert feedback.q_hat[0, 2] == 0.0, "the reward model may be undefined in padded cells"
    assert feedback.candidates.tolist() == [2, 3, 3]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("propensity", [0.5, 0.0, 0.2], r"propensity at row 1 is 0\.0: must be in \(0, 1\]"),
        ("propensity", [0.5, 0.5, 1.2], r"propensity at row 2 is 1\.2: must be in \(0, 1\]"),
        ("propensity", [np.nan, 0.5, 0.2], r"propensity at row 0 is nan: must be in \(0, 1\]"),
        ("propensity", [0.5, 0.5, 1.0002], r"propensity at row 2 is 1\.0002: must be in \(0, 1\]"),
        ("propensity", [0.5, 0.5, 2e-308], r"propensity at row 2 is 2e-308: must be at least 1e-50, as its weight"),
        ("propensity", [0.5, 5e-324, 1e-300], r"propensity at row 1 is 5e-324 \(and 1 more\): must be at least"),
        ("propensity", [0.5, 0.5], r"propensity has 2 rows but reward has 3"),
        ("propensity", ["high", 0.5, 0.2], r"propensity cannot be read as numbers: row 0 has 'high'"),
        ("reward", [1.0, np.nan, 0.0], r"reward at row 1 is nan: must be finite \(at most 1e\+50 in size\); look up"),
        ("reward", [1.0, np.inf, np.nan], r"reward at row 1 is inf \(and 1 more\)"),
        ("reward", [1.0, 1e300, 0.0], r"reward at row 1 is 1e\+300: must be finite \(at most 1e\+50 in size\)"),
        ("reward", [[1.0, 0.0, 0.5]], r"reward has shape \(1, 3\): it must be \(n,\)"),
        ("reward", [], r"reward has no rows"),
        ("action", [0, 1, 3], r"action at row 2 is 3: must be a column of target, 0 to 2"),
        ("action", [-1, 1, 2], r"action at row 0 is -1"),
        ("action", [0.5, 1, 2], r"action at row 0 is 0\.5: must be a whole number"),
        ("action", [2, 1, 2], r"action at row 0 is 2: is a padded cell"),
        ("target", [[0.5, 0.6, 0], [0, 1, 0], [0.2, 0.2, 0.6]], r"sum of target at row 0 is 1\.1: must be 1"),
        ("target", [[0.5, 0.4998, 0], [0, 1, 0], [0.2, 0.2, 0.6]], r"sum of target at row 0 is 0\.9998: must be 1"),
        ("target", [[1, -1e-5, 0], [0, 1, 0], [0.2, 0.2, 0.6]], r"target at row 0, column 1 is -1e-05: must be a prob"),
        ("target", [[0.5, 0, 0.5], [0, 1, 0], [0.2, 0.2, 0.6]], r"column 2 is 0\.5: is mass on a padded"),
        (
            "target",
            [[1.5, -0.5, 0], [0, 1, 0], [0.2, 0.2, 0.6]],
            r"target at row 0, column 0 is 1\.5 .*0 to 1",
        ),
        ("target", [[np.nan, 1, 0], [0, 1, 0], [0.2, 0.2, 0.6]], r"target at row 0, column 0 is nan"),
        ("target", [[0.5, 0.5, 0.0]], r"target has 1 rows but reward has 3"),
        ("target", [1.0, 1.0, 1.0], r"target has shape \(3,\): it must be \(n, K\)"),
        (
            "target",
            [[0.5, 0.5], [0.0, 1.0], [0.2, 0.2, 0.6]],
            r"target at row 2 has 3 candidates but row 0 has 2: .* pad target with 0 to K = 3 columns and pass mask",
        ),
        ("target", [[0.5, 0.5, 0.0], None, [0.2, 0.2, 0.6]], r"target at row 1 is None: must be a list"),
        ("q_hat", [[0.1, 0.2, 0.3], [0.1], [0.1, 0.2]], r"q_hat at row 1 has 1 candidates but row 0 has 3: .* with 0"),
        ("logging", [[0.5, 0.5], [1.0], None], r"logging at row 1 has 1 candidates but row 0 has 2"),
        ("mask", [[True] * 2, [True] * 3, [True] * 3], r"mask at row 1 has 3 .* pad mask with False to K = 3 columns"),
        ("reward", [1.0, [0.0, 1.0], 0.5], r"reward is a nested list: it must be \(n,\)"),
        ("action", [0, 1e300, 2], r"action at row 1 is 1e\+300: must be a column of target"),
        ("mask", [[True, True]] * 3, r"mask has shape \(3, 2\) but target has \(3, 3\)"),
        ("mask", [[2, 1, 1]] * 3, r"mask has values other than True and False"),
        ("q_hat", [[0.1, np.nan, 0]] * 3, r"q_hat at row 0, column 1 is nan \(and 2 more\): must be finite"),
        ("q_hat", [[0.1, 0.2]] * 3, r"q_hat has 2 columns but target has 3"),
        ("cluster", ["ann", None, "bob"], r"cluster at row 1 is None: must not be missing"),
        ("cluster", [["ann"], ["ann"], ["bob", "eve"]], r"cluster is a nested list: it must be \(n,\)"),
        ("target", [[], [], []], r"target has no columns: an impression needs at least one candidate"),
        ("cluster", ["ann"], r"cluster has shape \(1,\) but reward has 3 rows"),
    ],
)
def test_a_fault_names_argument_row_value_and_remedy(name, value, message):
    with pytest.raises(ValueError, match=message):
        ope.Feedback(**with_change(name, value))


def test_a_pandas_column_of_lists_is_a_matrix_when_its_lists_have_one_length():
    frame = pd.DataFrame({name: GOOD[name] for name in ("target", "q_hat", "mask")})
    columns = {name: frame[name] for name in frame}
    assert ope.Feedback(**GOOD | columns).target.tolist() == GOOD["target"]
    columns["target"] = pd.Series([[1.0], [0.0, 1.0], [0.2, 0.2, 0.6]])
    with pytest.raises(ValueError, match=r"target at row 1 has 2 candidates but row 0 has 1"):
        ope.Feedback(**GOOD | columns)


def test_logging_policy_must_agree_with_the_propensities():
    logging = [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.4, 0.4, 0.2]]
    assert ope.Feedback(**GOOD, logging=logging).logging is not None
    logging[1] = [0.9, 0.1, 0.0]
    with pytest.raises(ValueError, match=r"propensity at row 1 is 0\.5: differs from logging"):
        ope.Feedback(**GOOD, logging=logging)


def test_float32_rounding_is_corrected_in_silence():
    rng = np.random.default_rng(0)
    target = rng.random((1000, 7)).astype(np.float32)
    target /= target.sum(axis=1, keepdims=True)
    assert np.abs(target.sum(axis=1, dtype=float) - 1).max() > 1e-9
    propensity = np.full(1000, np.float32(1.0000001))
    assert propensity[0] > 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        feedback = ope.Feedback(np.zeros(1000), np.zeros(1000, int), propensity, target, logging=np.eye(7)[[0] * 1000])
    assert (feedback.propensity == 1).all()
    assert np.abs(feedback.target.sum(axis=1) - 1).max() < 1e-15


def test_what_is_left_of_1_may_be_just_below_0():
    shares = np.array([0.3, 0.4, 0.1, 0.2], dtype=np.float32)
    left = np.float32(1) - shares.cumsum()[-1]
    assert left < 0
    feedback = ope.Feedback([1.0], [0], [0.5], [[*shares, left]])
    assert feedback.target[0] == pytest.approx([0.3, 0.4, 0.1, 0.2, 0.0]) and feedback.target[0, 4] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"target": [[0.3333, 0.6666, 0.0], [0.0, 1.0, 0.0], [0.3333, 0.3333, 0.3333]]},
            r"target does not sum to 1 in 2 rows, at most by 0\.0001 \(row 0\): divided by the sum\. Rounding to four",
        ),
        (
            {"propensity": [0.5, 1.00005, 0.2]},
            r"propensity is above 1 in 1 row, at most by 5e-05 \(row 1\): set to 1\. R",
        ),
        (
            {
                "propensity": [0.5, 1.0001, 0.2],
                "target": [[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.2, 0.2, 0.6001]],
                "logging": [[0.5001, 0.5, 0.0], [0.0, 1.0, 0.0], [0.4, 0.4, 0.2]],
            },
            r"propensity is above 1 in 1 row.*; target does not .* \(row 2\).*; logging does not .* \(row 0\)",
        ),
    ],
)
def test_four_decimals_are_corrected_with_one_warning(change, message):
    with pytest.warns(UserWarning, match=message) as caught:
        feedback = ope.Feedback(**GOOD | change)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert feedback.target.sum(axis=1) == pytest.approx([1, 1, 1], abs=1e-15)
    assert feedback.propensity.max() <= 1
    if feedback.logging is not None:
        assert feedback.logging.sum(axis=1) == pytest.approx([1, 1, 1], abs=1e-15)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = ope.Feedback(**{name: getattr(feedback, name) for name in (*GOOD, "logging")})
    assert (again.target == feedback.target).all() and (again.propensity == feedback.propensity).all()


@pytest.mark.parametrize("k", [3, 30, 150])
def test_any_row_rounded_to_four_decimals_is_close_enough(k):
    """A uniform row is the worst: every entry is rounded the same way."""
    exact = np.full((2, k), 1 / k)
    with pytest.warns(UserWarning, match="does not sum to 1 in 2 rows"):
        feedback = ope.Feedback([1.0, 0.0], [0, 0], [1 / k] * 2, exact.round(4), logging=exact.round(4))
    assert np.allclose(feedback.target, exact, rtol=1e-14)


def test_the_tolerance_is_that_of_the_impressions_own_candidates():
    """Off by 0.001: four decimals can do this to 30 candidates, not to 2."""
    mask = np.arange(30) < np.array([[30], [2]])
    rows = np.where(mask, [[1 / 30], [0.5]], 0)
    rows[:, 0] += 0.001
    with pytest.raises(ValueError, match=r"sum of target at row 1 is 1\.001: must be 1"):
        ope.Feedback([1.0, 0.0], [0, 0], [0.5, 0.5], rows, mask=mask)
    with pytest.raises(ValueError, match=r"sum of target at row 0 is 0\.98"):
        ope.Feedback([1.0], [0], [0.5], np.full((1, 1000), 0.00098))


def test_a_model_based_estimator_without_a_model_says_so():
    feedback = ope.Feedback(**with_change("q_hat", None))
    with pytest.raises(ValueError, match=r"q_hat is None: this estimator needs a reward model; pass q_hat=cross_fit"):
        ope.estimate(feedback, "dr")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"estimator": "ipw"}, r"estimator is 'ipw': it must be one of on-policy, ips"),
        ({"method": "bootstrap"}, r"method is 'bootstrap': it must be one of percentile, bca"),
        ({"alpha": 1.5}, r"alpha is 1\.5: it must be between 0 and 1"),
        ({"n_bootstrap": 10}, r"n_bootstrap is 10: .* at least 40 replicates"),
        ({"estimator": "ips", "parameter": 3.0}, r"parameter is 3\.0 but ips has none"),
        ({"estimator": "clipped-ips", "parameter": -1.0}, r"clip is -1\.0: it must be >= 0"),
        ({"estimator": "sgips", "parameter": 2.0}, r"lam is 2\.0: it must be in \[0, 1\]"),
        (
            {"estimator": "clipped-ips", "parameter": "best"},
            r"parameter is 'best': it must be a number, 'slope'",
        ),
        ({"estimator": "ips", "parameter": "slope"}, r"estimator is 'ips', which has no hyper-parameter"),
        ({"estimator": "snips", "method": "bernstein"}, r"method is 'bernstein' but estimator is 'snips'"),
        (
            {"estimator": "sgips", "method": "bernstein"},
            r"parameter is None: the bound .* only for a hyper-parameter that was not chosen from the log",
        ),
        (
            {"estimator": "clipped-ips", "method": "bernstein", "parameter": "slope"},
            r"parameter is 'slope': the",
        ),
        ({"estimator": "snips", "method": "sequence"}, r"method is 'sequence' but estimator is 'snips'"),
        (
            {"estimator": "ips", "method": "sequence", "reward_max": 0.7},
            r"reward_max is 0\.7 but the reward at row 0",
        ),
        (
            {"estimator": "ips", "method": "sequence", "weight_max": 2.5},
            r"weight_max is 2\.5 but the weight at row 2",
        ),
        (
            {"estimator": "ips", "method": "bernstein", "reward_min": 0.2},
            r"reward at row 1 is 0\.0: is below reward_min, 0\.2; methods 'bernstein' and 'sequence' need",
        ),
        ({"estimator": "ips", "method": "sequence", "reward_min": -np.inf}, r"reward_min is -inf: it must be a finite"),
    ],
)
def test_wrong_arguments_of_estimate_name_what_would_be_right(arguments, message):
    with pytest.raises(ValueError, match=message):
        ope.estimate(ope.Feedback(**GOOD), **arguments)


def test_the_package_imports_nothing_else_of_artlib_and_no_language_model():
    code = "import artlib.ope, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    own = [name for name in loaded if name.startswith("artlib.") and not name.startswith("artlib.ope")]
    assert own == []
    assert not {"torch", "transformers", "datasets", "matplotlib"} & set(loaded)


def test_an_estimate_prints_as_a_sentence():
    text = str(ope.estimate(ope.Feedback(**GOOD), "ips", method="normal"))
    assert text.startswith("ips 0.8333 [")
    assert "(95%, normal), effective sample size 3 of 3: do not trust: only 2 independent clusters" in text
