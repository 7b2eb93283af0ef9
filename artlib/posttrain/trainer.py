"""The trainer of every objective over candidates' scores, and what all trainers share."""

import math
from pathlib import Path

import numpy as np
import torch

from artlib.lm import forward, prompts
from artlib.posttrain import objectives
from artlib.posttrain.examples import Examples
from artlib.posttrain.settings import Settings


def arguments(folder: Path, settings: Settings, n_items: int) -> dict:
    """What all trainers share.

    Args:
        folder: gets checkpoints/.
        n_items: in an epoch.
    """
    steps = math.ceil(n_items / settings.batch_size) * settings.epochs
    return {
        "output_dir": str(folder / "checkpoints"),
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": settings.micro_batch,
        "per_device_eval_batch_size": settings.micro_batch,
        "gradient_accumulation_steps": settings.batch_size // settings.micro_batch,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": max(1, steps // 20),
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch",
        "logging_steps": max(1, steps // 40),
        "eval_strategy": "no",  # `train` asks before and after
        "save_strategy": "steps",
        "save_steps": settings.save_steps,
        "save_total_limit": 2,
        "seed": settings.seed,
        "data_seed": settings.seed,
        "report_to": "none",
        "remove_unused_columns": False,
        "dataloader_num_workers": 0,
        "include_num_input_tokens_seen": "all",
    }


def objective_trainer(language_model, train: Examples, folder: Path, settings: Settings):
    """Any objective of `objectives`, over softmax(scores / t) of the impression's candidates.

    The loss of a batch is the sum over its impressions by the average number in a batch, so that every impression
    weighs the same, however many share its title.
    """
    from transformers import Trainer, TrainingArguments

    form, objective = prompts.form_of(train.prompts), objectives.OBJECTIVES[settings.method]
    chosen = objectives.Hyperparameters(
        beta=settings.beta,
        clip=settings.clip,
        advantage_temperature=settings.advantage_temperature,
        negative_weight=settings.negative_weight,
        value_estimator=settings.value_estimator,
        variance=settings.variance,
        mean_reward=float(train.arrays.reward.mean()),
        play_rate=float((train.arrays.reward > 0).mean()),
    )

    class ObjectiveTrainer(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, **_):
            scores = form.candidate_scores(model, inputs)
            decisions = objectives.Decisions(
                log_policy=(scores / settings.temperature).log_softmax(dim=1),
                shown=inputs["shown"],
                reward=inputs["reward"],
                propensity=inputs["propensity"],
                mask=inputs["mask"],
                log_shown=inputs["log_shown"],
                log_reference=inputs.get("log_reference"),
                q_hat=inputs.get("q_hat"),
                targets=inputs.get("targets"),
            )
            loss = objective(decisions, chosen).sum() / inputs["average_rows"]
            return (loss, None) if return_outputs else loss

    def collate(items: list[np.ndarray]) -> dict[str, torch.Tensor]:
        average = torch.tensor(len(train.prompts) / len(data) * len(items))
        return _batch(train, np.concatenate(items), settings.temperature) | {"average_rows": average}

    data = train.items()
    trainer = ObjectiveTrainer(
        model=language_model,
        args=TrainingArguments(**arguments(folder, settings, len(data))),
        train_dataset=data,
        data_collator=collate,
    )
    trainer.model_accepts_loss_kwargs = False  # the loss is a mean over impressions, whatever their tokens
    return trainer


def _batch(examples: Examples, rows: np.ndarray, temperature: float) -> dict[str, torch.Tensor]:
    """What the model reads of some examples, what was done and what came of it."""
    orders = examples.orders and [examples.orders[row] for row in rows]
    asked = [examples.prompts[row] for row in rows]
    batch = prompts.form_of(asked).collate(asked, orders)
    mask, arrays = batch["mask"], examples.arrays
    batch["shown"] = torch.from_numpy(arrays.shown[rows])
    for name in ("reward", "propensity"):
        batch[name] = torch.from_numpy(getattr(arrays, name)[rows].astype(np.float32))
    shown = np.log(np.maximum(arrays.logging[rows, : mask.shape[1]], 1e-12)).astype(np.float32)
    batch["log_shown"] = torch.from_numpy(shown).masked_fill(~mask, 0)
    if examples.reference is not None:
        reference = torch.from_numpy(examples.reference[rows, : mask.shape[1]].astype(np.float32))
        reference = reference.masked_fill(~mask, forward.MASKED_SCORE)
        batch["log_reference"] = (reference / temperature).log_softmax(dim=1)
    for name in ("q_hat", "targets"):
        if (values := getattr(examples, name)) is not None:
            batch[name] = torch.from_numpy(values[rows, : mask.shape[1]].astype(np.float32))
    return batch
