"""Post-training: from logged plays to a LoRA adapter that prefers the artwork a member would play.

Every method runs inside a transformers or TRL trainer on an Unsloth model, writes checkpoints, and goes on from the
last whole one when it was killed.
"""

import dataclasses
import importlib.metadata
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.optimize

from artlib import files, model, prompts
from artlib.log import Log

METHODS = ("sft",)
VERSIONED = ("torch", "transformers", "trl", "peft", "unsloth", "datasets")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to post-train. The defaults suit the embedded model on two CPU cores.

    Attributes:
        base: model name, see `model.load`.
        method: of `METHODS`: sft learns from plays alone.
        prompt: "caption" (listwise softmax over caption scores) or "label" (the letter of the played artwork).
        max_examples, max_validation: plays used from the two splits, drawn at random by `seed`.
        epochs: passes over the examples.
        learning_rate: peak of a linear schedule with 5 % warm-up.
        batch_size: examples a step; micro_batch of them go through the model at once.
        lora_rank: of the adapter.
        lora_layers: the last so many layers get adapters; 0 for all.
        save_steps: between two checkpoints.
        temperature: of the softmax over caption scores in training. Untrained scores, sums over a caption's tokens,
            are far too sure of themselves for 1; afterwards it is fitted on the validation plays.
        history_tokens, max_tokens, n_genres, n_recent: see `prompts.Reader`.
        dtype, load_in_4bit: see `model.load`.
    """

    base: str = model.EMBEDDED
    method: str = "sft"
    prompt: str = "caption"
    max_examples: int = 800
    max_validation: int = 120
    epochs: int = 1
    learning_rate: float = 5e-4
    batch_size: int = 8
    micro_batch: int = 4
    lora_rank: int = 16
    lora_layers: int = 15
    save_steps: int = 50
    temperature: float = 8.0
    history_tokens: int = 96
    max_tokens: int = 2048
    n_genres: int = 3
    n_recent: int = 0
    dtype: str = "bfloat16"
    load_in_4bit: bool = False
    seed: int = 0

    def __post_init__(self):
        for field, known in (("method", METHODS), ("prompt", prompts.METHODS)):
            if getattr(self, field) not in known:
                raise ValueError(f"{field} {getattr(self, field)!r} is not one of {', '.join(known)}")
        if self.batch_size % self.micro_batch:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of micro_batch {self.micro_batch}")


def plays(log: Log, split: str, most: int | None, seed: int) -> Log:
    """The played impressions of a split in random order, at most `most` of them."""
    part = log.split(split)
    rows = np.flatnonzero(part.arrays().reward > 0)
    if not len(rows):
        raise ValueError(f"the {split} split has no impression with a reward above 0: nothing to learn from")
    return part.take(np.random.default_rng(seed).permutation(rows)[:most])


def post_train(log: Log, folder: str | os.PathLike, settings: Settings) -> dict:
    """Train an adapter, or return at once when `folder` already holds the one asked for.

    Args:
        log: with train and validation splits.
        folder: gets the PEFT adapter, training.json and, until it is finished, checkpoints/.

    Returns:
        What training.json holds: settings, data, curve, temperature, seconds, versions.
    """
    folder = Path(folder)
    asked = {"settings": dataclasses.asdict(settings), "data": log.manifest.get("files")}
    finished = files.read_json(folder / "training.json")
    if finished and all(finished.get(key) == value for key, value in asked.items()):
        return finished
    if files.read_json(folder / "asked.json") != asked:  # checkpoints of other settings or data are of no use
        files.discard(folder)
        files.write_json(folder / "asked.json", asked)

    started = time.time()
    language_model, tokenizer = model.load(
        settings.base, dtype=settings.dtype, load_in_4bit=settings.load_in_4bit, max_tokens=settings.max_tokens
    )
    reader = reader_for(log, tokenizer, settings)
    train, validation = (
        plays(log, split, most, settings.seed)
        for split, most in (("train", settings.max_examples), ("validation", settings.max_validation))
    )
    train_prompts, validation_prompts = reader.read(train), reader.read(validation)
    audit = prompts.audit(train_prompts, reader)
    language_model = model.add_lora(language_model, settings.lora_rank, settings.lora_layers, settings.seed)
    make = _listwise_trainer if settings.prompt == "caption" else _label_trainer
    shown = train.arrays().shown, validation.arrays().shown
    trainer = make(language_model, tokenizer, (train_prompts, validation_prompts), shown, folder, settings)
    checkpoint = last_checkpoint(folder / "checkpoints")
    _show_progress_in_terminals(trainer)
    # train() forgets what was logged before it, and the first validation loss is what the last is compared with.
    before = [] if checkpoint else [{"step": 0, "eval_loss": trainer.evaluate()["eval_loss"]}]
    trainer.train(resume_from_checkpoint=checkpoint)
    language_model.save_pretrained(str(folder))
    temperature = _finish(language_model, folder, validation_prompts, shown[1], settings)
    result = {
        **asked,
        "examples": len(train_prompts),
        "validation_examples": len(validation_prompts),
        "audit": audit,
        "temperature": temperature,
        "curve": before + [entry for entry in trainer.state.log_history if "loss" in entry or "eval_loss" in entry],
        "seconds": round(time.time() - started, 1),
        "resumed": checkpoint is not None,
        "versions": {name: importlib.metadata.version(name) for name in VERSIONED},
    }
    files.write_json(folder / "training.json", result)
    files.discard(folder / "checkpoints")
    return files.read_json(folder / "training.json")


def reader_for(log: Log, tokenizer, settings: Settings) -> prompts.Reader:
    """The reader that training and scoring share."""
    return prompts.Reader(
        log, tokenizer, settings.prompt, settings.history_tokens, settings.max_tokens, settings.n_genres,
        settings.n_recent,
    )  # fmt: skip


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end (its trainer_state.json comes last)."""
    whole = [path for path in folder.glob("checkpoint-*") if files.read_json(path / "trainer_state.json")]
    return str(max(whole, key=lambda path: int(path.name.split("-")[1]))) if whole else None


