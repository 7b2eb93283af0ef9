"""TRL's own trainers, set up for questions with letters, which are completions as it knows them; `TRAINERS` at the
end says which prompt and method have them."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from artlib.lm import generation, model
from artlib.lm.prompts.label import LABELS, LabelPrompt
from artlib.lm.prompts.reasoned import parse
from artlib.lm.unsloth import quiet
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
    """TRL's SFT on a reason followed by a letter: a teacher's, and that of the played artwork; or a reader's (distil).
    The loss is on both."""

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


def group_trainer(language_model, tokenizer, train: Examples, validation: Examples, folder: Path, settings: Settings):
    """TRL's GRPO (Shao et al. 2024) on reasoned answers to questions whose play was logged.

    Of a group of `samples` answers the last is the logged one, with a teacher's reason; the model writes the others. An
    answer that names what was played has the reward r / (K p), clipped, as in `sft-ips`; any other, valid or not, 0: of
    an artwork that was not shown nothing is known. So a group is never without signal, which sampled answers alone
    often were (LUFFY; Yan et al. 2025). Advantages are rewards less the group's mean, not divided by its spread, which
    would take the weights out, and losses not by the answers' lengths (Dr. GRPO; Liu et al. 2025). The logged answer
    counts as one of the policy's own, at a ratio of 1: towards it this is weighted SFT, which the others' share limits.

    `beta` weighs the divergence from the adapter that the model comes with, which TRL clones. The validation loss is
    minus the mean reward of one sampled answer a question. TRL calls `rollout_func`, which all of this goes through,
    experimental.
    """
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    group, parts = max(2, settings.samples), {"train": train, "validation": validation}

    def rows(part: str) -> Dataset:
        return Dataset.from_list(
            [{"prompt": f"{part} {n}", "part": part, "n": n} for n in range(len(parts[part].prompts))]
        )

    def written(names: list[str], trainer: GRPOTrainer) -> dict[str, list]:
        """Questions and answers of a batch, in whose prompts TRL sees names only: it would tokenise text."""
        asked = [(parts[part], int(n)) for part, n in map(str.split, names)]
        questions = [examples.prompts[n].ids(examples.orders[n]) for examples, n in asked]
        learning = trainer.model.training
        logged = {place for place in range(len(asked)) if learning and place % group == group - 1}
        own = [question for place, question in enumerate(questions) if place not in logged]
        trainer.model.eval()
        answers = iter(generation.sample(trainer.model, tokenizer, own, settings.max_new_tokens, temperature=1.0))
        trainer.model.train(learning)
        completions = [
            examples.answers[n] if place in logged else next(answers) for place, (examples, n) in enumerate(asked)
        ]
        return {"prompt_ids": questions, "completion_ids": completions, "logprobs": None}

    def reward(completions: list[str], part: list[str], n: list[int], **_) -> list[float]:
        return [
            answer_reward(text, parts[name], row, settings)
            for text, name, row in zip(completions, part, n, strict=True)
        ]

    class GroupTrainer(GRPOTrainer):
        def evaluate(self, *arguments, **options):
            found = super().evaluate(*arguments, **options)
            return found | {"eval_loss": -self.state.log_history[-1]["eval_reward"]}

        def _load_from_checkpoint(self, checkpoint, *_):
            model.set_lora(self.model, checkpoint)  # see `dpo_trainer`

        def _track_num_input_tokens(self, inputs):
            pass  # TRL has counted them when they were written; transformers would warn at every step

    data = rows("train")
    own = arguments(folder, settings, len(data))
    own["per_device_train_batch_size"] *= group
    own["per_device_eval_batch_size"] = 32
    chosen = GRPOConfig(
        **own,
        beta=settings.beta,
        num_generations=group,
        num_generations_eval=1,
        max_completion_length=settings.max_new_tokens,
        temperature=1.0,
        scale_rewards="none",
        loss_type="dr_grpo",
    )
    with quiet():  # it warns of what the docstring says
        return GroupTrainer(
            model=language_model,
            processing_class=tokenizer,
            args=chosen,
            train_dataset=data,
            eval_dataset=rows("validation"),
            reward_funcs=reward,
            rollout_func=written,
        )


def answer_reward(answer: str, examples: Examples, row: int, settings: Settings) -> float:
    """r / (K p), clipped, of an answer that names what was shown; 0 of any other."""
    arrays, order, letter = examples.arrays, examples.orders[row], parse(answer)
    place = LABELS.index(letter) if letter else len(order)
    if place >= len(order) or order[place] != arrays.shown[row]:
        return 0.0
    return float(arrays.reward[row] * min(1 / (len(order) * arrays.propensity[row]), settings.clip))


def question_in_random_order(question: LabelPrompt, rng: np.random.Generator) -> tuple[list[int], np.ndarray]:
    """The question's token ids with its options shuffled, and (K,) the letter's token of each candidate."""
    order = rng.permutation(len(question.options))
    letters = np.empty(len(order), dtype=np.int64)
    letters[order] = question.labels
    return question.ids(order), letters


TRAINERS = {
    ("label", "sft"): label_trainer,
    ("label", "dpo"): dpo_trainer,
    ("reasoned", "sft-reasoning"): reasoning_trainer,
    ("reasoned", "grpo"): group_trainer,
    ("reasoned", "distil"): reasoning_trainer,
}
