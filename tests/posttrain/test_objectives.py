"""Objectives: equal to their formulas in plain loops, with autograd's gradients, and teaching what they promise."""

import math

import pytest
import torch

from artlib.posttrain import objectives
from artlib.posttrain.settings import VALUE_ESTIMATORS


def decisions(log_policy=None, **changes) -> objectives.Decisions:
    """Three candidates, two impressions (a play and an ignored one); the second impression lacks the third."""
    logits = torch.tensor([[0.3, -0.4, 0.9], [0.5, -0.2, -1e9]], dtype=torch.float64)
    reference = torch.tensor([[0.0, 0.2, 0.1], [-0.3, 0.4, -1e9]], dtype=torch.float64)
    given = {
        "log_policy": logits.log_softmax(1) if log_policy is None else log_policy,
        "shown": torch.tensor([2, 0]),
        "reward": torch.tensor([1.0, 0.0], dtype=torch.float64),
        "propensity": torch.tensor([0.25, 0.7], dtype=torch.float64),
        "log_shown": torch.tensor([[0.2, 0.55, 0.25], [0.7, 0.3, 1.0]], dtype=torch.float64).log(),
        "mask": torch.tensor([[True, True, True], [True, True, False]]),
        "log_reference": reference.log_softmax(1),
        "q_hat": torch.tensor([[0.1, 0.2, 0.3], [0.3, 0.1, 0.0]], dtype=torch.float64),
        "targets": torch.tensor([[0.2, 0.5, 0.0], [1.5, 0.7, 0.0]], dtype=torch.float64),
    }
    return objectives.Decisions(**(given | changes))


def by_hand(
    method: str, d: objectives.Decisions, w: objectives.Hyperparameters, still: objectives.Decisions | None = None
) -> list[float]:
    """The formulas, one impression and one candidate at a time, with ordinary floats.

    Args:
        still: of which what has no gradient is taken; default: d.
    """
    losses = []
    values = []
    for i in range(len(d.shown)):
        allowed = [c for c in range(3) if d.mask[i, c]]
        p = {c: math.exp(d.log_policy[i, c]) for c in allowed}
        ref = {c: math.exp(d.log_reference[i, c]) for c in allowed}
        a, r, q = int(d.shown[i]), float(d.reward[i]), d.q_hat[i].tolist()
        ratio = {c: math.log(p[c] / ref[c]) for c in allowed}
        others = [c for c in allowed if c != a]
        weight = min(p[a] / float(d.propensity[i]), w.clip)
        if method == "sft":
            losses.append(-r * math.log(p[a]))
        elif method == "sft-ips":
            losses.append(-r * min(1 / (len(allowed) * float(d.propensity[i])), w.clip) * math.log(p[a]))
        elif method == "sft-logq":
            odds = {c: p[c] * math.exp(d.log_shown[i, c]) for c in allowed}
            losses.append(-r * math.log(odds[a] / sum(odds.values())))
        elif method == "awsft":
            expected = sum(math.exp(d.log_shown[i, c]) * q[c] for c in allowed)
            better = math.exp((r - expected) / w.mean_reward / w.advantage_temperature)
            losses.append(-min(better, w.clip) * math.log(p[a]))
        elif method == "policy-gradient":
            value = sum(p[c] * q[c] for c in allowed) / w.mean_reward
            losses.append(w.beta * sum(p[c] * ratio[c] for c in allowed) - value)
        elif method == "soft":
            losses.append(-sum(float(d.targets[i, c]) * math.log(p[c]) for c in allowed))
        elif method == "dpo":
            sign, counts = (1, r) if r > 0 else (-1, w.negative_weight)
            pairs = [math.log(1 + math.exp(-sign * w.beta * (ratio[a] - ratio[c]))) for c in others]
            losses.append(counts * sum(pairs) / len(pairs))
        elif method == "softmax-dpo":
            losses.append(r * math.log(1 + sum(math.exp(w.beta * (ratio[c] - ratio[a])) for c in others)))
        elif method == "kto":
            z0 = sum(divergences(still or d)) / len(d.shown)
            good, bad = r / w.mean_reward, 1 / (1 - w.play_rate)
            sign, counts = (1, good) if r > 0 else (-1, bad)
            losses.append(counts / 2 * (1 - 1 / (1 + math.exp(-sign * w.beta * (ratio[a] - z0)))))
        else:
            m = w.mean_reward
            values.append(
                {
                    "ips": weight * r / m,
                    "snips": weight * (r / m - 1),
                    "dr": sum(p[c] * q[c] for c in allowed) / m + weight * (r - q[a]) / m,
                }[w.value_estimator]
            )
            losses.append(w.beta * sum(p[c] * ratio[c] for c in allowed) - values[-1])
    if values:
        mean = sum(values) / len(values)
        spread = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
        losses = [loss + w.variance * spread for loss in losses]
    return losses


