"""Post-training: from logged plays to a LoRA adapter that prefers the artwork a member would play.

Every method runs inside a transformers or TRL trainer on an Unsloth model, writes checkpoints, and goes on from the
last whole one when it was killed.
"""

import dataclasses
import functools
import importlib.metadata
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import scipy.optimize

from artlib import files, layout, machine, model, objectives, ope, prompts, ranges, score, teacher, trainers
from artlib import log as logs
from artlib.log import Log
from artlib.ranges import REASONING

METHODS = ranges.CHOICES["method"]
FEW = 4  # validation plays by which an adapter that is read back is checked
VERSIONED = ("torch", "transformers", "trl", "peft", "unsloth", "datasets")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to post-train. The defaults suit the embedded model on two CPU cores; what they may be: see `ranges`.

    Attributes:
        base: model name, see `model.load`.
        method: of `METHODS`, see `objectives`. Those in `objectives.REFINING` begin from the adapter of sft.
        prompt: of `prompts.METHODS`: audience, caption, label, or, with sft-reasoning only, reasoned.
        max_examples, max_validation: impressions used from the two splits, drawn at random by `seed`: plays, or all
            impressions where the method learns from ignored ones, too.
        epochs: passes over the examples.
        learning_rate: peak of a linear schedule with 5 % warm-up.
        batch_size: titles (audience) or impressions (caption, label) a step; micro_batch of them go through the
            model at once.
        lora_rank: of the adapter.
        lora_layers: the last so many layers get adapters; 0 for all.
        save_steps: between two checkpoints.
        temperature: of the softmax over scores in training; afterwards it is fitted on the validation plays. Scores
            of `caption`, sums over a caption's tokens, are far too sure of themselves for 1: 8 suits them. TRL, which
            trains `label` by sft and dpo, knows none.
        teacher, teacher_model: who writes the reasons of sft-reasoning, see `teacher.make`.
        samples: answers an impression in scoring `reasoned`, of max_new_tokens at most; longer reasons are not learnt.
        beta, clip, ignored, value, variance: see `objectives.Hyperparameters`.
        history_tokens, max_tokens, n_genres, n_recent: see `prompts.Reader`.
        dtype, load_in_4bit: see `model.load`.
    """

    base: str = model.EMBEDDED
    method: str = "sft"
    prompt: str = "audience"
    max_examples: int = 8000
    max_validation: int = 400
    epochs: int = 1
    learning_rate: float = 2e-3
    batch_size: int = 4
    micro_batch: int = 2
    lora_rank: int = 16
    lora_layers: int = 15
    save_steps: int = 25
    temperature: float = 1.0
    beta: float = 0.1
    clip: float = 10.0
    ignored: float = 0.0
    value: str = "snips"
    variance: float = 0.0
    teacher: str = "world"
    teacher_model: str = ""
    samples: int = 5
    max_new_tokens: int = 96
    history_tokens: int = 96
    max_tokens: int = 2048
    n_genres: int = 3
    n_recent: int = 0
    dtype: str = "auto"
    load_in_4bit: bool = False
    seed: int = 0

    def __post_init__(self):
        values = dataclasses.asdict(self)
        faults = [fault for name, value in values.items() if (fault := ranges.fault(name, value))]
        if found := faults[0] if faults else ranges.clash(values):
            raise ValueError(found)

    @property
    def all_impressions(self) -> bool:
        """Whether ignored impressions teach, too."""
        return self.method == "counterfactual" or (self.method == "dpo" and self.ignored > 0)


def plays(log: Log, split: str, most: int | None, seed: int) -> Log:
    """The played impressions of a split in random order, at most `most` of them."""
    return _shuffled(log.split(split), split, True, most, seed)


def impressions(log: Log, split: str, most: int | None, seed: int) -> Log:
    """The impressions of a split, played or not, in random order, at most `most` of them."""
    return _shuffled(log.split(split), split, False, most, seed)


def _shuffled(part: Log, split: str, played: bool, most: int | None, seed: int) -> Log:
    reward = part.arrays().reward
    rows = np.flatnonzero(reward > 0) if played else np.arange(len(reward))
    rows = np.random.default_rng(seed).permutation(rows)[:most]
    if not reward[rows].any():
        raise ValueError(f"the {split} split has no impression with a reward above 0: nothing to learn from")
    return part.take(rows)


def post_train(log: Log, folder: str | os.PathLike, settings: Settings) -> dict:
    """Train an adapter, or return at once when `folder` already holds the one asked for, of the same code.

    A method that refines sft begins from the adapter in the folder `sft` beside `folder`, and trains that first if it
    is not there.

    Args:
        log: with train and validation splits.
        folder: gets the PEFT adapter, training.json and, until it is finished, what a killed training needs. A
            teacher's answers are kept beside it, in reasons.jsonl.

    Returns:
        What training.json holds: settings, data, code, frame, curve, temperature, seconds, tokens_per_second, versions;
        `seconds` is that of the last process, if it went on from another's checkpoint (`resumed`).
    """
    folder = Path(folder)
    start = _start(log, folder, settings)
    asked = {
        "settings": dataclasses.asdict(settings),
        "data": log.manifest.get("files"),
        "code": code(),
        "start": files.sha256(start / "adapter_model.safetensors") if start else None,
    }
    finished = files.read_json(folder / "training.json")
    if finished and _same(finished, asked):
        if finished["settings"]["dtype"] != settings.dtype:  # it will be asked in another type than it was trained in
            finished["settings"]["dtype"] = settings.dtype
            files.write_json(folder / "training.json", finished)
        return finished
    begun_with = files.read_json(folder / "asked.json")
    if not _same(begun_with, asked):  # checkpoints of another training are of no use
        files.discard(folder)
        begun_with = {}

    started = time.time()
    language_model, tokenizer = _load(settings)
    model.require_adaptable(language_model)
    reader = reader_for(log, tokenizer, settings, begun_with.get("frame") or (start and frame_of(start)))
    asked["frame"] = list(reader.frame)  # a template may write another one when training goes on, or in scoring
    files.write_json(folder / "asked.json", asked)
    part = (impressions if settings.all_impressions else plays)(log, "train", settings.max_examples, settings.seed)
    parts = part, plays(log, "validation", settings.max_validation, settings.seed)
    train, validation = (_examples(rows, reader, settings.seed) for rows in parts)
    checkpoint = last_checkpoint(folder / "checkpoints")
    taught = None
    if settings.method == REASONING:
        # Once training has begun, a reason more would be another training.
        (train, taught), (validation, _) = (
            _with_reasons(rows, examples, reader, folder, settings, ask=checkpoint is None)
            for rows, examples in zip(parts, (train, validation), strict=True)
        )
    audit = prompts.audit(train.prompts, reader)
    language_model = model.add_lora(language_model, settings.lora_rank, settings.lora_layers, settings.seed)
    if start:
        model.set_lora(language_model, start)
    if start and not _by_trl(settings):
        reference = score.score_as_trained(language_model, train.prompts, train.orders)
        train = dataclasses.replace(train, reference=reference)
    if settings.method == "counterfactual" and settings.value == "dr":
        train = dataclasses.replace(train, q_hat=_predicted_rewards(train, settings.seed))
    sensitivity = _order_sensitivity(language_model, validation.prompts)
    begun = score.score_as_trained(language_model, validation.prompts[:FEW])
    trainer = _trainer(language_model, tokenizer, train, validation, folder, settings)
    _show_progress_in_terminals(trainer)
    # What the last validation loss is compared with.
    before = files.read_json(folder / "before.json") if checkpoint else None
    if before is None:
        loss, scores = _validated(language_model, trainer, validation, settings)
        before = {"step": 0, "eval_loss": loss, "temperature": _temperature(scores, validation)}
        files.write_json(folder / "before.json", before)
    trainer.train(resume_from_checkpoint=checkpoint)
    language_model.save_pretrained(str(folder), selected_adapters=["default"])  # without the reference of TRL's DPO
    reloaded = _reloaded(language_model, folder, validation, begun, settings)
    if settings.prompt == "reasoned":
        write = functools.partial(model.generate, reloaded, tokenizer)
        scores, valid = votes_of(write, validation.prompts, settings)
        loss = trainer.evaluate()["eval_loss"]
    else:
        (loss, scores), valid = _validated(reloaded, trainer, validation, settings), None
    orders = None if sensitivity is None else [sensitivity, _order_sensitivity(reloaded, validation.prompts)]
    history = trainer.state.log_history
    zero_shot = files.read_json(start / "training.json") if start else {"zero_shot_temperature": before["temperature"]}
    result = {
        **asked,
        "examples": len(train.prompts),
        "validation_examples": len(validation.prompts),
        "audit": audit,
        "teacher": taught,
        "temperature": _temperature(scores, validation),
        "zero_shot_temperature": zero_shot["zero_shot_temperature"],
        "curve": [
            {"step": 0, "eval_loss": before["eval_loss"]},
            *(entry for entry in history if "loss" in entry),
            {"step": trainer.state.global_step, "eval_loss": loss},
        ],
        "valid_answers": valid,
        "order_sensitivity": orders,
        "seconds": round(time.time() - started, 1),
        "tokens_per_second": next((e["train_tokens_per_second"] for e in history if "train_runtime" in e), None),
        "resumed": checkpoint is not None,
        "versions": {name: importlib.metadata.version(name) for name in VERSIONED},
        "machine": {**machine.described(), "dtype": machine.resolve(settings.dtype)},
    }
    files.write_json(folder / "training.json", result)
    for left in ("checkpoints", "before.json"):
        files.discard(folder / left)
    return files.read_json(folder / "training.json")


def _same(kept: dict | None, asked: dict) -> bool:
    """Whether what is kept answers what is asked. The number type is this machine's affair: an adapter that was
    trained in one is of use in another, and a checkpoint, too."""

    def question(content: dict) -> dict:
        settings = {name: value for name, value in content["settings"].items() if name != "dtype"}
        return {**{key: content.get(key) for key in asked}, "settings": settings}

    return bool(kept) and question(kept) == question(asked)


def code() -> str:
    """What training does, so that adapters and answers of other code are not taken for today's."""
    own = sys.modules[__name__]
    return files.code_sha256(logs, prompts, layout, model, score, objectives, trainers, teacher, ope.reward_model, own)


