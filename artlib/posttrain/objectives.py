"""What post-training minimises: a loss per impression, from the probabilities of its candidates.

`settings.METHODS` says what each refines and learns from. Every objective takes a `Decisions` and returns (n,) losses;
all work in log space, so that no probability underflows.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch.nn.functional import logsigmoid, softplus


@dataclasses.dataclass(frozen=True)
class Decisions:
    """n impressions with K candidates at most: what the model would do, and what was done and came of it.

    Attributes:
        log_policy: (n, K) log pi(c | x) of the model in training; very negative where padded.
        shown: (n,) column of the artwork that was shown.
        reward: (n,) observed reward, >= 0.
        propensity: (n,) the logging policy's probability of `shown`.
        mask: (n, K) True where there is a candidate.
        log_shown: (n, K) log-probabilities with which the logging policy showed each candidate; `sft-logq`, `awsft`.
        log_reference: (n, K) log pi_ref(c | x) of the frozen model that training began from; methods that refine.
        q_hat: (n, K) predicted rewards; `awsft`, `policy-gradient`, `counterfactual` by "dr".
        targets: (n, K) how much each candidate is to be chosen, >= 0; `soft` only.
    """

    log_policy: torch.Tensor
    shown: torch.Tensor
    reward: torch.Tensor
    propensity: torch.Tensor
    mask: torch.Tensor
    log_shown: torch.Tensor | None = None
    log_reference: torch.Tensor | None = None
    q_hat: torch.Tensor | None = None
    targets: torch.Tensor | None = None

    def of_shown(self, values: torch.Tensor) -> torch.Tensor:
        """(n,) what an (n, K) tensor holds for the shown artwork."""
        return values.gather(1, self.shown[:, None])[:, 0]

    @property
    def others(self) -> torch.Tensor:
        """(n, K) True for the candidates that were not shown."""
        return self.mask.scatter(1, self.shown[:, None], False)


@dataclasses.dataclass(frozen=True)
class Hyperparameters:
    """The hyper-parameters of the objectives.

    Attributes:
        beta: dpo, softmax-dpo, kto: how far the policy may move from the reference for a given preference (larger:
            less); policy-gradient, counterfactual: weight of the divergence from the reference.
        clip: largest weight of an impression.
        advantage_temperature: awsft: of the advantages, lambda.
        negative_weight: dpo: how much an impression without a play counts as evidence against what it showed.
        value_estimator: counterfactual: ips, snips or dr.
        variance: counterfactual: weight of the value's standard deviation.
        mean_reward: of the log; rewards are measured in it, so that `beta` means the same for rare and common plays.
        play_rate: kto: share of the log's impressions with a reward above 0.
    """

    beta: float = 0.1
    clip: float = 10.0
    advantage_temperature: float = 1.0
    negative_weight: float = 0.0
    value_estimator: str = "snips"
    variance: float = 0.0
    mean_reward: float = 1.0
    play_rate: float = 0.5


def sft(d: Decisions, h: Hyperparameters) -> torch.Tensor:
    """Cross-entropy of what was played, among the candidates: - r log pi(a | x)."""
    return -d.reward * d.of_shown(d.log_policy)


def sft_ips(d: Decisions, h: Hyperparameters) -> torch.Tensor:
    """The same with inverse propensities, as if all candidates had been shown equally often: - r log pi / (K p).

    K is the impression's number of candidates, so that a uniform log has weights of 1; `clip` bounds them.
    """
    weight = (1 / (d.mask.sum(dim=1) * d.propensity)).clamp(max=h.clip)
    return weight * sft(d, h)


def sft_logq(d: Decisions, h: Hyperparameters) -> torch.Tensor:
    """Cross-entropy of what was played, given what was likely to be shown: - r log softmax(log pi + log p)(a).

    A play is a showing and a liking: P(a is played) ~ p(a | x) exp(s(a)). Without log p, which is dropped in deciding,
    the scores learn what production prefers to show, too. The correction of sampled softmax (logQ; Yi et al. 2019,
    "Sampling-bias-corrected neural modeling"), which has no weights and so none of the variance of `sft_ips`.
    """
    return -d.reward * d.of_shown((d.log_policy + d.log_shown).log_softmax(dim=1))


def awsft(d: Decisions, h: Hyperparameters) -> torch.Tensor:
    """Advantage-weighted SFT (AWR; Peng et al. 2019): what went better than expected is imitated more.

    - min(exp(A / lambda), clip) log pi(a | x) on every impression, played or not, with the advantage A = r - V(x) in
    units of the log's mean reward, and V(x) = sum_c p(c | x) q(c) what the logging policy may expect.

    So pi(a | x) ~ p(a | x) E[exp(A / lambda)]: it stays near the logging policy, by more the larger lambda is; at
    infinity it copies what was shown.
    """
    expected = (d.log_shown.exp() * d.q_hat).masked_fill(~d.mask, 0).sum(dim=1)
    advantage = (d.reward - expected) / h.mean_reward
    weight = (advantage / h.advantage_temperature).exp().clamp(max=h.clip)
    return -weight * d.of_shown(d.log_policy)


def soft(d: Decisions, h: Hyperparameters) -> torch.Tensor:
    """Cross-entropy of targets over all candidates, whatever was shown: - sum_c t_c log pi(c | x).

    Smallest where pi is t / sum t, the sum being what the impression weighs. With another policy's probabilities for
    targets this is distillation (Hinton et al. 2015); with the clicks that equally often shown candidates had, it is
    the likelihood of which of them each click was on.
    """
    return -(d.targets * d.log_policy).masked_fill(~d.mask, 0).sum(dim=1)


def dpo(d: Decisions, h: Hyperparameters) -> torch.Tensor:
    """Direct preference optimisation (Rafailov et al. 2023) over candidates: what was played over each other one.

    - mean_l log sigmoid(beta ((log pi - log pi_ref)(a) - (log pi - log pi_ref)(l))); ln 2 a play before training.
    With `negative_weight`, an impression without a play prefers each other candidate over the one it showed.
    """
    ahead = h.beta * _ahead(d)
    sign = torch.where(d.reward > 0, 1.0, -1.0)
    weight = torch.where(d.reward > 0, d.reward, h.negative_weight)
    pairs = -logsigmoid(sign[:, None] * ahead).masked_fill(~d.others, 0)
    return weight * pairs.sum(dim=1) / d.others.sum(dim=1).clamp(min=1)


def softmax_dpo(d: Decisions, h: Hyperparameters) -> torch.Tensor:
    """All other candidates as negatives at once (softmax-DPO, Chen et al. 2024, "On Softmax DPO for Recommendation").

    - log sigmoid(- log sum_l exp(- beta ahead_l)), ahead_l as in `dpo`; ln K a play before training.
    """
    behind = (-h.beta * _ahead(d)).masked_fill(~d.others, -1e9)  # finite: -inf alone has no gradient
    return d.reward * softplus(torch.logsumexp(behind, dim=1))


def _ahead(d: Decisions) -> torch.Tensor:
    """(n, K) by how much the log-ratio to the reference is larger for the shown artwork than for each candidate."""
    ratio = (d.log_policy - d.log_reference).masked_fill(~d.mask, 0)
    return d.of_shown(ratio)[:, None] - ratio


def kto(d: Decisions, h: Hyperparameters) -> torch.Tensor:
    """Kahneman-Tversky optimisation (KTO; Ethayarajh et al. 2024), unpaired: was what was shown any good?

        played   lambda_D (1 - sigmoid(beta (rho - z0)))        rho = log (pi / pi_ref)(a | x) of what was shown
        ignored  lambda_U (1 - sigmoid(beta (z0 - rho)))        z0 = KL(pi || pi_ref), mean over the batch
    Plays and ignored impressions weigh alike in the whole log, as the paper advises: lambda_D = r / (2 mean r),
    lambda_U = 1 / (2 (1 - play rate)); so the loss is 1/2 on average before training.

    z0, through which no gradient flows, is exact over the candidates. TRL's KTOTrainer, which could take the form
    `label`, estimates it from each question with the answer to another one: a letter that pi did not draw, and that
    says nothing of this question, whose options are in another order. It knows no rewards either.
    """
    ratio = (d.log_policy - d.log_reference).masked_fill(~d.mask, 0)
    ahead = h.beta * (d.of_shown(ratio) - _divergence(d).detach().mean())
    played = d.reward > 0
    weight = torch.where(played, d.reward / h.mean_reward, 1 / max(1 - h.play_rate, 1e-9)) / 2
    return weight * torch.sigmoid(torch.where(played, -ahead, ahead))


def counterfactual(d: Decisions, h: Hyperparameters) -> torch.Tensor:
    """The policy's value on the log, estimated off-policy, less its divergence from the reference.

    With weights v = min(pi(a | x) / p, clip), the value of an impression is
        ips    v r                      (clipped inverse propensities; Bottou et al. 2013)
        snips  v (r - mean r)           (the gradient of SNIPS at the log's own value; Joachims et al. 2018, BanditNet)
        dr     sum_c pi(c) q(c) + v (r - q(a))
    (clipping also caps what an ignored impression costs, where the policy shows more than `clip` times as often what
    production hardly ever showed; the divergence has to hold it back there),
    and the loss is - value + beta KL(pi || pi_ref) + variance sd(value) (the last over the batch, as in POEM,
    Swaminathan and Joachims 2015). Plays and ignored impressions teach alike.
    """
    policy = d.log_policy.exp()
    weight = (d.of_shown(policy) / d.propensity).clamp(max=h.clip)
    reward = d.reward / h.mean_reward
    if h.value_estimator == "ips":
        value = weight * reward
    elif h.value_estimator == "snips":
        value = weight * (reward - 1)
    else:
        q_hat = d.q_hat / h.mean_reward
        value = (policy * q_hat).sum(dim=1) + weight * (reward - d.of_shown(q_hat))
    return h.beta * _divergence(d) - value + h.variance * value.std(correction=0)


def policy_gradient(d: Decisions, h: Hyperparameters) -> torch.Tensor:
    """The reward that the policy may expect by a learnt model, exact over the candidates, less its divergence.

    - sum_c pi(c | x) q(c) / mean r + beta KL(pi || pi_ref). Its gradient is the expectation of REINFORCE's, whatever
    the baseline: what RLOO (Ahmadian et al. 2024) estimates from sampled answers, and GRPO (Shao et al. 2024), but that
    the latter divides by the spread of the rewards in each group. What was shown and came of it enters by q alone: it
    is `counterfactual` by "dr" without the correction of q's errors.
    """
    value = (d.log_policy.exp() * d.q_hat).masked_fill(~d.mask, 0).sum(dim=1)
    return h.beta * _divergence(d) - value / h.mean_reward


def _divergence(d: Decisions) -> torch.Tensor:
    """(n,) KL(pi || pi_ref), exact over the candidates."""
    change = (d.log_policy - d.log_reference).masked_fill(~d.mask, 0)
    return (d.log_policy.exp() * change).sum(dim=1)


OBJECTIVES: dict[str, Callable[[Decisions, Hyperparameters], torch.Tensor]] = {
    "sft": sft,
    "sft-ips": sft_ips,
    "sft-logq": sft_logq,
    "awsft": awsft,
    "soft": soft,
    "dpo": dpo,
    "softmax-dpo": softmax_dpo,
    "kto": kto,
    "counterfactual": counterfactual,
    "policy-gradient": policy_gradient,
}
