"""One training: from logged plays to a LoRA adapter that prefers the artwork a member would play.

Every method runs inside a transformers or TRL trainer on an Unsloth model, writes checkpoints, and goes on from the
last whole one when it was killed. It may be called in several processes at once: see `processes`.
"""

import dataclasses
import functools
import importlib.metadata
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from artlib import files
from artlib.data import Log, genre_names
from artlib.lm import calibration, generation, machine, model, prompts
from artlib.lm.prompts.reasoned import self_consistency_scores
from artlib.posttrain import adapters, examples, objectives, processes, progress, rewards, trainer, trl
from artlib.posttrain.examples import Examples
from artlib.posttrain.settings import METHODS, Settings

FEW = 4  # validation plays by which an adapter that is read back is checked


def post_train(
    log: Log, folder: str | os.PathLike, settings: Settings, targets: Callable[[Log], np.ndarray] | None = None
) -> dict:
    """Train an adapter, or return at once when `folder` already holds the one asked for, of the same code.

    A method that refines another (sft) begins from the adapter in the folder of that name beside `folder`, and trains
    that first if it is not there, with `settings.start`.

    Args:
        log: with train and validation splits.
        folder: gets the PEFT adapter, training.json and, until it is finished, what a killed training needs. A
            teacher's answers are kept beside it, in reasons.jsonl.
        targets: of method `soft`: (n, K) of a log's impressions how much each candidate is to be chosen, >= 0; 0 where
            padded. Asked about those of the training split that teach.

    Returns:
        What training.json holds: settings, data, code, frame, background, curve, temperature, seconds, versions ...;
        `seconds` is that of the last process, if it went on from another's checkpoint (`resumed`).

    Raises:
        LogError: the log has no propensities (`Log.propensities`) and the method divides by them.
        ProcessError: several processes cannot share this training.
    """
    processes.on_main(_require, log, settings)
    folder = Path(folder)
    start, started = _start(log, folder, settings), time.time()
    deserved = examples.given_targets(examples.learnt_from(log, settings), targets, settings)
    asked = adapters.question(log, settings, start, deserved)
    if training := processes.on_main(adapters.finished, folder, asked):
        return training
    frame = processes.on_main(adapters.begin, folder, asked)
    checkpoint = processes.on_main(adapters.last_checkpoint, folder / "checkpoints")

    language_model, tokenizer = _load(settings)
    model.require_adaptable(language_model)
    frame = frame or (adapters.frame_of(start) if start else None)
    reader = examples.reader_for(log, tokenizer, settings, frame)
    asked["frame"] = list(reader.frame)  # a template may write another one when training goes on, or in scoring
    processes.on_main(files.write_json, folder / "fingerprint.json", asked)
    # Once training has begun, a reason more would be another training.
    reasons, ask = folder.parent / "reasons.jsonl", not checkpoint
    train, validation, taught = examples.make(log, reader, settings, reasons, ask, deserved)
    audit = prompts.audit(train.prompts, reader)

    language_model = model.add_lora(language_model, settings.lora_rank, settings.lora_layers, settings.seed)
    train = _with_reference(language_model, train, start, settings)
    if METHODS[settings.method].reads:
        train, validation = examples.read_out(log, language_model, tokenizer, reader, train, validation, settings)
    if settings.predicts_rewards:
        q_hat = rewards.predicted(log, examples.learnt_from(log, settings), settings)
        train = dataclasses.replace(train, q_hat=q_hat)
    begun = Start.ask(language_model, validation)
    under_way = _trainer(language_model, tokenizer, train, validation, folder, settings)
    progress.show_in_terminals(under_way)
    before = _before(folder, bool(checkpoint), lambda: _validated(language_model, under_way, validation, settings))
    under_way.train(resume_from_checkpoint=checkpoint)
    # Without the reference of TRL's DPO.
    processes.on_main(language_model.save_pretrained, str(folder), selected_adapters=["default"])
    reloaded = _reloaded(language_model, folder, validation, begun, settings)
    after = _after(reloaded, tokenizer, under_way, validation, settings)
    return processes.on_main(
        adapters.finish,
        folder,
        asked
        | {
            "examples": len(train.prompts),
            "validation_examples": len(validation.prompts),
            "audit": audit,
            "background": log.background.described(),
            "teacher": taught,
            "reward_model": None if train.q_hat is None else rewards.quality(train.arrays, train.q_hat),
            "temperature": after.temperature,
            "zero_shot_temperature": _zero_shot_temperature(start, before, settings),
            "curve": _curve(under_way.state, before, after),
            "valid_answers": after.valid_answers,
            "order_sensitivity": begun.beside(reloaded, validation),
            "seconds": round(time.time() - started, 1),
            "resumed": checkpoint is not None,
            **_provenance(under_way.state, settings),
        },
    )