def adapters(folder: str | os.PathLike, log: Log) -> dict[str, Path]:
    """The finished adapters of a run that were trained on this log by this code: "llm-METHOD" -> folder. Names those
    left out: to an adapter of another log, this one's test split may be what it learnt from; one of other code may
    have read other prompts."""
    found = {}
    for path in sorted(Path(folder).glob("*/training.json")):
        training = files.read_json(path)
        if training["data"] != log.manifest.get("files"):
            print(f"{path.parent} is left out: it was trained on another log")
        elif training["code"] != code():
            print(f"{path.parent} is left out: it was trained by other code; train it again")
        else:
            found[f"llm-{path.parent.name}"] = path.parent
    return found


def _start(log: Log, folder: Path, settings: Settings) -> Path | None:
    """The adapter that a refining method begins from; trained now, with the same settings, if the run has none of the
    same make, data and code. However it was trained, it is the reference."""
    if settings.method not in objectives.REFINING:
        return None
    start = folder.parent / "sft"
    found = files.read_json(start / "training.json")
    same = ("base", "prompt", "lora_rank", "lora_layers", "n_genres", "n_recent", "load_in_4bit")
    wanted = dataclasses.asdict(settings)
    fits = found and found["data"] == log.manifest.get("files") and found["code"] == code()
    if not fits or any(found["settings"].get(name) != wanted[name] for name in same):
        post_train(log, start, dataclasses.replace(settings, method="sft"))
    return start


