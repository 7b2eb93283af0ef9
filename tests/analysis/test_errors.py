"""Error analysis: regret, groups and cases agree with the truth they are made from."""

import numpy as np
import pandas as pd
import pytest

from artlib.analysis import errors, plots
from artlib.policies import baselines


@pytest.fixture(scope="module")
def cases(small_log):
    test = small_log.split("test")
    return test, errors.describe(small_log, test, baselines.uniform(test), test.arrays().production)


def test_loss_is_the_regret_in_a_simulated_world(cases):
    test, table = cases
    q, mask = test.expected_reward(), test.arrays().mask
    regret = q.max(axis=1) - q.sum(axis=1) / mask.sum(axis=1)
    np.testing.assert_allclose(table["loss"], regret)
    assert (table["loss"] >= 0).all()


def test_loss_on_real_feedback_estimates_the_difference_to_production(small_log):
    import dataclasses

    test = dataclasses.replace(small_log.split("test"), truth=None)
    arrays = test.arrays()
    table = errors.describe(small_log, test, baselines.uniform(test), arrays.production)
    uniform = arrays.reward / arrays.mask.sum(axis=1) / arrays.propensity
    assert table["loss"].mean() == pytest.approx((arrays.reward - uniform).mean())


def test_the_share_of_the_most_chosen_artwork_counts_titles_with_enough_impressions():
    import pandas as pd

    chosen = {"a": ["x", "x", "x", "y"], "b": ["x", "y"]}
    rows = [(title, name) for title, names in chosen.items() for name in names]
    cases = pd.DataFrame(rows, columns=["title_id", "chosen"]).assign(produced="z")
    shares = errors.most_chosen_shares(cases)
    assert shares.to_dict("index") == {"a": {"chosen": 0.75, "produced": 1.0}}
    none = errors.most_chosen_shares(cases, least=5)
    assert none.empty and list(none.describe().loc["count"]) == [0, 0]


def test_groups_partition_the_impressions_and_average_to_the_whole(cases):
    _, table = cases
    groups = errors.by_group(table, "regret")
    for _, part in groups.groupby("group"):
        assert part["n"].sum() == len(table)
        assert np.average(part["mean"], weights=part["n"]) == pytest.approx(table["loss"].mean())
    assert (groups["lower"] <= groups["mean"]).all() and (groups["mean"] <= groups["upper"]).all()


@pytest.mark.parametrize("lengths", [[2, 3], [0, 1], [4], [1, 2, 3, 5, 8, 13, 21, 34]])
def test_quarters_of_histories_are_of_whole_titles_and_named_apart(lengths):
    found = errors._quartiles(pd.Series(lengths))
    assert found.notna().all() and found.nunique() <= 4
    for length, name in zip(lengths, found, strict=True):
        low, high = (int(word) for word in (str(name).split()[0], str(name).split()[-2]))
        assert low <= length <= high


def test_choices_are_artworks_and_histories_are_counted_from_0(small_log, cases):
    test, table = cases
    owner = {row["artwork_id"]: row["title_id"] for row in small_log.artworks.to_pylist()}
    assert [owner[artwork] for artwork in table["chosen"]] == table["title_id"].tolist()
    offered, best = test.impressions["candidates"].to_pylist(), test.arrays().production.argmax(axis=1)
    assert table["produced"].tolist() == [offered[row][k] for row, k in enumerate(best)]
    history = np.arange(len(table)) % 40  # somebody has none
    groups = errors.by_group(table.assign(history=history), "regret")
    first = groups[groups["group"] == "history"].iloc[0]
    assert first["level"] == "0 to 9 titles" and first["n"] == (history <= 9).sum()


def test_a_case_lists_every_candidate_with_its_caption(small_log, cases):
    test, _ = cases
    case = errors.read_case(small_log, test, 3, {"random": baselines.uniform(test)})
    assert len(case) == test.arrays().mask[3].sum() and (case["shown"] != "").sum() == 1
    assert case["random"].sum() == pytest.approx(1, abs=0.01)


def test_figures_are_written_whole(small_log, tmp_path):
    plots.save(plots.cards(small_log, 0), tmp_path, "cards")
    plots.save(plots.overview(small_log), tmp_path, "overview")
    written = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert written == ["cards.png", "overview.png"]
    assert all((tmp_path / "figures" / name).read_bytes()[:4] == b"\x89PNG" for name in written)
