"""The examples of docs/extending.md do what they say."""

import re
from pathlib import Path

import numpy as np
import pytest

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"


@pytest.fixture
def built(tmp_path, monkeypatch) -> dict:
    """What the page's programs leave behind, run one after the other; the registries as they were afterwards."""
    from artlib.lm.prompts import PROMPTS
    from artlib.ope import ESTIMATORS
    from artlib.posttrain.objectives import OBJECTIVES
    from artlib.posttrain.settings import METHODS
    from artlib.worlds import registry

    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    kept = [(known, dict(known)) for known in (PROMPTS, ESTIMATORS, OBJECTIVES, METHODS, registry._REGISTERED)]
    try:
        for program in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
            exec(compile(program, str(PAGE), "exec"), namespace)
        yield namespace
    finally:
        for known, before in kept:
            known.clear()
            known.update(before)


def test_a_world_a_form_a_method_an_estimator_and_a_plot_are_added_as_the_page_says(built, tmp_path):
    log, scores, training = (built[name] for name in ("log", "scores", "training"))
    assert log.warnings() == [] and log.manifest["fingerprint"]["world"] == "quiet-or-loud"
    arrays, q = log.split("test").arrays(), log.split("test").expected_reward()
    assert scores.shape == arrays.mask.shape and np.isfinite(scores[arrays.mask]).all()
    assert (q.max(axis=1) > q.mean(axis=1)).all()
    losses = [entry["eval_loss"] for entry in training["curve"] if "eval_loss" in entry]
    assert training["examples"] == 32 and losses[0] != losses[1]
    weight = built["feedback"].weight ** 0.5
    assert built["estimate"].value == pytest.approx((weight * arrays.reward).sum() / weight.sum())
    assert built["estimate"].lower < built["estimate"].value < built["estimate"].upper
    assert (tmp_path / "quiet-or-loud-figures" / "figures" / "rewards_by_propensity.png").stat().st_size > 0