def divergences(d: objectives.Decisions) -> list[float]:
    """KL(pi || pi_ref) of each impression."""
    policies = [
        (p[allowed].tolist(), ref[allowed].tolist())
        for p, ref, allowed in zip(d.log_policy, d.log_reference, d.mask, strict=True)
    ]
    return [sum(math.exp(x) * (x - y) for x, y in zip(*pair, strict=True)) for pair in policies]


CASES = [
    (m, objectives.Hyperparameters(beta=0.7, clip=c, negative_weight=0.3, mean_reward=0.4, play_rate=0.3))
    for m in objectives.OBJECTIVES
    for c in (1.1, 100.0)
] + [
    ("counterfactual", objectives.Hyperparameters(beta=0.2, value_estimator=value, variance=v, mean_reward=0.4))
    for value in VALUE_ESTIMATORS
    for v in (0.0, 0.5)
]


@pytest.mark.parametrize(("method", "weights"), CASES)
def test_each_loss_is_its_formula(method, weights):
    found = objectives.OBJECTIVES[method](decisions(), weights)
    assert found.tolist() == pytest.approx(by_hand(method, decisions(), weights), abs=1e-9)


@pytest.mark.parametrize(("method", "weights"), CASES)
def test_each_gradient_is_that_of_the_formula(method, weights):
    logits = torch.tensor([[0.3, -0.4, 0.9], [0.5, -0.2, -1e9]], dtype=torch.float64, requires_grad=True)

    def loss(values: torch.Tensor) -> torch.Tensor:
        return objectives.OBJECTIVES[method](decisions(values.log_softmax(1)), weights).sum()

    loss(logits).backward()
    step = 1e-6
    for i in range(2):
        for c in range(3 if i == 0 else 2):
            moved = [logits.detach().clone() for _ in range(2)]
            moved[0][i, c] += step
            moved[1][i, c] -= step
            up, down = (sum(by_hand(method, decisions(z.log_softmax(1)), weights, decisions())) for z in moved)
            assert logits.grad[i, c].item() == pytest.approx((up - down) / (2 * step), abs=1e-6)
    assert logits.grad[1, 2] == 0


def test_losses_begin_where_theory_says():
    same = decisions(log_policy=decisions().log_reference)
    assert objectives.dpo(same, objectives.Hyperparameters())[0] == pytest.approx(math.log(2))
    # Two negatives and the played one.
    assert objectives.softmax_dpo(same, objectives.Hyperparameters())[0] == pytest.approx(math.log(3))
    # Half of lambda: a play weighs 1 / (2 mean reward), an ignored impression 1 / (2 (1 - play rate)).
    begun = objectives.kto(same, objectives.Hyperparameters(mean_reward=0.2, play_rate=0.25))
    assert begun.tolist() == pytest.approx([0.5 * 2.5, 0.5 / 1.5])
    assert (
        objectives.counterfactual(same, objectives.Hyperparameters(beta=9, value_estimator="ips"))[1] == 0
    )  # no divergence yet, no reward


@pytest.mark.parametrize("method", objectives.OBJECTIVES)
def test_a_lone_candidate_teaches_nothing_and_breaks_nothing(method):
    alone = torch.tensor([[True, False, False]] * 2)
    logits = torch.tensor([[0.3, -1e9, -1e9]] * 2, dtype=torch.float64, requires_grad=True)
    d = decisions(
        logits.log_softmax(1), mask=alone, shown=torch.tensor([0, 0]), log_reference=logits.detach().log_softmax(1)
    )
    objectives.OBJECTIVES[method](d, objectives.Hyperparameters(negative_weight=0.5)).sum().backward()
    assert torch.isfinite(logits.grad).all() and logits.grad.abs().max() < 1e-9


@pytest.mark.parametrize("method", objectives.OBJECTIVES)
def test_extreme_policies_give_finite_losses_and_gradients(method):
    logits = torch.tensor([[-400.0, 400.0, -400.0], [400.0, -400.0, -1e9]], requires_grad=True)
    d = decisions(logits.log_softmax(1))
    loss = objectives.OBJECTIVES[method](d, objectives.Hyperparameters(negative_weight=0.5, variance=0.1))
    loss.sum().backward()
    assert torch.isfinite(loss).all() and torch.isfinite(logits.grad).all()


