"""TRL's own trainers, set up for questions with letters, which are completions as it knows them."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from artlib.lm import model
from artlib.lm.prompts.label import LabelPrompt
from artlib.posttrain.examples import Examples
from artlib.posttrain.settings import Settings
from artlib.posttrain.trainer import arguments

IGNORE = -100  # no loss on this token


def label_trainer(language_model, tokenizer, train: Examples, validation: Examples, folder: Path, settings: Settings):
    """TRL's SFT on the letter of the played artwork, options in random order, loss on the letter alone.

    TRL knows neither rewards nor other candidates: every play weighs the same, and the loss is over the vocabulary.
    """
    rng = np.random.default_rng(settings.seed)

    def pairs(examples: Examples) -> Iterator[tuple[list[int], list[int]]]:
        for question, place in zip(examples.prompts, examples.arrays.shown, strict=True):
            ids, letters = question_in_random_order(question, rng)
            yield ids, [int(letters[place])]

    return _sft_trainer(language_model, tokenizer, pairs(train), pairs(validation), folder, settings)


def reasoning_trainer(
    language_model, tokenizer, train: Examples, validation: Examples, folder: Path, settings: Settings
):
    """TRL's SFT on a teacher's reason followed by the letter of the played artwork; the loss is on both."""

    def pairs(examples: Examples) -> Iterator[tuple[list[int], list[int]]]:
        for question, order, answer in zip(examples.prompts, examples.orders, examples.answers, strict=True):
            yield question.ids(order), answer

    return _sft_trainer(language_model, tokenizer, pairs(train), pairs(validation), folder, settings)


def _sft_trainer(language_model, tokenizer, train: Iterable, validation: Iterable, folder: Path, settings: Settings):
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
            columns["labels"].append([IGNORE] * len(question) + answer)
        return Dataset.from_dict(columns)

    data = rows(train)
    return SFTTrainer(
        model=language_model,
        processing_class=tokenizer,
        args=SFTConfig(**arguments(folder, settings, len(data)), max_length=settings.max_tokens, packing=False),
        train_dataset=data,
        eval_dataset=rows(validation),
    )


def dpo_trainer(language_model, tokenizer, train: Examples, validation: Examples, folder: Path, settings: Settings):
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
                if reward == 0 and rng.random() >= settings.negative_weight:
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


def question_in_random_order(question: LabelPrompt, rng: np.random.Generator) -> tuple[list[int], np.ndarray]:
    """The question's token ids with its options shuffled, and (K,) the letter's token of each candidate."""
    order = rng.permutation(len(question.options))
    letters = np.empty(len(order), dtype=np.int64)
    letters[order] = question.labels
    return question.ids(order), letters
