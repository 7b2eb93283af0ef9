"""The trainer of every objective over candidates' scores, and what all trainers share."""

import math
from pathlib import Path

import numpy as np
import torch

from artlib.lm import forward, prompts
from artlib.posttrain import objectives, processes
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
        "gradient_accumulation_steps": processes.accumulation(settings),
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
        "gradient_checkpointing": False,  # TRL's own default computes every layer twice: twice as slow on a CPU
        "ddp_find_unused_parameters": False,  # every adapter has its part in every pass
    }


def objective_trainer(language_model, train: Examples, folder: Path, settings: Settings):
    """Any objective of `objectives`, over softmax(scores / t) of the impression's candidates.

    The loss of a batch is the sum over its impressions by the average number in a batch, so that every impression
    weighs the same, however many share its title.
    """
    from accelerate.data_loader import SeedableRandomSampler
    from transformers import Trainer, TrainerCallback, TrainingArguments

    items = train.items()
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

    order = processes.Filled(
        SeedableRandomSampler(items, data_seed=settings.seed), settings.micro_batch * processes.count()
    )

    class ObjectiveTrainer(Trainer):
        def _get_train_sampler(self, *_):
            return order

        def get_batch_samples(self, *arguments):
            """A step's micro-batches of this process, and how many all have, but for empty ones."""
            batches, _ = super().get_batch_samples(*arguments)
            own = sum(bool(batch["average_rows"].isfinite()) for batch in batches)
            return batches, self.accelerator.reduce(torch.tensor(own, device=self.args.device)).item()

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None, **_):
            scores = processes.through(model, form.candidate_scores, inputs)
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
            loss = loss / num_items_in_batch * processes.count()  # which are averaged over
            return (loss, None) if return_outputs else loss

    def collate(indices: list[int]) -> dict[str, torch.Tensor]:
        rows = [items[index] for index in indices if index < len(items)]
        # A process without a share in the last step reads what the others do, too; it counts nothing.
        average = torch.tensor(len(train.prompts) / len(items) * len(rows) if rows else torch.inf)
        return _batch(train, np.concatenate(rows or items[:1]), settings.temperature) | {"average_rows": average}

    class InOrder(TrainerCallback):
        def on_epoch_begin(self, arguments, state, control, **_):
            order.set_epoch(int(state.epoch))  # accelerate does not where a killed training goes on in an epoch

    trainer = ObjectiveTrainer(
        model=language_model,
        args=TrainingArguments(**arguments(folder, settings, len(items))),
        train_dataset=range(len(items) + 1),  # indices, the last one of nothing
        data_collator=collate,
        callbacks=[InOrder()],
    )
    trainer.model_accepts_loss_kwargs = True  # `num_items_in_batch`
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