def _load(settings: Settings, adapter: Path | None = None):
    return model.load(settings.base, adapter, settings.dtype, settings.load_in_4bit, settings.max_tokens)


def _by_trl(settings: Settings) -> bool:
    """Whether TRL's own trainer does it: letters are completions as it knows them."""
    return settings.prompt == "label" and settings.method in ("sft", "dpo")


def _trainer(language_model, tokenizer, train, validation, folder: Path, settings: Settings):
    if settings.method == REASONING:
        return trainers.reasoning_trainer(language_model, tokenizer, train, validation, folder, settings)
    if not _by_trl(settings):
        return trainers.objective_trainer(language_model, train, folder, settings)
    make = trainers.label_trainer if settings.method == "sft" else trainers.dpo_trainer
    return make(language_model, tokenizer, train, validation, folder, settings)


def _predicted_rewards(train: trainers.Examples, seed: int) -> np.ndarray:
    """(n, K) rewards predicted from what production prefers, cross-fitted by user: the q_hat of doubly robust."""
    arrays = train.arrays
    features = np.log(np.maximum(arrays.production, 1e-6))[:, :, None]
    return ope.cross_fit(features, arrays.reward, arrays.shown, arrays.user, arrays.mask, seed=seed)


def _order_sensitivity(language_model, questions: list) -> float | None:
    """How far `label` answers depend on the order of the options, on a few validation plays; None for other prompts:
    with `reasoned`, the letter comes after a reason."""
    if type(questions[0]) is not prompts.LabelPrompt:
        return None
    return score.order_sensitivity(score.rotation_scores(language_model.eval(), questions[:32]))