def test_kto_weighs_plays_and_ignored_impressions_alike_however_rare_plays_are():
    rewards = torch.tensor([1.0] * 3 + [0.0] * 97, dtype=torch.float64)
    same = decisions(
        log_policy=decisions().log_reference[:1].expand(100, 3),
        log_reference=decisions().log_reference[:1].expand(100, 3),
        shown=torch.zeros(100, dtype=torch.long),
        mask=torch.ones(100, 3, dtype=torch.bool),
        reward=rewards,
    )
    losses = objectives.kto(same, objectives.Hyperparameters(mean_reward=0.03, play_rate=0.03))
    assert losses[:3].sum() == pytest.approx(losses[3:].sum()) and losses.mean() == pytest.approx(0.5)


def learnt(method: str, weights: objectives.Hyperparameters, n: int = 20_000) -> torch.Tensor:
    """The policy that an objective arrives at on a log whose production policy prefers the worst artwork.

    True play rates 0.1, 0.2, 0.4; production shows them with 0.85, 0.1, 0.05, so that most plays are of the worst.
    """
    generator = torch.Generator().manual_seed(0)
    rates, logging = torch.tensor([0.1, 0.2, 0.4]), torch.tensor([0.85, 0.1, 0.05])
    shown = torch.multinomial(logging, n, replacement=True, generator=generator)
    reward = (torch.rand(n, generator=generator) < rates[shown]).float()
    logits = torch.zeros(3, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.05)
    for _ in range(400):
        d = objectives.Decisions(
            logits.log_softmax(0).expand(n, 3),
            shown,
            reward,
            logging[shown],
            torch.ones(n, 3, dtype=bool),
            log_reference=torch.full((n, 3), -math.log(3)),
            q_hat=torch.full((n, 3), 0.2),
        )
        loss = objectives.OBJECTIVES[method](d, weights).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return logits.softmax(0).detach()


def test_plain_sft_copies_productions_preference():
    assert learnt("sft", objectives.Hyperparameters()).argmax() == 0


@pytest.mark.parametrize(
    ("method", "weights"),
    [
        ("sft-ips", objectives.Hyperparameters(clip=1e3)),
        ("kto", objectives.Hyperparameters(beta=1.0, mean_reward=0.13, play_rate=0.13)),
    ]
    + [
        ("counterfactual", objectives.Hyperparameters(value_estimator=value, clip=1e3, mean_reward=0.13))
        for value in VALUE_ESTIMATORS
    ],
)
def test_methods_that_count_showings_recover_the_best_artwork(method, weights):
    policy = learnt(method, weights)
    assert policy.argmax() == 2
    if method == "sft-ips":  # plays as if all had been shown equally often
        assert policy.tolist() == pytest.approx([1 / 7, 2 / 7, 4 / 7], abs=0.03)
    elif method == "kto":  # whose every pull fades as it is followed: the order of play rates, not all for the best
        assert policy.tolist() == sorted(policy.tolist()) and policy[2] > 0.5
    else:
        assert policy[2] > 0.9


def test_awsft_at_an_infinite_temperature_is_the_likelihood_of_what_was_shown():
    d = decisions()
    losses = objectives.awsft(d, objectives.Hyperparameters(advantage_temperature=1e12, mean_reward=0.4))
    torch.testing.assert_close(losses, -d.of_shown(d.log_policy))


def test_awsft_arrives_at_productions_policy_tilted_by_advantages():
    """pi(c) ~ p(c) E[exp(A / lambda) | c] in closed form; production prefers the worse of two artworks."""
    shown_with, rates, temperature = [0.8, 0.2], [0.1, 0.4], 2.0
    mean = sum(p * rate for p, rate in zip(shown_with, rates, strict=True))
    logits = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    cases = torch.tensor([[0, 1], [0, 0], [1, 1], [1, 0]])  # shown, reward
    often = torch.tensor([0.8 * 0.1, 0.8 * 0.9, 0.2 * 0.4, 0.2 * 0.6], dtype=torch.float64)
    optimiser = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        d = objectives.Decisions(
            logits.log_softmax(1).expand(4, 2),
            shown=cases[:, 0],
            reward=cases[:, 1].double(),
            propensity=torch.tensor(shown_with)[cases[:, 0]],
            mask=torch.ones(4, 2, dtype=torch.bool),
            log_shown=torch.tensor([shown_with] * 4, dtype=torch.float64).log(),
            q_hat=torch.tensor([rates] * 4, dtype=torch.float64),
        )
        weights = objectives.Hyperparameters(clip=1e9, mean_reward=mean, advantage_temperature=temperature)
        value = (often * objectives.awsft(d, weights)).sum()
        value.backward()
        return value

    optimiser.step(loss)
    lift = [
        p * (rate * math.exp((1 - mean) / mean / temperature) + (1 - rate) * math.exp(-1 / temperature))
        for p, rate in zip(shown_with, rates, strict=True)
    ]
    policy = logits.softmax(1)[0].detach().tolist()
    assert policy == pytest.approx([x / sum(lift) for x in lift], abs=1e-5)
    assert policy[1] > 0.4 > shown_with[1]  # towards the better arm


