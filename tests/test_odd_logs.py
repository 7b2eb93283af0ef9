"""Logs that are valid and hardly tell anything: every table and picture says so instead of failing."""

import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
import pytest

from artlib.analysis import errors, evaluation, plots
from artlib.data import Log
from artlib.policies import answers, baselines


def with_columns(log: Log, **columns) -> Log:
    table = log.impressions
    for name, values in columns.items():
        place = table.column_names.index(name)
        field = table.schema.field(place)
        table = table.set_column(place, field, pa.array(list(values), field.type))
    return dataclasses.replace(log, impressions=table)


def one_user(log: Log) -> Log:
    log = with_columns(log, user_id=["u000001"] * len(log.impressions))
    return dataclasses.replace(log, histories=log.histories.slice(0, 0))


def no_reward(log: Log) -> Log:
    test = log.impressions["split"].to_numpy() == "test"
    return with_columns(log, reward=np.where(test, 0, log.impressions["reward"].to_numpy()))


def one_candidate(log: Log) -> Log:
    rows, shown = log.impressions["candidates"].to_pylist(), log.arrays().shown
    n = len(rows)
    log = with_columns(
        log,
        candidates=[[row[k]] for row, k in zip(rows, shown, strict=True)],
        shown=[0] * n,
        propensity=[1.0] * n,
        production=[[1.0]] * n,
    )
    return dataclasses.replace(log, truth=None)


ODD = {
    "one user": (one_user, 0, "one user"),
    "one user, no truth": (lambda log: dataclasses.replace(one_user(log), truth=None), 0, "one user"),
    "no reward": (no_reward, 0, "no row of test has a reward"),
    "no reward, no truth": (lambda log: dataclasses.replace(no_reward(log), truth=None), 0, "no row of test"),
    "one candidate": (one_candidate, 0, "all test rows have one candidate"),
    "few": (lambda log: log, 20, None),
    "one impression": (lambda log: log, 1, None),
}


@pytest.mark.filterwarnings("ignore")  # estimates of next to nothing say so
@pytest.mark.parametrize("name", ODD)
def test_notebooks_03_and_04_find_something_to_say(small_log, name):
    make, most, warning = ODD[name]
    log = make(small_log)
    log.validate()
    assert warning is None or any(warning in line for line in log.warnings())
    test = answers.first_in_time(log.split("test"), most)
    mask = test.arrays().mask
    scores = np.where(mask, np.random.default_rng(0).normal(size=mask.shape), -np.inf)
    policies = {
        "random": baselines.uniform(test),
        "production": test.arrays().production,
        "popular": baselines.greedy(baselines.popular_scores(log, test)),
        "text": baselines.greedy(scores),
        "llm-sft": baselines.greedy(np.where(mask, -scores, -np.inf)),
    }
    table = evaluation.evaluate(log, test, policies, n_bootstrap=100)
    best = "snips" if test.truth is None else "truth"
    whole = table[(table["slice"] == "all") & (table["estimator"] == best)].set_index("policy")
    assert set(whole.index) == set(policies) and (whole["n"] == len(test.impressions)).all()
    power = evaluation.power(log, test, policies, "llm-sft", lift=0.03, n=5000)
    assert len(power) or power.attrs["reason"]
    cases = errors.describe(log, test, policies["llm-sft"], policies["production"])
    assert len(errors.most_chosen_shares(cases).describe()) == 8
    groups = errors.by_group(cases, "regret")
    assert groups["n"].sum() == 5 * len(test.impressions)
    for figure in (
        plots.overview(log),
        plots.forest(table),
        plots.slices(table, ["text", "llm-sft"], best),
        plots.calibration(test, {"text": answers.probabilities(scores)}),
        plots.groups(groups),
    ):
        figure.canvas.draw()
        plt.close(figure)
    assert len(errors.read_case(log, test, 0, policies)) == mask[0].sum()


@pytest.mark.filterwarnings("ignore")
def test_evaluation_warns_of_production_in_another_order(small_log, capsys):
    rows = small_log.impressions["production"].to_pylist()
    log = with_columns(small_log, production=[sorted(row, reverse=True) for row in rows])
    test = log.split("test")
    evaluation.evaluate(log, test, {"production": test.arrays().production}, n_bootstrap=100)
    assert "warning: impressions.parquet row" in (said := capsys.readouterr().out) and "another order" in said