def reader_for(log: Log, tokenizer, settings: Settings, frame: Sequence[str] | None = None) -> prompts.Reader:
    """The reader that training and scoring share; for an adapter, give its `frame_of`."""
    return prompts.Reader(
        log, tokenizer, settings.prompt, settings.history_tokens, settings.max_tokens, settings.n_genres,
        settings.n_recent, frame,
    )  # fmt: skip


def frame_of(adapter: str | os.PathLike) -> list[str]:
    """What stood before and after the questions that a finished adapter was trained on."""
    return files.read_json(Path(adapter) / "training.json")["frame"]


def votes_of(write: Callable, questions: list, settings: Settings, batch: int = 32) -> tuple[np.ndarray, float]:
    """(n, K) scores of `reasoned` prompts by the votes of written answers, and the ratio of valid ones.

    Args:
        write: see `score.vote`.
        batch: answers that are written at once.
    """
    votes, valid = score.vote(
        write, questions, settings.samples, max_new_tokens=settings.max_new_tokens, batch=batch, seed=settings.seed
    )
    print(f"{valid:.1%} of {settings.samples * len(questions)} answers were valid")
    return score.vote_scores(votes, questions), valid


def _examples(part: Log, reader: prompts.Reader, seed: int) -> trainers.Examples:
    """What there is to learn from; options with letters get a random order each, the same in every epoch."""
    questions, rng = reader.read(part), np.random.default_rng(seed)
    lettered = isinstance(questions[0], prompts.LabelPrompt)
    orders = [rng.permutation(len(question.options)) for question in questions] if lettered else None
    return trainers.Examples(questions, part.arrays(), orders=orders)