def test_the_policy_gradient_is_the_expectation_of_reinforces():
    """Over every answer that could be sampled, with any baseline: RLOO's gradient without its noise."""
    logits = torch.tensor([[0.3, -0.4, 0.9], [0.5, -0.2, -1e9]], dtype=torch.float64, requires_grad=True)
    h = objectives.Hyperparameters(beta=0.0, mean_reward=0.4)
    objectives.policy_gradient(decisions(logits.log_softmax(1)), h).sum().backward()
    p, q = logits.detach().softmax(1), decisions().q_hat / h.mean_reward
    for baseline in (0.0, 0.7):
        expected = torch.zeros(2, 3, dtype=torch.float64)
        for c in range(3):
            expected -= p[:, [c]] * (q[:, [c]] - baseline) * (torch.eye(3)[c] - p)  # grad log pi(c) = e_c - pi
        torch.testing.assert_close(logits.grad, expected)


def test_the_policy_gradient_arrives_at_the_reference_tilted_by_predicted_rewards():
    """pi(c) ~ pi_ref(c) exp(q(c) / (mean r beta)): what KL-regularised reinforcement learning has for an optimum."""
    h = objectives.Hyperparameters(beta=0.5, mean_reward=0.4)
    best = decisions().log_reference + decisions().q_hat / (h.mean_reward * h.beta)
    logits = best.clone().requires_grad_(True)
    objectives.policy_gradient(decisions(logits.log_softmax(1)), h).sum().backward()
    assert logits.grad.abs().max() < 1e-12


def test_ignored_impressions_teach_dpo_to_leave_what_was_ignored():
    plays_only, both = (
        learnt("dpo", objectives.Hyperparameters(beta=1.0, negative_weight=weight)) for weight in (0.0, 0.5)
    )
    assert plays_only[0] > both[0]


def test_soft_targets_are_learnt_whatever_was_shown():
    """The clicks of three headlines that were shown equally often: their odds are what the policy arrives at."""
    clicks = torch.tensor([[10.0, 30.0, 60.0]], dtype=torch.float64)
    logits = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)

    def loss(values: torch.Tensor) -> torch.Tensor:
        d = decisions(values.log_softmax(1), targets=clicks, mask=torch.ones(1, 3, dtype=torch.bool))
        return objectives.soft(d, objectives.Hyperparameters()).sum()

    assert loss(logits).item() == pytest.approx(100 * math.log(3))
    loss(logits).backward()
    assert logits.grad[0].tolist() == pytest.approx([100 / 3 - 10, 100 / 3 - 30, 100 / 3 - 60])
    entropy = -sum(n * math.log(n / 100) for n in (10, 30, 60))
    assert loss(clicks.log()).item() == pytest.approx(entropy)
    assert all(loss(clicks.log() + move).item() > entropy for move in torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize(("method", "learnt"), [("sft", [0.7, 0.2, 0.3]), ("sft-logq", [1, 1, 3])])
def test_given_what_is_shown_only_the_liking_is_learnt(method, learnt):
    """Production shows a bad artwork seven times as often as the best; plays alone make it the best."""
    shown_with, play_rate = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.1, 0.1, 0.3])
    weights = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")
    rows = torch.arange(3)

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        d = objectives.Decisions(
            log_policy=weights.log_softmax(0).expand(3, 3),
            shown=rows,
            reward=(shown_with * play_rate).double(),  # how often each is played
            propensity=shown_with,
            mask=torch.ones(3, 3, dtype=torch.bool),
            log_shown=shown_with.double().log().expand(3, 3),
        )
        value = objectives.OBJECTIVES[method](d, objectives.Hyperparameters()).sum()
        value.backward()
        return value

    optimiser.step(loss)
    expected = torch.tensor(learnt, dtype=torch.float64)
    torch.testing.assert_close(weights.softmax(0).detach(), expected / expected.sum(), atol=1e-4, rtol=0)
