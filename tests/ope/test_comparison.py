"""Paired lifts and adjusted p-values."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest

from artlib import ope
from artlib.ope import intervals
from artlib.ope.comparison import COLUMNS
from artlib.ope.synthetic import simulate, true_value

TARGETS = ("logging", "softmax", "greedy")


def policies(users=300, seed=0, **settings):
    """The same log under three targets; the log is that of the same seed, so rows agree."""
    return {t: simulate(users, target=t, seed=seed, **settings).feedback for t in TARGETS}


def test_a_row_per_policy_with_the_promised_columns():
    frame = ope.compare(policies(), baseline="logging")
    assert frame.policy.tolist() == list(TARGETS)
    assert list(frame.columns) == COLUMNS
    assert (frame.estimator == "snips").all()


@pytest.mark.parametrize("method", ["percentile", "bca", "normal", "asymptotic-sequence"])
def test_values_and_intervals_are_those_of_estimate(method):
    logs = policies()
    frame = ope.compare(logs, baseline="logging", method=method).set_index("policy")
    for name, feedback in logs.items():
        alone = ope.estimate(feedback, "snips", method=method)
        for column in ("value", "lower", "upper", "std_error", "ess", "match_rate"):
            assert frame.loc[name, column] == pytest.approx(getattr(alone, column)), column
    lift = frame.loc["greedy", "value"] / frame.loc["logging", "value"] - 1
    assert frame.loc["greedy", "lift"] == pytest.approx(lift)


@pytest.mark.parametrize("method", ["percentile", "bca", "normal"])
def test_p_value_is_below_alpha_exactly_when_the_lift_interval_leaves_out_zero(method):
    seen = set()
    for seed in range(25):
        frame = ope.compare(policies(8, seed), "logging", method=method, n_bootstrap=500, alpha=0.2).iloc[1:]
        excludes = (frame.lift_lower > 0) | (frame.lift_upper < 0)
        assert (excludes == (frame.p_value < 0.2)).mean() >= 0.5
        seen.update(excludes)
        clear = (frame.p_value < 0.15) | (frame.p_value > 0.25)
        assert (excludes == (frame.p_value < 0.2))[clear].all()
    assert seen == {True, False}


def test_bca_lift_leaves_out_whole_clusters_from_both_policies(monkeypatch):
    logs = policies(30, seed=1)
    used = []
    original = intervals.bca_interval
    monkeypatch.setattr(intervals, "bca_interval", lambda *args: (used.append(args[2]), original(*args))[1])
    ope.compare({t: logs[t] for t in ("logging", "greedy")}, "logging", method="bca")
    names = ("reward", "action", "propensity", "target", "mask", "cluster")
    expected = []
    for user in range(30):
        rows = logs["greedy"].cluster != user
        base, new = (
            ope.Feedback(**{name: getattr(logs[t], name)[rows] for name in names}) for t in ("logging", "greedy")
        )
        expected.append(ope.ESTIMATORS["snips"](new).value / ope.ESTIMATORS["snips"](base).value - 1)
    assert used[-1] == pytest.approx(expected)


def test_pairing_makes_the_lift_of_a_near_copy_precise():
    """A policy that differs from the baseline on one user has a lift known far better than either value."""
    logs = policies()
    base = logs["softmax"]
    target = base.target.copy()
    target[:5] = logs["greedy"].target[:5]
    near = ope.Feedback(base.reward, base.action, base.propensity, target, cluster=base.cluster)
    frame = ope.compare({"base": base, "near": near}, "base").set_index("policy")
    value_width = (frame.loc["near", "upper"] - frame.loc["near", "lower"]) / frame.loc["near", "value"]
    lift_width = frame.loc["near", "lift_upper"] - frame.loc["near", "lift_lower"]
    assert lift_width < 0.2 * value_width


def test_the_baseline_against_itself_has_no_lift_and_no_p_value():
    row = ope.compare(policies(), "logging").iloc[0]
    assert (row.lift, row.lift_lower, row.lift_upper) == (0.0, 0.0, 0.0)
    assert np.isnan(row.p_value) and np.isnan(row.p_holm)
    copy = policies()["softmax"]
    other = ope.compare({"a": copy, "b": copy}, "a").iloc[1]
    assert (other.lift, other.p_value) == (0.0, 1.0)


@pytest.mark.parametrize("method", ["percentile", "bca", "normal"])
def test_lift_intervals_cover_the_true_lift_reduced(method):
    settings = {"sharpness": 0.5, "exploration": 0.3}
    truth = true_value(60_000, target="greedy", **settings) / true_value(60_000, target="logging", **settings) - 1
    hits = 0
    for seed in range(100):
        logs = policies(200, seed, **settings)
        row = ope.compare(logs, "logging", method=method, n_bootstrap=300, seed=seed).iloc[2]
        hits += row.lift_lower <= truth <= row.lift_upper
    assert 88 <= hits <= 100


def test_false_discoveries_are_rare_without_a_true_lift():
    """Two policies that each follow one of two arms, which are equally good."""
    rejected = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        action, reward = rng.integers(0, 2, 800), (rng.random(800) < 0.3).astype(float)
        arms = {
            f"arm {a}": ope.Feedback(reward, action, np.full(800, 0.5), np.tile(np.eye(2)[a], (800, 1)))
            for a in range(2)
        }
        rejected += ope.compare(arms, "arm 0", method="normal").p_value.iloc[1] < 0.05
    assert rejected <= 20


def test_holm_by_hand_and_in_published_use():
    """Raw 0.01, 0.04, 0.03, 0.005 adjust to 0.03, 0.06, 0.06, 0.02 (statsmodels' and R's p.adjust agree)."""
    assert ope.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert ope.holm([0.5, np.nan, 0.9]) == pytest.approx([1.0, np.nan, 1.0], nan_ok=True)
    assert len(ope.holm([])) == 0


def test_holm_is_applied_per_estimator_over_the_other_policies():
    frame = ope.compare(policies(60), "logging", estimator=["ips", "snips", "dr"], method="normal")
    assert len(frame) == 9
    for _, group in frame.groupby("estimator"):
        assert group.p_holm.to_numpy() == pytest.approx(ope.holm(group.p_value), nan_ok=True)


def test_a_parameter_goes_to_the_estimators_that_have_one_and_is_reported():
    frame = ope.compare(policies(60), "logging", estimator=["ips", "clipped-ips"], parameter=3.0)
    assert frame.set_index(["estimator", "policy"]).parameter["clipped-ips", "greedy"] == 3.0
    assert frame[frame.estimator == "ips"].parameter.isna().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"reward": lambda x: 1 - x},
            r"reward of policy 'new' at row 0 is .*, that of 'old' is .*: lifts are paired",
        ),
        ({"propensity": lambda x: x / 2}, r"propensity of policy 'new' at row 0"),
        ({"cluster": lambda x: None}, r"cluster of policy 'new' has none, that of 'old' \d+ rows"),
    ],
)
def test_policies_on_different_logs_cannot_be_compared(change, message):
    old = policies()["softmax"]
    fields = {n: getattr(old, n) for n in ("reward", "action", "propensity", "target", "cluster")}
    new = ope.Feedback(**fields | {name: function(fields[name]) for name, function in change.items()})
    with pytest.raises(ValueError, match=message):
        ope.compare({"old": old, "new": new}, baseline="old")


def test_a_missing_baseline_and_a_one_sided_method_are_refused():
    with pytest.raises(ValueError, match=r"baseline is 'production': it must be one of the policies 'logging'"):
        ope.compare(policies(), baseline="production")
    with pytest.raises(ValueError, match=r"method is 'bernstein'"):
        ope.compare(policies(), baseline="logging", method="bernstein")


def test_no_match_and_a_worthless_baseline_give_nan_and_a_warning():
    n = 50
    rng = np.random.default_rng(0)
    reward, action = rng.integers(0, 2, n).astype(float), np.zeros(n, int)
    never = ope.Feedback(reward, action, np.full(n, 0.5), np.tile([0.0, 1.0], (n, 1)))
    always = ope.Feedback(reward, action, np.full(n, 0.5), np.tile([1.0, 0.0], (n, 1)))
    with pytest.warns(ope.EvaluationWarning, match="never, snips: the target never chooses what was shown"):
        frame = ope.compare({"always": always, "never": never}, "always")
    assert frame.loc[1, ["value", "lower", "lift", "lift_lower", "p_value"]].isna().all()
    zero = ope.Feedback(np.zeros(n), action, np.full(n, 0.5), np.tile([1.0, 0.0], (n, 1)))
    half = ope.Feedback(np.zeros(n), action, np.full(n, 0.5), np.tile([0.5, 0.5], (n, 1)))
    with pytest.warns(ope.EvaluationWarning, match=r"the baseline's value is 0\.0, so relative lifts are NaN"):
        frame = ope.compare({"zero": zero, "half": half}, "zero")
    assert pd.isna(frame.lift).all()


@pytest.mark.parametrize("method", ["percentile", "bca", "normal", "asymptotic-sequence"])
@pytest.mark.parametrize(
    ("shift", "reason"),
    [
        (-2.0, r"the baseline's value is -1\.\d+, so relative lifts are NaN"),
        (-0.5, r"the baseline's value is 0\.0\d+ \(-0\.\d+, 0\.\d+\), perhaps 0 or less, so relative lifts are NaN"),
        (-0.1, None),
    ],
)
def test_no_lift_is_given_over_a_baseline_that_may_be_worth_nothing(method, shift, reason):
    """SNIPS of the logging policy is about 0.51, known to about 0.1."""
    logs = policies(100, seed=1)
    fields = ("action", "propensity", "target", "mask", "cluster")
    reward = logs["logging"].reward + shift + 0.51 - ope.ESTIMATORS["snips"](logs["logging"]).value
    logs = {t: ope.Feedback(reward, **{f: getattr(log, f) for f in fields}) for t, log in logs.items()}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        frame = ope.compare(logs, "logging", method=method)
    assert frame[["value", "lower", "upper"]].notna().all(axis=None), "values need no baseline"
    if reason is None:
        assert not caught and frame.lift.to_numpy() == pytest.approx(frame.value / frame.value[0] - 1)
    else:
        assert len(caught) == 2 and all(re.match(reason, str(w.message)) for w in caught)
        assert frame[["lift", "lift_lower", "lift_upper", "p_value", "p_holm"]].isna().all(axis=None)


def test_rewards_that_cannot_be_negative_have_lifts_however_few_they_are():
    """The normal interval reaches below 0, but the value cannot."""
    reward = np.zeros(60)
    reward[0] = 1
    base, new = (
        ope.Feedback(reward, np.zeros(60, int), np.full(60, 0.5), np.tile([p, 1 - p], (60, 1))) for p in (0.5, 0.8)
    )
    frame = ope.compare({"base": base, "new": new}, "base", "ips", method="normal")
    assert frame.lower[0] < 0 < frame.value[0]
    assert frame.lift.tolist() == pytest.approx([0, 0.6]) and frame.lift_lower.notna().all()


def test_one_user_has_values_but_no_intervals():
    log = simulate(1, seed=4).feedback
    with pytest.warns(ope.EvaluationWarning, match="one cluster"):
        frame = ope.compare({"a": log, "b": log}, "a", estimator="ips")
    assert frame.value.notna().all() and frame.lower.isna().all()