def _with_reasons(
    part: Log, examples: trainers.Examples, reader: prompts.Reader, folder: Path, settings: Settings, ask: bool
) -> tuple[trainers.Examples, dict]:
    """The examples for which the teacher has a usable reason, and the teacher's counts."""
    shown, orders = examples.arrays.shown, examples.orders
    questions = [
        teacher.Question(i, reader.question(prompt, order), prompts.LABELS[int(np.flatnonzero(order == shown[i])[0])])
        for i, (prompt, order) in enumerate(zip(examples.prompts, orders, strict=True))
    ]
    source = teacher.make(settings.teacher, settings.teacher_model, part, settings.dtype)
    texts, counts = teacher.write(questions, source, folder.parent / "reasons.jsonl", ask)
    answers = {i: reader.completion(text) for i, text in texts.items()}
    rows = np.array([i for i in sorted(answers) if len(answers[i]) <= settings.max_new_tokens], dtype=int)
    if len(rows) < len(answers):
        counts["faults"]["longer than max_new_tokens"] = len(answers) - len(rows)
    counts["usable"] = len(rows)
    if not len(rows):
        raise ValueError(f"the teacher {source.name} gave no usable reason for {len(questions)} plays: {counts}")
    kept = trainers.Examples(
        [examples.prompts[i] for i in rows], part.take(rows).arrays(),
        answers=[answers[i] for i in rows], orders=[orders[i] for i in rows],
    )  # fmt: skip
    return kept, {"name": source.name, **counts}


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


def _validated(language_model, trainer, validation: trainers.Examples, settings: Settings) -> tuple[float, np.ndarray]:
    """The validation loss, and the scores by which to decide: from the same answers, where they are.

    The loss is the mean cross-entropy of the played artwork among the candidates, as `objectives.sft`; TRL's trainers
    have their own, over the whole vocabulary, of the model that they hold.
    """
    if settings.prompt == "reasoned":
        return trainer.evaluate()["eval_loss"], None
    if _by_trl(settings):
        return trainer.evaluate()["eval_loss"], score.score(language_model, validation.prompts)
    trained, deciding = score.score_both_ways(language_model, validation.prompts, validation.orders)
    chosen = score.probabilities(trained, settings.temperature)[np.arange(len(trained)), validation.arrays.shown]
    return float(-(validation.arrays.reward * np.log(np.maximum(chosen, 1e-38))).mean()), deciding


def _temperature(scores: np.ndarray | None, validation: trainers.Examples) -> float | None:
    return None if scores is None else fit_temperature(scores, validation.arrays.shown)


def _reloaded(language_model, folder: Path, validation: trainers.Examples, begun: np.ndarray, settings: Settings):
    """The model with the saved adapter, read back, if it scores as the trained one does.

    In 16 bits, other kernels may round otherwise, but by far less than what training changed.

    Args:
        begun: scores of the first validation plays before training.
    """
    few, real = validation.prompts[: len(begun)], np.isfinite(begun)
    trained = score.score_as_trained(language_model, few)
    if not np.isfinite(trained[real]).all():
        raise RuntimeError(f"{folder}: training diverged, its scores are no numbers; lower learning_rate")
    reloaded, _ = _load(settings, folder)
    after = score.score_as_trained(reloaded, few)
    difference, learnt = (float(np.abs(trained[real] - other[real]).max()) for other in (after, begun))
    exact = machine.resolve(settings.dtype) == "float32"
    if not difference <= (1e-3 if exact else min(0.5, max(1e-2, 0.1 * learnt))):
        raise RuntimeError(f"{folder}: the adapter read back scores differently by up to {difference:.3g} nats")
    return reloaded


def _show_progress_in_terminals(trainer) -> None:
    """A text progress bar: transformers' own is a widget in a kernel, which a headless run would not show."""
    from tqdm import tqdm
    from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerCallback
    from transformers.utils.notebook import NotebookProgressCallback

    class Bar(TrainerCallback):
        def on_train_begin(self, arguments, state, control, **_):
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="training", mininterval=2)

        def on_step_end(self, arguments, state, control, **_):
            self.bar.update(state.global_step - self.bar.n)

        def on_log(self, arguments, state, control, logs=None, **_):
            for name in logs.keys() & {"loss", "eval_loss"}:
                if hasattr(self, "bar"):
                    self.bar.set_postfix({name: f"{float(logs[name]):.3f}"}, refresh=False)

        def on_train_end(self, arguments, state, control, **_):
            self.bar.close()

    for callback in (NotebookProgressCallback, ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(Bar)
