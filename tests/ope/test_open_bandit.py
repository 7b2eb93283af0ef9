"""Open Bandit Data: the figures that obp publishes, and the alarm in the direction that cannot work.

Reads the folder `obd` in ARTLIB_DATA (default ../shared/data beside the repository).
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from artlib import ope

ROOT = Path(__file__).resolve().parents[2]
OBD = Path(os.environ.get("ARTLIB_DATA", ROOT.parent / "shared" / "data")) / "obd"

pytestmark = pytest.mark.skipif(not OBD.is_dir(), reason=f"Open Bandit Data is not in {OBD}; set ARTLIB_DATA")


def open_bandit(logged_by, campaign, target):
    """A log of 10,000 impressions; a candidate is an item, its probabilities depend on the position."""
    log = pd.read_csv(OBD / logged_by / campaign / f"{campaign}.csv.gz")
    bts = pd.read_csv(OBD / f"bts_action_dist_{campaign}.csv").to_numpy()
    items = len(bts)
    uniform = np.full((3, items), 1 / items)
    by_position = {"bts": bts.T, "uniform": uniform}[target]
    return ope.Feedback(log.click, log.item_id, log.propensity_score, by_position[log.position - 1])


@pytest.mark.parametrize(
    ("estimator", "published"),
    [("ips", 0.004553), ("snips", 0.004776), ("on-policy", 0.0038)],
)
def test_published_values_of_the_random_log_for_bts_on_campaign_all(estimator, published):
    assert ope.estimate(open_bandit("random", "all", "bts"), estimator).value == pytest.approx(published, abs=5e-7)


def test_published_ground_truth_of_bts_and_the_interval_that_holds_it():
    """obp's quickstart: the on-policy value of BTS on `all` is 0.0042."""
    truth = ope.estimate(open_bandit("bts", "all", "uniform"), "on-policy").value
    assert truth == pytest.approx(0.0042)
    for method in ("percentile", "bca", "normal"):
        found = ope.estimate(open_bandit("random", "all", "bts"), "snips", method=method)
        assert found.lower < truth < found.upper


@pytest.mark.parametrize("campaign", ["all", "men"])
def test_the_uniform_log_supports_bts_and_its_propensities_are_right(campaign):
    found = ope.diagnose(open_bandit("random", campaign, "bts"))
    assert found.uniform_logging
    assert found.mean_weight_p > 0.01
    assert found.ess > 0.1 * found.n
    assert found.max_leverage < 0.01


def test_on_campaign_all_too_few_clicks_carry_the_value_and_the_verdict_says_so():
    verdict = ope.estimate(open_bandit("random", "all", "bts"), "snips").verdict
    assert verdict == "do not trust: the value rests on about 4.7 rewarded impressions"
    assert ope.estimate(open_bandit("random", "men", "bts"), "snips").trusted


@pytest.mark.parametrize("campaign", ["all", "men"])
@pytest.mark.parametrize("estimator", ["ips", "snips", "clipped-ips", "sgips"])
def test_in_the_reverse_direction_weights_explode_and_the_alarm_is_raised(campaign, estimator):
    """The BTS log hardly ever shows most items; the uniform target needs them all."""
    result = ope.estimate(open_bandit("bts", campaign, "uniform"), estimator)
    assert result.diagnostics.max_weight > 100
    assert not result.trusted
    assert "of squared weights" in result.verdict


@pytest.mark.parametrize("campaign", ["all", "men"])
def test_replay_is_refused_on_the_bts_log_where_it_just_returns_the_logs_own_mean(campaign):
    result = ope.estimate(open_bandit("bts", campaign, "uniform"), "replay")
    assert result.value == pytest.approx(ope.estimate(open_bandit("bts", campaign, "uniform"), "on-policy").value)
    assert "replay needs a uniform logging policy" in result.verdict


def test_power_on_open_bandit_data_shows_why_ten_thousand_impressions_cannot_rank_policies():
    plan = ope.power(open_bandit("random", "all", "bts"), lift=0.1, estimators=["ips", "snips"])
    assert (plan.power < 0.1).all()
    assert (plan.impressions > 1_000_000).all()