@dataclasses.dataclass(frozen=True)
class Validation:
    """The validation plays, asked once.

    Attributes:
        eval_loss: the mean cross-entropy of the played artwork among the candidates, as `objectives.sft`; TRL's
            trainers have their own, over the whole vocabulary, of the model that they hold.
        temperature: that suits the scores to decide by; None where they were not asked for.
        valid_answers: the ratio of written answers that were valid; None where none are written.
    """

    eval_loss: float
    temperature: float | None
    valid_answers: float | None = None


@dataclasses.dataclass(frozen=True)
class Start:
    """What the model says before the first step (of a refining method: the adapter of sft), to compare the trained
    one with.

    Attributes:
        scores: (FEW, K) of the first validation plays.
        order_sensitivity: see `PromptForm.order_sensitivity`.
    """

    scores: np.ndarray
    order_sensitivity: float | None

    @classmethod
    def ask(cls, language_model, validation: Examples) -> "Start":
        sensitivity = prompts.form_of(validation.prompts).order_sensitivity(language_model, validation.prompts)
        return cls(prompts.score_as_trained(language_model, validation.prompts[:FEW]), sensitivity)

    def beside(self, trained, validation: Examples) -> list[float] | None:
        """Order sensitivity before and after training."""
        if self.order_sensitivity is None:
            return None
        after = prompts.form_of(validation.prompts).order_sensitivity(trained, validation.prompts)
        return [self.order_sensitivity, after]


def _require(log: Log, settings: Settings) -> None:
    """Refuse what would fail, before anything is loaded."""
    if METHODS[settings.method].needs_propensities:
        log.require_propensities(f"method={settings.method}")
    if METHODS[settings.method].reads and not genre_names(log.titles):
        raise ValueError(
            f"method={settings.method} writes of genres, and the log's titles have none; use another method"
        )
    if processes.count() > 1 and _by_trl(settings):
        names = ", ".join(name for name in objectives.OBJECTIVES if (settings.prompt, name) not in trl.TRAINERS)
        others = f"set method to one of {names}, or " if not METHODS[settings.method].prompt else ""
        raise processes.ProcessError(
            f"prompt={settings.prompt} with method={settings.method}, which TRL trains, trains in one process only; "
            f"{others}start one process"
        )
    processes.accumulation(settings)


def _start(log: Log, folder: Path, settings: Settings) -> Path | None:
    """The adapter that a refining method begins from; trained now, with `settings.start`, if the run has none."""
    first = settings.start
    if not first:
        return None
    start = folder.parent / first.method
    if not processes.on_main(adapters.can_start, start, log, first):
        post_train(log, start, first)
    return start


def _load(settings: Settings, adapter: Path | None = None):
    return model.load(settings.base, adapter, settings.dtype, settings.load_in_4bit, settings.max_tokens)


def _by_trl(settings: Settings) -> bool:
    """Whether TRL's own trainer does it: letters and reasons are completions as it knows them."""
    return (settings.prompt, settings.method) in trl.TRAINERS


def _trainer(language_model, tokenizer, train: Examples, validation: Examples, folder: Path, settings: Settings):
    if not _by_trl(settings):
        return trainer.objective_trainer(language_model, train, folder, settings)
    make = trl.TRAINERS[settings.prompt, settings.method]
    return make(language_model, tokenizer, train, validation, folder, settings)


def _with_reference(language_model, train: Examples, start: Path | None, settings: Settings) -> Examples:
    """The examples with what a refining method needs; the model goes on from the adapter that it begins from."""
    if start:
        model.set_lora(language_model, start)
    if start and not _by_trl(settings):
        reference = prompts.score_as_trained(language_model, train.prompts, train.orders)
        train = dataclasses.replace(train, reference=reference)
    return train


