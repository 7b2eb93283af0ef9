"""What the parameters may be: choices, ranges, and which go together, checked before anything starts.

`parameters.resolve` asks of a whole run, `train.Settings` of its own fields. Nothing heavy is imported for it.
"""

import dataclasses
import difflib
import math
import re
from collections.abc import Mapping

from artlib import machine

REASONING = "sft-reasoning"
CHOICES = {
    "world": ("fiction", "movielens", "upworthy", "own"),
    "method": ("sft", "sft-ips", "dpo", "softmax-dpo", "counterfactual", REASONING),
    "prompt": ("audience", "caption", "label", "reasoned"),
    "value": ("ips", "snips", "dr"),
    "dtype": machine.TYPES,
}


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


_SOME, _ANY, _POSITIVE = Range(1), Range(0), Range(0, above=True)
RANGES = {
    **dict.fromkeys(("n_users", "n_titles", "n_train", "n_validation", "n_test"), _SOME),
    **dict.fromkeys(("max_examples", "max_validation", "epochs", "batch_size", "micro_batch", "save_steps"), _SOME),
    **dict.fromkeys(("lora_rank", "samples", "max_new_tokens", "max_tokens"), _SOME),
    **dict.fromkeys(("lora_layers", "history_tokens", "n_genres", "n_recent", "max_test", "n_cases"), _ANY),
    **dict.fromkeys(("temperature", "clip"), _POSITIVE),
    **dict.fromkeys(("beta", "variance"), _ANY),
    "learning_rate": Range(0, 1, above=True),
    "ignored": Range(0, 1),  # with dpo on letters, a probability
    "n_bootstrap": Range(100),  # the tails of a 95 % interval
    "seed": Range(0, 2**32 - 1),  # numpy's own
}
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def fault(name: str, value: object) -> str | None:
    """What is wrong with the value of one parameter, and what would be right; None if nothing."""
    if name in CHOICES and value not in CHOICES[name]:
        near = difflib.get_close_matches(str(value), CHOICES[name], n=1)
        hint = f", did you mean {near[0]}?" if near else ""
        return f"{name} {value!r} is not one of {', '.join(CHOICES[name])}{hint}"
    if name in RANGES and value not in RANGES[name]:
        return f"{name} {value!r} is out of range: it must be {RANGES[name]}"
    if name == "comparisons" and (odd := [item for item in value if not _PLAIN.fullmatch(item)]):
        return f"comparisons: {odd[0]!r} is no world; give names such as {' or '.join(CHOICES['world'][:2])}"
    return None


def clash(values: Mapping[str, object]) -> str | None:
    """Which of the values do not go together, and what would; None if all do. Those that are not there do not count."""
    if {"method", "prompt"} <= values.keys() and (values["method"] == REASONING) != (values["prompt"] == "reasoned"):
        given = f"method={values['method']}, prompt={values['prompt']}"
        return f"method={REASONING} and prompt=reasoned go together: not {given}"
    if {"batch_size", "micro_batch"} <= values.keys() and values["batch_size"] % values["micro_batch"]:
        return f"batch_size {values['batch_size']} is not a multiple of micro_batch {values['micro_batch']}"
    if values.get("method") == REASONING and re.match(r"https?://", values.get("teacher", "")):
        if not values.get("teacher_model"):
            return f"teacher {values['teacher']} is an endpoint: say which of its models with teacher_model"
    if values.get("world") == "own" and not values.get("data", "own"):
        return "world 'own' needs the parameter data: the folder of your log"
    return None
