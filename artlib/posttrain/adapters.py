"""What is kept of a training: the adapter with training.json, and until it is finished what a killed one needs.

fingerprint.json is the question of a training under way; initial_eval.json the validation before its first step;
checkpoints/ are the trainer's.
"""

import dataclasses
import os
import sys
from pathlib import Path

import numpy as np

from artlib import ArtlibError, data, files, fingerprint, lm, ope, posttrain
from artlib.data import Log
from artlib.lm import prompts
from artlib.posttrain import objectives
from artlib.posttrain.settings import Settings

VERSIONED = ("torch", "transformers", "trl", "peft", "unsloth", "datasets")
OWN = ("fingerprint.json", "training.json", "checkpoints", "adapter_model.safetensors")
# An adapter that was trained in one type of numbers is of use in another, and a checkpoint, too.
NUMBERS = "dtype"


class AdapterError(ArtlibError, ValueError):
    """A folder in which no adapter may be written."""


def question(log: Log, settings: Settings, start: Path | None, targets: np.ndarray | None = None) -> dict:
    """All that decides what a training learns: settings, log, code, the adapter that it begins from, and targets."""
    return {
        "settings": dataclasses.asdict(settings),
        "data": log.identity,
        "code": code(settings),
        "start": files.sha256(start / "adapter_model.safetensors") if start else None,
        "targets": None if targets is None else fingerprint.digest(targets.tolist()),
    }


def code(settings: Settings) -> str:
    """What training and scoring do, so that adapters and answers of other code are not taken for today's."""
    own = fingerprint.code(data, lm, posttrain, sys.modules[ope.cross_fit.__module__])
    chosen = type(prompts.find(settings.prompt)), objectives.OBJECTIVES.get(settings.method, objectives.sft)
    return own + fingerprint.code_from_outside(*chosen)


def finished(folder: Path, asked: dict) -> dict | None:
    """training.json of an adapter that answers the question; None where there is none."""
    training = files.read_json(folder / "training.json")
    if training is None or fingerprint.changed(training, asked, NUMBERS):
        return None
    if training["settings"][NUMBERS] != asked["settings"][NUMBERS]:  # it will be asked in the one that is asked for
        training["settings"][NUMBERS] = asked["settings"][NUMBERS]
        files.write_json(folder / "training.json", training)
    return training


def begin(folder: Path, asked: dict) -> list[str] | None:
    """Keep checkpoints of the same training, and say in which frame its prompts were; discard those of any other."""
    kept = files.read_json(folder / "fingerprint.json")
    foreign = folder.exists() and any(folder.iterdir()) and not any((folder / name).exists() for name in OWN)
    if foreign:
        raise AdapterError(f"{folder} holds other files than an adapter's, which would be lost; name another folder")
    if fingerprint.changed(kept, asked, NUMBERS):
        files.discard(folder)
        return None
    return kept.get("frame")


def finish(folder: Path, training: dict) -> dict:
    """Write training.json, and remove what only a killed training needs."""
    files.write_json(folder / "training.json", training)
    for left in ("checkpoints", "initial_eval.json"):
        files.discard(folder / left)
    return files.read_json(folder / "training.json")


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end (its trainer_state.json comes last)."""
    whole = [path for path in folder.glob("checkpoint-*") if files.read_json(path / "trainer_state.json")]
    return str(max(whole, key=lambda path: int(path.name.split("-")[1]))) if whole else None


def find(folder: str | os.PathLike, log: Log) -> dict[str, Path]:
    """The finished adapters of a run that were trained on this log by this code: "llm-METHOD" -> folder. Names those
    left out: to an adapter of another log, this one's test split may be what it learnt from; one of other code may
    have read other prompts."""
    found = {}
    for path in sorted(Path(folder).glob("*/training.json")):
        training = files.read_json(path)
        if training["data"] != log.identity:
            print(f"{path.parent} is left out: it was trained on another log")
        elif training["code"] != code(settings_of(path.parent)):
            print(f"{path.parent} is left out: it was trained by other code; train it again")
        else:
            found[f"llm-{path.parent.name}"] = path.parent
    return found


def settings_of(adapter: str | os.PathLike) -> Settings:
    """The settings that a finished adapter was trained with."""
    return Settings(**files.read_json(Path(adapter) / "training.json")["settings"])


def frame_of(adapter: str | os.PathLike) -> list[str]:
    """What stood before and after the questions that a finished adapter was trained on."""
    return files.read_json(Path(adapter) / "training.json")["frame"]


def can_start(folder: Path, log: Log, settings: Settings) -> bool:
    """Whether a refining method, which asks for `settings`, may begin from the adapter in a folder: one of the same
    make, data and code. However it was trained, it is the reference."""
    training = files.read_json(folder / "training.json")
    if not training or training["data"] != log.identity or training["code"] != code(settings):
        return False
    same = ["base", "prompt", "lora_rank", "lora_layers", "load_in_4bit"]
    if prompts.find(settings.prompt).summarised:
        same += ["n_genres", "n_recent"]
    return all(training["settings"].get(name) == getattr(settings, name) for name in same)