def _before(folder: Path, going_on: bool, ask) -> Validation:
    """The validation before the first step, with which the last one is compared; a killed training's own."""
    kept = processes.on_main(files.read_json, folder / "initial_eval.json") if going_on else None
    if kept is None:
        kept = dataclasses.asdict(ask())
        processes.on_main(files.write_json, folder / "initial_eval.json", kept)
    return Validation(**kept)


def _validated(language_model, under_way, validation: Examples, settings: Settings) -> Validation:
    """The validation loss, and the temperature of the scores to decide by: from the same answers, where they are."""
    if prompts.form_of(validation.prompts).written:
        return Validation(under_way.evaluate()["eval_loss"], None)
    shown = validation.arrays.shown
    if _by_trl(settings):
        loss = under_way.evaluate()["eval_loss"]
        deciding = prompts.score(language_model, validation.prompts)
    else:
        trained, deciding = prompts.score_both_ways(language_model, validation.prompts, validation.orders)
        scores = trained / settings.temperature
        if METHODS[settings.method].given_shown:
            scores = scores + np.log(np.maximum(validation.arrays.logging, 1e-12))
        chosen = calibration.probabilities(scores)[np.arange(len(scores)), shown]
        loss = float(-(validation.arrays.reward * np.log(np.maximum(chosen, 1e-38))).mean())
    return Validation(loss, calibration.fit_temperature(deciding, shown, validation.arrays.reward))


def _after(trained, tokenizer, under_way, validation: Examples, settings: Settings) -> Validation:
    if not prompts.form_of(validation.prompts).written:
        return _validated(trained, under_way, validation, settings)
    write = functools.partial(generation.generate, trained, tokenizer)
    budget = settings.samples, settings.max_new_tokens, settings.seed
    scores, valid = self_consistency_scores(write, validation.prompts, *budget)
    loss, plays = under_way.evaluate()["eval_loss"], validation.arrays
    return Validation(loss, calibration.fit_temperature(scores, plays.shown, plays.reward), valid)


def _reloaded(language_model, folder: Path, validation: Examples, begun: Start, settings: Settings):
    """The model with the saved adapter, read back, if it scores as the trained one does.

    In 16 bits, other kernels may round otherwise, but by far less than what training changed.
    """
    few, real = validation.prompts[:FEW], np.isfinite(begun.scores)
    trained = prompts.score_as_trained(language_model, few)
    if not np.isfinite(trained[real]).all():
        raise RuntimeError(f"{folder}: training diverged, its scores are no numbers; lower learning_rate")
    reloaded, _ = _load(settings, folder)
    after = prompts.score_as_trained(reloaded, few)
    difference, learnt = (float(np.abs(trained[real] - other[real]).max()) for other in (after, begun.scores))
    exact = machine.resolve(settings.dtype) == "float32"
    if not difference <= (1e-3 if exact else min(0.5, max(1e-2, 0.1 * learnt))):
        raise RuntimeError(f"{folder}: the adapter read back scores differently by up to {difference:.3g} nats")
    return reloaded


def _zero_shot_temperature(start: Path | None, before: Validation, settings: Settings) -> float | None:
    if start and not prompts.find(settings.prompt).written:  # which have no temperature before they are trained
        return files.read_json(start / "training.json")["zero_shot_temperature"]
    return before.temperature


def _curve(state, before: Validation, after: Validation) -> list[dict]:
    """The losses of training steps, between the validation losses before and after."""
    steps = [entry for entry in state.log_history if "loss" in entry]
    last = {"step": state.global_step, "eval_loss": after.eval_loss}
    return [{"step": 0, "eval_loss": before.eval_loss}, *steps, last]


def _provenance(state, settings: Settings) -> dict:
    name = "train_tokens_per_second"
    speeds = [entry[name] for entry in state.log_history if name in entry]  # each since training began
    return {
        "tokens_per_second": speeds[-1] if speeds else None,
        "versions": {name: importlib.metadata.version(name) for name in adapters.VERSIONED},
        "machine": {
            **machine.described(),
            "dtype": machine.resolve(settings.dtype),
            "processes": processes.count(),
        },
    }
