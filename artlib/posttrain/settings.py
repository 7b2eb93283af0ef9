"""How to post-train: every setting with its default, what it means and what it may be. Nothing heavy is imported."""

import dataclasses
import difflib
import math
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from artlib.lm import machine, prompts
from artlib.lm.embedded import EMBEDDED


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `least` to `most`, both included; with `above`, without `least`."""

    least: float
    most: float = math.inf
    above: bool = False

    def __contains__(self, value: float) -> bool:
        return (self.least < value if self.above else self.least <= value) and value <= self.most

    def __str__(self) -> str:
        least = f"above {self.least:g}" if self.above else f"at least {self.least:g}"
        return least if self.most == math.inf else f"{least} and at most {self.most:.10g}"


SOME, ANY, POSITIVE = Range(1), Range(0), Range(0, above=True)
SEED = Range(0, 2**32 - 1)  # numpy's own


@dataclasses.dataclass(frozen=True)
class Method:
    """A training method, see `objectives`.

    Attributes:
        meaning: in a line.
        refines: the method whose adapter it begins from, its reference; "" for none.
        learns_from: "plays"; "impressions", ignored ones, too; or "negatives": those as well if negative_weight > 0.
        given_shown: whether a play's likelihood is given with which odds each candidate was shown.
        predicts_rewards: whether it needs a reward for every candidate, predicted without the language model.
        given_targets: whether it learns what `post_train` is told each candidate deserves, not what was played.
        needs_propensities: whether it divides by them, or asks with which odds each candidate was shown.
        prompt: the one prompt form that it goes with, which goes with no method for others; "" for all others.
        reads: the prompt form, a reader of posters by genres, of the adapter that it begins from; "" for its own form.
    """

    meaning: str
    refines: str = ""
    learns_from: str = "plays"
    given_shown: bool = False
    predicts_rewards: bool = False
    given_targets: bool = False
    needs_propensities: bool = False
    prompt: str = ""
    reads: str = ""


METHODS = {
    "sft": Method("cross-entropy of the artwork that was played, among the candidates"),
    "sft-ips": Method("the same, weighted by inverse propensities", needs_propensities=True),
    "sft-logq": Method(
        "the same, given with which odds production showed each candidate", given_shown=True, needs_propensities=True
    ),
    "awsft": Method(
        "cross-entropy of what was shown, weighted by how much better than expected it went",
        learns_from="impressions",
        predicts_rewards=True,
        needs_propensities=True,
    ),
    "soft": Method(
        "cross-entropy of targets over all candidates, which code gives", learns_from="impressions", given_targets=True
    ),
    "dpo": Method("what was played is preferred to each other candidate", refines="sft", learns_from="negatives"),
    "softmax-dpo": Method("the same, all other candidates at once", refines="sft"),
    "kto": Method("what was played was good, what was ignored bad", refines="sft", learns_from="impressions"),
    "counterfactual": Method(
        "the policy's value, estimated off-policy, less its divergence",
        refines="sft",
        learns_from="impressions",
        needs_propensities=True,
    ),
    "policy-gradient": Method(
        "the reward that the policy may expect by a learnt model, less its divergence",
        refines="sft",
        learns_from="impressions",
        predicts_rewards=True,
    ),
    "sft-reasoning": Method("a teacher's reason, then the letter of the artwork that was played", prompt="reasoned"),
    "grpo": Method(
        "sampled reasoned answers, rewarded where they name what was played",
        refines="sft-reasoning",
        prompt="reasoned",
        needs_propensities=True,
    ),
    "distil": Method(
        "a trained reader's genre of every poster, written out, and then the poster that the viewer's genres suit",
        refines="sft",
        learns_from="impressions",
        prompt="reasoned",
        reads="genre-likelihood",
    ),
}
VALUE_ESTIMATORS = ("ips", "snips", "dr")


def _setting(default, meaning: str, allowed: Range | Iterable[str] | Callable[[], Iterable[str]] | None = None):
    return dataclasses.field(default=default, metadata={"meaning": meaning, "allowed": allowed})


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to post-train. The defaults suit the embedded model on two CPU cores.

    Raises:
        ValueError: a value is of another type or out of range, or two do not go together; says what would do.
    """

    base: str = _setting(EMBEDDED, 'embedded model, "tiny", a folder, or a hub id')
    method: str = _setting("sft", "what is minimised", lambda: METHODS)
    prompt: str = _setting("genre-likelihood", "how an impression is put to the model", lambda: prompts.PROMPTS)
    max_examples: int = _setting(
        8000, "impressions to train on, at most: plays, or all where the method learns from ignored ones, too", SOME
    )
    max_validation: int = _setting(
        400, "plays for the validation loss, the temperature, and the text baseline's penalty", SOME
    )
    epochs: int = _setting(1, "passes over the examples", SOME)
    learning_rate: float = _setting(2e-3, "peak, after 5 % warm-up, then linear to 0", Range(0, 1, above=True))
    batch_size: int = _setting(4, "titles (genre-likelihood) or impressions an optimiser step", SOME)
    micro_batch: int = _setting(2, "of them go through the model at once", SOME)
    lora_rank: int = _setting(16, "of the adapters", SOME)
    lora_layers: int = _setting(15, "adapt the last so many layers; 0 for all", ANY)
    save_steps: int = _setting(25, "optimiser steps between checkpoints", SOME)
    # Scores of `caption`, sums over a caption's tokens, are far too sure of themselves for 1. TRL, which trains `label`
    # by sft and dpo, knows none.
    temperature: float = _setting(
        1.0, "of the softmax over scores in training (caption: 8); fitted on validation afterwards", POSITIVE
    )
    beta: float = _setting(
        0.1,
        "dpo, kto: how close to stay to the reference; other methods that refine: weight of the divergence",
        ANY,
    )
    clip: float = _setting(10.0, "largest weight of an impression", POSITIVE)
    advantage_temperature: float = _setting(
        1.0, "awsft: of advantages, in mean rewards; the larger, the closer to what production shows", POSITIVE
    )
    negative_weight: float = _setting(
        0.0, "dpo: what an ignored impression counts, as evidence against the artwork it showed", Range(0, 1)
    )
    value_estimator: str = _setting("snips", "counterfactual: what estimates the value", VALUE_ESTIMATORS)
    variance: float = _setting(0.0, "counterfactual: weight of the value's standard deviation", ANY)
    teacher: str = _setting("world", "reasoned: world, a model's name, or the URL of an OpenAI-compatible endpoint")
    teacher_model: str = _setting("", "the endpoint's model")
    samples: int = _setting(
        5, "reasoned: answers an impression; one is greedy, several are sampled; grpo: and a group, at least 2", SOME
    )
    max_new_tokens: int = _setting(
        96, "reasoned: length of an answer; longer reasons are not learnt (distil: 25 a candidate)", SOME
    )
    history_tokens: int = _setting(96, "budget of a member's summary", ANY)
    max_tokens: int = _setting(2048, "a longer prompt is an error: nothing is cut", SOME)
    n_genres: int = _setting(3, "favourite genres in a member's summary", ANY)
    n_recent: int = _setting(0, "most recent titles in it; they cost the embedded model more than they tell it", ANY)
    dtype: str = _setting("auto", "of the base weights: bfloat16, float32, or the faster one here", machine.TYPES)
    load_in_4bit: bool = _setting(False, "quantise the base weights (GPU only)")
    seed: int = _setting(0, "of everything random", SEED)

    def __post_init__(self):
        values = dataclasses.asdict(self)
        faults = [fault for name, value in values.items() if (fault := self.fault(name, value))]
        if found := faults[0] if faults else self.clash(values):
            raise ValueError(found)

    @staticmethod
    def fault(name: str, value: Any) -> str | None:
        """What is wrong with the value of one setting, and what would be right; None if nothing."""
        field, kind = FIELDS[name], kind_of(name)
        if not _is_of(kind, value):
            return f"{name} {value!r} is not of type {kind.__name__}"
        return unfit(name, value, field.metadata["allowed"])

    @staticmethod
    def clash(values: Mapping[str, Any]) -> str | None:
        """Which of all settings' values do not go together, and what would; None if all do."""
        method, prompt = values["method"], values["prompt"]
        wanted, special = METHODS[method].prompt, {known.prompt for known in METHODS.values()}
        if wanted != prompt and (wanted or prompt in special):
            form = wanted or prompt
            names = " or ".join(name for name, known in METHODS.items() if known.prompt == form)
            return f"method={names} and prompt={form} go together: not method={method}, prompt={prompt}"
        if values["batch_size"] % values["micro_batch"]:
            return f"batch_size {values['batch_size']} is not a multiple of micro_batch {values['micro_batch']}"
        if METHODS[method].prompt and re.match(r"https?://", values["teacher"]) and not values["teacher_model"]:
            return f"teacher {values['teacher']} is an endpoint: say which of its models with teacher_model"
        return None

    @property
    def all_impressions(self) -> bool:
        """Whether ignored impressions teach, too."""
        learns_from = METHODS[self.method].learns_from
        return learns_from == "impressions" or (learns_from == "negatives" and self.negative_weight > 0)

    @property
    def start(self) -> "Settings | None":
        """Those of the adapter that a refining method begins from, if it has to be trained; None for a method that
        begins from the base model. An adapter of another form shares `SHARED`; how it learns is left at the defaults,
        which suit that form: for other ways, train it first."""
        method = METHODS[self.method]
        if not method.refines or not method.reads:
            return dataclasses.replace(self, method=method.refines) if method.refines else None
        shared = {name: getattr(self, name) for name in SHARED}
        return Settings(method=method.refines, prompt=method.reads, **shared)

    @property
    def predicts_rewards(self) -> bool:
        """Whether rewards have to be predicted, see `rewards`."""
        by_model = self.method == "counterfactual" and self.value_estimator == "dr"
        return METHODS[self.method].predicts_rewards or by_model


SHARED = (
    *("base", "dtype", "load_in_4bit", "lora_rank", "lora_layers", "max_tokens"),
    *("max_examples", "max_validation", "save_steps", "seed"),
)
FIELDS = {field.name: field for field in dataclasses.fields(Settings)}


def kind_of(name: str) -> type:
    """The type of a setting."""
    return typing.get_type_hints(Settings)[name]


def unfit(name: str, value, allowed) -> str | None:
    """What is wrong with a value, given a `Range` or the choices (or what makes them); None if nothing."""
    if allowed is None:
        return None
    if isinstance(allowed, Range):
        return None if value in allowed else f"{name} {value!r} is out of range: it must be {allowed}"
    choices = list(allowed() if callable(allowed) else allowed)
    if value in choices:
        return None
    near = difflib.get_close_matches(str(value), choices, n=1)
    hint = f", did you mean {near[0]}?" if near else ""
    return f"{name} {value!r} is not one of {', '.join(choices)}{hint}"


def _is_of(kind: Any, value: Any) -> bool:
    if kind in (int, float):
        return isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
    return isinstance(value, kind)