def fit_temperature(scores: np.ndarray, chosen: np.ndarray) -> float:
    """The temperature under which softmax(scores / t) makes the chosen candidates most likely.

    Args:
        scores: (n, K), -inf where padded.
        chosen: (n,) columns.
    """
    if scores.shape[1] < 2:
        return 1.0

    def loss(log_t: float) -> float:
        z = scores / np.exp(log_t)
        top = z.max(axis=1)
        return float(np.mean(top + np.log(np.exp(z - top[:, None]).sum(axis=1)) - z[np.arange(len(z)), chosen]))

    return float(np.exp(scipy.optimize.minimize_scalar(loss, bounds=(-3, 6), method="bounded").x))


def _finish(language_model, folder: Path, validation_prompts: list, shown: np.ndarray, settings: Settings) -> float:
    """Reload the saved adapter, make sure that it scores as the trained one, and fit the temperature with it."""
    from artlib import score

    few = validation_prompts[:8]
    before = score.score(language_model, few)
    reloaded, _ = model.load(settings.base, folder, settings.dtype, settings.load_in_4bit, settings.max_tokens)
    after = score.score(reloaded, few)
    real = np.isfinite(before)
    difference = float(np.abs(before[real] - after[real]).max())
    if difference > (1e-3 if settings.dtype == "float32" else 0.5):
        raise RuntimeError(f"{folder}: the adapter read back scores differently by up to {difference:.3g} nats")
    return fit_temperature(score.score(reloaded, validation_prompts), shown)


def _show_progress_in_terminals(trainer) -> None:
    """A text progress bar: transformers' own for notebooks is a widget, which a headless run would not show."""
    from transformers.trainer_callback import ProgressCallback
    from transformers.utils.notebook import NotebookProgressCallback

    trainer.remove_callback(NotebookProgressCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(ProgressCallback)


def _arguments(folder: Path, settings: Settings, n_examples: int) -> dict:
    """What all trainers share."""
    steps = max(1, n_examples // settings.batch_size) * settings.epochs
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
        "eval_strategy": "steps",
        "eval_steps": max(1, steps // 2),
        "save_strategy": "steps",
        "save_steps": settings.save_steps,
        "save_total_limit": 2,
        "seed": settings.seed,
        "data_seed": settings.seed,
        "report_to": "none",
        "remove_unused_columns": False,
        "dataloader_num_workers": 0,
    }


def _listwise_trainer(language_model, tokenizer, data: Sequence[list], shown: Sequence[np.ndarray], folder, settings):
    """`caption`: cross-entropy of the played artwork under softmax(scores / t) over the impression's candidates."""
    import torch
    from transformers import Trainer, TrainingArguments

    from artlib import score

    class ListwiseTrainer(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, **_):
            target = inputs.pop("shown")
            scores = score.caption_scores(model, inputs)
            loss = torch.nn.functional.cross_entropy(scores / settings.temperature, target)
            return (loss, {"scores": scores}) if return_outputs else loss

        def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
            with torch.no_grad():
                return self.compute_loss(model, self._prepare_inputs(inputs)).detach(), None, None

    def collate(rows: list) -> dict:
        batch = score.collate_trees([prompt for prompt, _ in rows])
        return {**batch, "shown": torch.tensor([place for _, place in rows])}

    train, validation = (list(zip(p, map(int, s), strict=True)) for p, s in zip(data, shown, strict=True))
    trainer = ListwiseTrainer(
        model=language_model,
        args=TrainingArguments(**_arguments(folder, settings, len(train))),
        train_dataset=train,
        eval_dataset=validation,
        data_collator=collate,
    )
    trainer.model_accepts_loss_kwargs = False  # the loss is a mean over impressions, whatever their tokens
    return trainer


def _label_trainer(language_model, tokenizer, data: Sequence[list], shown: Sequence[np.ndarray], folder, settings):
    """`label`: SFT on the letter of the played artwork, options in random order, loss on the letter alone."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rng = np.random.default_rng(settings.seed)

    def rows(questions: list, played: np.ndarray) -> Dataset:
        columns = {"input_ids": [], "labels": []}
        for question, place in zip(questions, played, strict=True):
            order = rng.permutation(len(question.options))
            ids = question.ids(order)
            letter = question.labels[int(np.flatnonzero(order == place)[0])]
            columns["input_ids"].append([*ids, letter])
            columns["labels"].append([prompts.IGNORE] * len(ids) + [letter])
        return Dataset.from_dict(columns)

    arguments = _arguments(folder, settings, len(data[0]))
    return SFTTrainer(
        model=language_model,
        processing_class=tokenizer,
        args=SFTConfig(**arguments, max_length=settings.max_tokens, packing=False),
        train_dataset=rows(data[0], shown[0]),
        eval_dataset=rows(data[1], shown[1]),
    )
