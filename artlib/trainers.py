"""Trainers, set up: one for every objective over candidates' scores, and TRL's own for letters."""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from artlib import model, objectives, prompts, score
from artlib.log import Arrays


@dataclasses.dataclass(frozen=True)
class Examples:
    """n impressions to learn from.

    Attributes:
        prompts: what the model reads of each.
        arrays: what was shown and what came of it.
        reference: (n, K) scores of the model that training began from; None where the objective needs none.
        q_hat: (n, K) predicted rewards; likewise.
        answers: reasoned answers; likewise.
        orders: for questions with letters, the candidate under each letter in training.
    """

    prompts: list[prompts.Prompt]
    arrays: Arrays
    reference: np.ndarray | None = None
    q_hat: np.ndarray | None = None
    answers: list[list[int]] | None = None
    orders: list[np.ndarray] | None = None

    def items(self) -> list[np.ndarray]:
        """Rows that go through the model together. Impressions of a title share its posters in `audience`."""
        if not isinstance(self.prompts[0], prompts.AudiencePrompt):
            return [np.array([row]) for row in range(len(self.prompts))]
        order = np.argsort(self.arrays.title, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(self.arrays.title[order])) + 1)
        return sorted(groups, key=lambda rows: rows.min())  # the examples' own random order, not the titles'


def arguments(folder: Path, settings, n_items: int) -> dict:
    """What all trainers share.

    Args:
        folder: gets checkpoints/.
        settings: `train.Settings`.
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


def objective_trainer(language_model, train: Examples, folder: Path, settings):
    """Any objective of `objectives`, over softmax(scores / t) of the impression's candidates.

    The loss of a batch is the sum over its impressions by the average number in a batch, so that every impression
    weighs the same, however many share its title.
    """
    from transformers import Trainer, TrainingArguments

    chosen = objectives.Hyperparameters(
        settings.beta, settings.clip, settings.ignored, settings.value, settings.variance,
        mean_reward=float(train.arrays.reward.mean()),
    )  # fmt: skip
    objective = objectives.OBJECTIVES[settings.method]

    class ObjectiveTrainer(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, **_):
            scores = score.candidate_scores(model, inputs)
            decisions = objectives.Decisions(
                log_policy=(scores / settings.temperature).log_softmax(dim=1), shown=inputs["shown"],
                reward=inputs["reward"], propensity=inputs["propensity"], candidates=inputs["candidates"],
                log_reference=inputs.get("log_reference"), q_hat=inputs.get("q_hat"),
            )  # fmt: skip
            loss = objective(decisions, chosen).sum() / inputs["average_rows"]
            return (loss, None) if return_outputs else loss

    def collate(items: list[tuple[Examples, np.ndarray, float]]) -> dict:
        examples, average = items[0][0], items[0][2]
        rows = np.concatenate([rows for _, rows, _ in items])
        orders = examples.orders and [examples.orders[row] for row in rows]
        batch = score.collate([examples.prompts[row] for row in rows], orders)
        batch.setdefault("candidates", batch.get("leaves"))
        width = batch["candidates"].shape[1]
        arrays = examples.arrays
        batch["shown"] = torch.from_numpy(arrays.shown[rows])
        batch["reward"], batch["propensity"] = (
            torch.from_numpy(values[rows].astype(np.float32)) for values in (arrays.reward, arrays.propensity)
        )
        batch["average_rows"] = torch.tensor(average * len(items))
        if examples.reference is not None:
            reference = torch.from_numpy(examples.reference[rows, :width].astype(np.float32))
            reference = reference.masked_fill(~batch["candidates"], score.NOTHING)
            batch["log_reference"] = (reference / settings.temperature).log_softmax(dim=1)
        if examples.q_hat is not None:
            batch["q_hat"] = torch.from_numpy(examples.q_hat[rows, :width].astype(np.float32))
        return batch

    items = train.items()
    data = [(train, rows, len(train.prompts) / len(items)) for rows in items]
    trainer = ObjectiveTrainer(
        model=language_model,
        args=TrainingArguments(**arguments(folder, settings, len(data))),
        train_dataset=data,
        data_collator=collate,
    )
    trainer.model_accepts_loss_kwargs = False  # the loss is a mean over impressions, whatever their tokens
    return trainer


def label_trainer(language_model, tokenizer, train: Examples, validation: Examples, folder: Path, settings):
    """TRL's SFT on the letter of the played artwork, options in random order, loss on the letter alone.

    TRL knows neither rewards nor other candidates: every play weighs the same, and the loss is over the vocabulary.
    """
    rng = np.random.default_rng(settings.seed)

    def pairs(examples: Examples) -> Iterator[tuple[list[int], list[int]]]:
        for question, place in zip(examples.prompts, examples.arrays.shown, strict=True):
            ids, letters = question_in_random_order(question, rng)
            yield ids, [int(letters[place])]

    return _sft_trainer(language_model, tokenizer, pairs(train), pairs(validation), folder, settings)


def reasoning_trainer(language_model, tokenizer, train: Examples, validation: Examples, folder: Path, settings):
    """TRL's SFT on a teacher's reason followed by the letter of the played artwork; the loss is on both."""

    def pairs(examples: Examples) -> Iterator[tuple[list[int], list[int]]]:
        for question, order, answer in zip(examples.prompts, examples.orders, examples.answers, strict=True):
            yield question.ids(order), answer

    return _sft_trainer(language_model, tokenizer, pairs(train), pairs(validation), folder, settings)


def _sft_trainer(language_model, tokenizer, train: Iterable, validation: Iterable, folder: Path, settings):
    """TRL's SFT on pairs of a question's and an answer's token ids, loss on the answer.

    Raises:
        ValueError: a pair is longer than max_tokens: TRL would cut the answer.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    def rows(pairs: Iterable[tuple[list[int], list[int]]]) -> Dataset:
        columns = {"input_ids": [], "labels": []}
        for question, answer in pairs:
            if len(question) + len(answer) > settings.max_tokens:
                raise ValueError(
                    f"a question with its answer has {len(question) + len(answer)} tokens, more than max_tokens = "
                    f"{settings.max_tokens}; raise max_tokens"
                )
            columns["input_ids"].append([*question, *answer])
            columns["labels"].append([prompts.IGNORE] * len(question) + answer)
        return Dataset.from_dict(columns)

    data = rows(train)
    return SFTTrainer(
        model=language_model,
        processing_class=tokenizer,
        args=SFTConfig(**arguments(folder, settings, len(data)), max_length=settings.max_tokens, packing=False),
        train_dataset=data,
        eval_dataset=rows(validation),
    )


def dpo_trainer(language_model, tokenizer, train: Examples, validation: Examples, folder: Path, settings):
    """TRL's DPO on letters: that of the played artwork over that of each other candidate, one pair each.

    The reference is the adapter that the model comes with (TRL clones it), not the base model. Every pair weighs the
    same: a play counts by the number of its candidates, not by its reward.
    """
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rng = np.random.default_rng(settings.seed)

    def pairs(examples: Examples) -> Dataset:
        columns = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
        arrays = examples.arrays
        for question, shown, reward in zip(examples.prompts, arrays.shown, arrays.reward, strict=True):
            for other in np.delete(np.arange(len(question.options)), shown):
                if reward == 0 and rng.random() >= settings.ignored:
                    continue
                ids, letters = question_in_random_order(question, rng)
                better, worse = (shown, other) if reward > 0 else (other, shown)
                columns["prompt_ids"].append(ids)
                columns["chosen_ids"].append([letters[better]])
                columns["rejected_ids"].append([letters[worse]])
        return Dataset.from_dict(columns)

    class TokenisedDPOTrainer(DPOTrainer):
        def _prepare_dataset(self, dataset, *_, **__):
            return dataset  # TRL would tokenise text, in which a log's words could pass for chat markers

        def _load_from_checkpoint(self, checkpoint, *_):
            # transformers, when it finds the reference's folder in a checkpoint, leaves out the adapter in training.
            model.set_lora(self.model, checkpoint)

    data = pairs(train)
    return TokenisedDPOTrainer(
        model=language_model,
        processing_class=tokenizer,
        args=DPOConfig(**arguments(folder, settings, len(data)), beta=settings.beta, max_length=settings.max_tokens),
        train_dataset=data,
        eval_dataset=pairs(validation),
    )


def question_in_random_order(question: prompts.LabelPrompt, rng: np.random.Generator) -> tuple[list[int], np.ndarray]:
    """The question's token ids with its options shuffled, and (K,) the letter's token of each candidate."""
    order = rng.permutation(len(question.options))
    letters = np.empty(len(order), dtype=np.int64)
    letters[order] = question.labels
    return question.ids(order), letters
