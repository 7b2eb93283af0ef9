"""Post-training: it learns, it saves what it learnt, and it goes on after a kill."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pyarrow as pa
import pytest
import torch

from artlib import data, files, fingerprint
from artlib.data import Log, columns
from artlib.lm import calibration, embedded, model, prompts
from artlib.lm.prompts import Reader, caption, genre_likelihood, text
from artlib.policies import answers
from artlib.posttrain import adapters, objectives, train, trl
from artlib.posttrain import examples as makers
from artlib.posttrain.settings import METHODS, Settings

TINY = Settings(
    base=embedded.TINY,
    dtype="float32",
    max_examples=32,
    max_validation=16,
    epochs=1,
    batch_size=8,
    micro_batch=4,
    save_steps=1,
    lora_layers=0,
    max_tokens=8192,
    learning_rate=1e-3,
)


@pytest.fixture(scope="module", params=prompts.PROMPTS)
def trained(request, small_log, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter") / "sft"
    method = "sft-reasoning" if request.param == "reasoned" else "sft"
    settings = dataclasses.replace(TINY, prompt=request.param, method=method, samples=2, max_new_tokens=400)
    return small_log, folder, settings, train.post_train(small_log, folder, settings)


def test_training_writes_an_adapter_that_differs_from_a_fresh_one(trained):
    from safetensors.numpy import load_file

    _, folder, _, result = trained
    weights = load_file(folder / "adapter_model.safetensors")
    learnt = [value for name, value in weights.items() if "lora_B" in name]
    assert len(learnt) == 2 * 7 and all(np.abs(value).max() > 0 for value in learnt)  # layers x target modules
    assert result["examples"] == result["audit"]["prompts"]
    assert result["examples"] == (result["teacher"]["usable"] if result["teacher"] else 32)
    assert not (folder / "checkpoints").exists()
    assert (result["valid_answers"] is None) == (result["teacher"] is None)
    assert result["valid_answers"] is None or 0 <= result["valid_answers"] <= 1
    assert (result["order_sensitivity"] is not None) == (result["settings"]["prompt"] == "label")
    assert result["background"] == trained[0].background.described()


def test_finished_training_is_not_repeated_and_other_settings_are(trained):
    log, folder, settings, result = trained
    before = (folder / "training.json").stat().st_mtime_ns
    assert train.post_train(log, folder, settings) == result
    assert (folder / "training.json").stat().st_mtime_ns == before


def test_an_adapter_of_another_number_type_is_kept_and_says_its_own(trained):
    log, folder, settings, result = trained
    assert result["machine"]["dtype"] == "float32" and result["machine"]["device"]
    before = (folder / "adapter_model.safetensors").stat().st_mtime_ns
    again = train.post_train(log, folder, dataclasses.replace(settings, dtype="bfloat16"))
    assert again == files.read_json(folder / "training.json")
    assert again["settings"]["dtype"] == "bfloat16" and again["machine"]["dtype"] == "float32"  # asked in, trained in
    assert train.post_train(log, folder, settings) == result
    assert (folder / "adapter_model.safetensors").stat().st_mtime_ns == before


def test_an_adapter_of_a_log_without_checksums_is_not_taken_for_that_of_another(small_log, tmp_path):
    """Nor by what lists a run's adapters, or says whether a refining method may begin from one."""
    bare = dataclasses.replace(small_log, manifest={})
    captions = [f"{caption} At night." for caption in bare.artworks["caption"].to_pylist()]
    other = dataclasses.replace(bare, artworks=columns.replaced(bare.artworks, {"caption": captions}))
    own, part, another = (adapters.question(log, TINY, None) for log in (bare, bare.split("train"), other))
    assert own == part and fingerprint.changed(own, another, adapters.NUMBERS) == ["data"]
    folder = tmp_path / "sft"
    folder.mkdir()
    files.write_json(folder / "training.json", own)
    assert set(adapters.find(tmp_path, bare)) == {"llm-sft"} and not adapters.find(tmp_path, other)
    assert adapters.can_start(folder, bare, TINY) and not adapters.can_start(folder, other, TINY)


def test_an_adapter_of_other_code_is_trained_anew(small_log, tmp_path, monkeypatch):
    settings = dataclasses.replace(TINY, max_examples=4)
    first = train.post_train(small_log, tmp_path / "sft", settings)
    monkeypatch.setattr(adapters, "code", lambda _: "another")
    again = train.post_train(small_log, tmp_path / "sft", settings)
    assert again["code"] == "another" != first["code"]


def test_what_counts_as_code(tmp_path):
    def checksum(text: str) -> str:
        (tmp_path / "module.py").write_text(text)
        return fingerprint.code(types.SimpleNamespace(__file__=tmp_path / "module.py"))

    plain = checksum("def f(x):\n    return x + 1\n")
    assert checksum('"""A module."""\n\n\ndef f(x):\n    """Add."""\n    return (x + 1)  # one\n') == plain
    assert checksum("def f(x):\n    return x + 2\n") != plain


def test_adapters_of_another_log_or_other_code_are_left_out(small_log, trained, tmp_path, capsys):
    log, folder, _, _ = trained
    assert adapters.find(folder.parent, log) == {"llm-sft": folder}
    shutil.copytree(folder.parent, tmp_path / "adapters")
    own = json.loads((folder / "training.json").read_text())
    for change, said in (
        ({"data": {"impressions.parquet": {"sha256": "0"}}}, "trained on another log"),
        ({"code": "0"}, "trained by other code"),
    ):
        files.write_json(tmp_path / "adapters" / "sft" / "training.json", own | change)
        assert adapters.find(tmp_path / "adapters", log) == {}
        assert said in capsys.readouterr().out


def test_a_saved_adapter_reloads_to_scores_other_than_the_base_models(trained):
    log, folder, settings, _ = trained
    rows = log.take(np.arange(4))
    found = []
    for adapter in (folder, folder, None):
        language_model, tokenizer = model.load(settings.base, adapter, settings.dtype, max_tokens=settings.max_tokens)
        found.append(prompts.score(language_model, makers.reader_for(log, tokenizer, settings).read(rows)))
    np.testing.assert_array_equal(found[0], found[1])
    real = np.isfinite(found[0])
    # To this form, clauses are nearly alike with the tiny model, which says much the same of all.
    least = 0.01 * np.ptp(found[2][real]) if settings.prompt == "clause-topics" else 1e-4
    assert np.abs(found[0][real] - found[2][real]).max() > least


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_that_is_lost_in_saving_is_noticed(small_log, tmp_path, monkeypatch, dtype):
    load = train._load
    monkeypatch.setattr(train, "_load", lambda settings, adapter=None: load(settings))
    settings = dataclasses.replace(TINY, dtype=dtype, learning_rate=0.05)
    with pytest.raises(RuntimeError, match="the adapter read back scores differently"):
        train.post_train(small_log, tmp_path / "sft", settings)
    assert not (tmp_path / "sft" / "training.json").exists()


def test_a_training_that_diverged_is_an_error(small_log, tmp_path, monkeypatch):
    monkeypatch.setitem(objectives.OBJECTIVES, "sft", lambda d, h: d.of_shown(d.log_policy) * np.nan)
    with pytest.raises(RuntimeError, match="training diverged.*lower learning_rate"):
        train.post_train(small_log, tmp_path / "sft", dataclasses.replace(TINY, max_examples=4))
    assert not (tmp_path / "sft" / "training.json").exists()


def test_reasons_longer_than_an_answer_may_be_are_left_out(small_log, tmp_path):
    settings = dataclasses.replace(TINY, prompt="reasoned", method="sft-reasoning")
    _, tokenizer = model.load(embedded.TINY)
    reader, part = makers.reader_for(small_log, tokenizer, settings), data.plays(small_log, "train", 32, 0)
    examples = makers._examples(part, reader, 0)

    def taught(most: int) -> tuple:
        own = dataclasses.replace(settings, max_new_tokens=most)
        return makers._with_reasons(part, examples, reader, own, tmp_path / "reasons.jsonl", ask=True)

    everything, counts = taught(1000)
    lengths = [len(answer) for answer in everything.answers]
    assert counts["usable"] == len(lengths) and "longer than max_new_tokens" not in counts["faults"]
    limit = int(np.median(lengths))
    kept, counts = taught(limit)
    assert kept.answers == [answer for answer in everything.answers if len(answer) <= limit]
    assert counts["faults"]["longer than max_new_tokens"] == len(lengths) - len(kept.answers) > 0
    assert counts["usable"] == len(kept.prompts) == len(kept.orders) == len(kept.arrays)
    with pytest.raises(ValueError, match="gave no usable reason for 32 plays: .*longer than max_new_tokens"):
        taught(8)


def test_a_start_of_other_code_is_trained_anew(small_log, tmp_path, monkeypatch):
    settings = dataclasses.replace(TINY, max_examples=4, method="softmax-dpo")
    for code in ("earlier", "todays"):
        monkeypatch.setattr(adapters, "code", lambda _, code=code: code)
        train.post_train(small_log, tmp_path / "softmax-dpo", settings)
        assert files.read_json(tmp_path / "sft" / "training.json")["code"] == code


def test_an_exported_model_scores_as_its_adapter_does(trained, tmp_path, capsys):
    from artlib.__main__ import main

    log, folder, settings, _ = trained
    assert main(["export", str(folder), str(tmp_path / "merged")]) == 0
    rows = log.take(np.arange(4))
    found = []
    for name, adapter in ((settings.base, folder), (str(tmp_path / "merged"), None)):
        language_model, tokenizer = model.load(name, adapter, settings.dtype, max_tokens=settings.max_tokens)
        found.append(prompts.score(language_model, makers.reader_for(log, tokenizer, settings).read(rows)))
    np.testing.assert_allclose(found[0], found[1], atol=2e-3)
    assert main(["export", str(tmp_path), str(tmp_path / "no")]) == 2 and "training.json" in capsys.readouterr().err


def test_one_step_lowers_the_listwise_loss_on_its_own_batch(small_log):
    language_model, tokenizer = model.load(embedded.TINY, dtype="float32", max_tokens=8192)
    plays = data.plays(small_log, "train", 8, seed=0)
    settings = dataclasses.replace(TINY, prompt="caption")
    batch = prompts.collate(makers.reader_for(small_log, tokenizer, settings).read(plays))
    shown = torch.tensor(plays.arrays().shown)
    language_model = model.add_lora(language_model, 8)
    optimiser = torch.optim.SGD([p for p in language_model.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for _ in range(4):
        loss = torch.nn.functional.cross_entropy(caption.caption_scores(language_model, batch), shown)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[1] < losses[0] and losses[-1] < losses[0]


def test_only_the_last_layers_are_adapted_when_asked():
    adapted = model.add_lora(model.load(embedded.TINY)[0], 4, layers=1)
    names = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert names and all(".layers.1." in name for name in names)


REFINING = [name for name, method in METHODS.items() if method.refines == "sft" and not method.reads]
SCORED = ("genre-likelihood", "caption", "label")
# Every method with the default prompt (not awsft, which has the reward model of policy-gradient), and every prompt with
# a method; all others are slow. TRL's own, sft and dpo with letters, are trained by other tests, too.
QUICK = [
    ("genre-likelihood", "sft-logq"),
    *(("genre-likelihood", method) for method in REFINING),
    ("caption", "sft-ips"),
]
ALL = [(prompt, method) for prompt in SCORED for method in ("sft-ips", "sft-logq", "awsft", *REFINING)]
REFINED = [pair if pair in QUICK else pytest.param(*pair, marks=pytest.mark.slow) for pair in ALL]


@pytest.fixture(scope="module")
def refined(small_log, tmp_path_factory):
    """A trainer of any method and prompt whose sft is far from the base model; trained once each."""
    folder, done = tmp_path_factory.mktemp("refined"), {}

    def result(prompt: str, method: str) -> tuple:
        settings = dataclasses.replace(
            TINY,
            prompt=prompt,
            method="sft",
            learning_rate=0.02,
            micro_batch=4,
            max_examples=16,
            max_validation=4 if prompt == "label" else 16,  # a question takes a pass for each order of its options
            negative_weight=0.2,
            beta=1.0,
        )
        for name in ("sft", method):
            if (prompt, name) not in done:
                settings = dataclasses.replace(settings, method=name)
                done[prompt, name] = train.post_train(small_log, folder / prompt / name, settings)
        return settings, folder / prompt / method, done[prompt, method]

    return result


@pytest.mark.parametrize(("prompt", "method"), REFINED)
def test_every_method_trains_with_every_prompt(refined, prompt, method):
    from safetensors.numpy import load_file

    _, folder, training = refined(prompt, method)
    losses = [entry["loss"] for entry in training["curve"] if "loss" in entry]
    assert losses and np.isfinite(losses).all() and np.isfinite(training["temperature"])
    assert training["tokens_per_second"] > 0
    own, sft = (load_file(f / "adapter_model.safetensors") for f in (folder, folder.parent / "sft"))
    assert max(np.abs(own[name] - sft[name]).max() for name in own) > 1e-5
    assert (training["start"] is not None) == (method in REFINING)
    assert (training["order_sensitivity"] is not None) == (prompt == "label")
    assert (training["reward_model"] is not None) == METHODS[method].predicts_rewards


@pytest.mark.parametrize(
    ("prompt", "method"),
    [
        ("genre-likelihood", "dpo"),
        ("genre-likelihood", "softmax-dpo"),
        ("label", "dpo"),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in (("caption", "dpo"), ("label", "softmax-dpo"))),
    ],
)
def test_preferences_begin_at_indifference_since_the_reference_is_the_sft_adapter(
    small_log, refined, tmp_path, prompt, method
):
    """DPO at ln 2, softmax-DPO at ln K, whatever the adapter prefers."""
    from safetensors.torch import load_file, save_file

    settings, folder, _ = refined(prompt, "sft")
    folder = shutil.copytree(folder, tmp_path / "sft")
    weights = load_file(folder / "adapter_model.safetensors")  # an adapter far from the base model, which sft's is not
    torch.manual_seed(0)
    moved = {name: value + 8 * ("lora_B" in name) * torch.randn_like(value) for name, value in weights.items()}
    save_file(moved, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = dataclasses.replace(
        settings, method=method, beta=30.0, negative_weight=0.0, max_examples=8, batch_size=8, micro_batch=8
    )
    training = train.post_train(small_log, tmp_path / method, settings)
    first = next(entry["loss"] for entry in training["curve"] if "loss" in entry)
    rows = data.plays(small_log, "train", 8, settings.seed)
    indifferent = np.log(2) if method == "dpo" else np.log(rows.arrays().mask.sum(axis=1)).mean()
    assert first == pytest.approx(indifferent, abs=1e-3)
    # Against the base model it would not.
    moved = []
    for adapter in (None, folder):
        language_model, tokenizer = model.load(settings.base, adapter, settings.dtype, max_tokens=settings.max_tokens)
        moved.append(prompts.score(language_model, makers.reader_for(small_log, tokenizer, settings).read(rows)))
    arrays = rows.arrays()
    base, sft = (np.where(arrays.mask, scores, 0) for scores in moved)
    ratio = sft - base
    ahead = ratio[np.arange(8), arrays.shown][:, None] - ratio
    others = arrays.mask & (np.arange(arrays.mask.shape[1]) != arrays.shown[:, None])
    assert abs(np.log1p(np.exp(-settings.beta * ahead[others])).mean() - np.log(2)) > 0.01


SCRIPT = """
import sys
from artlib.data import Log
from artlib.posttrain.settings import Settings
from artlib.posttrain.train import post_train
post_train(Log.load(sys.argv[1]), sys.argv[2], Settings(**{settings}))
"""


# One a trainer; the others go on as these do.
KILLED = [("genre-likelihood", "sft", 1), ("label", "sft", 2)]
KILLED_SLOWLY = [
    ("genre-likelihood", "counterfactual", 3),
    ("caption", "sft", 2),
    ("label", "sft-ips", 2),
    ("label", "dpo", 2),
    ("reasoned", "sft-reasoning", 2),
    ("reasoned", "grpo", 1),
    ("reasoned", "distil", 2),
]


@pytest.mark.parametrize(
    ("prompt", "method", "kill_at"), [*KILLED, *(pytest.param(*case, marks=pytest.mark.slow) for case in KILLED_SLOWLY)]
)
def test_killed_training_goes_on_to_the_adapter_of_an_uninterrupted_one(small_log, tmp_path, prompt, method, kill_at):
    from safetensors.numpy import load_file

    small_log.save(tmp_path / "log")
    # TRL takes a step for four pairs, of which a play has several, and for as many groups of answers.
    examples = 16 if method == "grpo" else 32 if prompt == "label" or method == "dpo" else 64
    longest = 700 if method == "distil" else 400  # tokens of the tiny model are bytes
    sizes = {"max_examples": examples, "micro_batch": 2, "batch_size": 4, "samples": 1, "max_new_tokens": longest}
    if prompt == "label":
        sizes["max_validation"] = 4
    settings = dataclasses.asdict(dataclasses.replace(TINY, prompt=prompt, method=method, **sizes))
    arguments = [sys.executable, "-c", SCRIPT.replace("{settings}", repr(settings)), tmp_path / "log"]
    process = subprocess.Popen([*arguments, tmp_path / "killed" / method], stderr=subprocess.DEVNULL)
    deadline = time.time() + 180
    while time.time() < deadline and process.poll() is None:
        last = adapters.last_checkpoint(tmp_path / "killed" / method / "checkpoints")
        if last and int(last.rpartition("-")[2]) >= kill_at:
            break
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / method / "training.json").exists()
    subprocess.run([*arguments, tmp_path / "killed" / method], check=True, stderr=subprocess.DEVNULL)
    train.post_train(Log.load(tmp_path / "log"), tmp_path / "whole" / method, Settings(**settings))
    assert json.loads((tmp_path / "killed" / method / "training.json").read_text())["resumed"]
    curves = [
        [
            entry
            for entry in json.loads((tmp_path / name / method / "training.json").read_text())["curve"]
            if "eval_loss" in entry
        ]
        for name in ("killed", "whole")
    ]
    steps = [entry["step"] for entry in curves[0]]
    assert steps[0] == 0 and steps == [entry["step"] for entry in curves[1]]
    assert curves[0][0]["eval_loss"] == pytest.approx(curves[1][0]["eval_loss"], abs=1e-4)
    killed, whole = (load_file(tmp_path / name / method / "adapter_model.safetensors") for name in ("killed", "whole"))
    for name in whole:
        np.testing.assert_allclose(killed[name], whole[name], atol=1e-6)


@pytest.mark.parametrize("choose", [data.plays, data.impressions])
def test_a_split_without_plays_is_an_error(small_log, choose):
    ignored = small_log.take(np.flatnonzero(small_log.arrays().reward == 0))
    with pytest.raises(ValueError, match="the train split has no impression with a reward above 0"):
        choose(ignored, "train", 10, 0)


def test_an_answer_is_worth_the_propensity_weighted_play_if_it_names_what_was_shown(small_log):
    part = data.plays(small_log, "train", 8, seed=0)
    arrays, rng = part.arrays(), np.random.default_rng(0)
    orders = [rng.permutation(n) for n in arrays.mask.sum(axis=1)]
    examples = makers.Examples([], arrays, orders=orders)
    settings = dataclasses.replace(TINY, method="grpo", prompt="reasoned", clip=1.5)
    worth = []
    for row, order in enumerate(orders):
        found = [trl.answer_reward(f"So.\nAnswer: {letter}", examples, row, settings) for letter in "ABCDEFGHIJ"]
        weight = min(1 / (len(order) * arrays.propensity[row]), 1.5)
        assert found == [
            arrays.reward[row] * weight * (k < len(order) and order[k] == arrays.shown[row]) for k in range(10)
        ]
        assert trl.answer_reward("It is A, or so.", examples, row, settings) == 0
        worth.append(max(found))
    assert min(worth) < 1.5 == max(worth)


@pytest.mark.slow
def test_grpo_keeps_the_logged_answer_in_every_group_and_goes_on_from_sft_reasoning(small_log, tmp_path, monkeypatch):
    from safetensors.numpy import load_file

    settings = dataclasses.replace(
        TINY,
        method="grpo",
        prompt="reasoned",
        samples=3,
        max_examples=8,
        max_validation=4,
        max_new_tokens=400,
        batch_size=4,
    )
    groups, reward = [], trl.answer_reward

    def seen(answer: str, examples, row: int, *arguments) -> float:
        groups.append((len(examples.prompts), row, reward(answer, examples, row, *arguments)))
        return groups[-1][-1]

    monkeypatch.setattr(trl, "answer_reward", seen)
    training = train.post_train(small_log, tmp_path / "grpo", settings)
    n = training["examples"]
    assert n != 4  # by their number training examples are told from those of validation
    learnt = [entry[1:] for entry in groups if entry[0] == n]
    assert len(learnt) == 3 * n and {row for row, _ in learnt} == set(range(n))
    for first in range(0, 3 * n, 3):
        group = learnt[first : first + 3]
        assert len({row for row, _ in group}) == 1 and group[-1][1] > 0
    assert sum(value == 0 for _, value in learnt) >= n, "what a model without any knowledge writes is worth nothing"
    validated = [value for size, _, value in groups if size != n]
    assert len(validated) == 2 * 4, "one answer a question before and after, and none that was logged"
    assert [entry["eval_loss"] for entry in training["curve"] if "eval_loss" in entry] == pytest.approx(
        [-np.mean(validated[:4]), -np.mean(validated[4:])]
    )
    losses = [entry["loss"] for entry in training["curve"] if "loss" in entry]
    assert losses and np.isfinite(losses).all() and 0 <= training["valid_answers"] <= 1
    assert training["tokens_per_second"] > 0
    own, begun = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("grpo", "sft-reasoning"))
    assert own.keys() == begun.keys() and max(np.abs(own[name] - begun[name]).max() for name in own) > 1e-5
    assert training["start"] == files.sha256(tmp_path / "sft-reasoning" / "adapter_model.safetensors")


def test_a_reasoned_answer_that_would_be_cut_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="a question with its answer has 11 tokens, more than max_tokens = 10"):
        trl._sft_trainer(None, None, [([1] * 5, [2] * 6)], [], tmp_path, dataclasses.replace(TINY, max_tokens=10))


def test_a_half_written_checkpoint_is_passed_over(tmp_path):
    for step in (5, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
    files.write_json(tmp_path / "checkpoint-5" / "trainer_state.json", {"global_step": 5})
    (tmp_path / "checkpoint-10" / "trainer_state.json").write_text('{"global_st')
    assert adapters.last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-5")


def test_temperature_is_the_one_that_makes_choices_most_likely():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(20_000, 4))
    p = calibration.probabilities(scores, 0.5)
    chosen = (p.cumsum(axis=1) < rng.random((len(p), 1))).sum(axis=1)
    assert calibration.fit_temperature(scores, chosen) == pytest.approx(0.5, rel=0.05)
    assert calibration.fit_temperature(7 * scores, chosen) == pytest.approx(3.5, rel=0.05)


def test_settings_refuse_what_is_unknown():
    with pytest.raises(ValueError, match="method 'dpoo' is not one of sft, sft-ips, sft-logq, awsft, soft, dpo"):
        Settings(method="dpoo")
    with pytest.raises(ValueError, match="batch_size 6 is not a multiple of micro_batch 4"):
        Settings(batch_size=6, micro_batch=4)
    with pytest.raises(ValueError, match="epochs 0 is out of range: it must be at least 1"):
        Settings(epochs=0)
    with pytest.raises(ValueError, match="method=sft-reasoning or grpo or distil and prompt=reasoned go together"):
        Settings(prompt="reasoned")


def test_soft_targets_are_weighed_as_they_are_given_whatever_was_played(small_log, tmp_path):
    """The loss of the first step is that of the bare model's scores, over ignored impressions, too."""

    def made(part: Log) -> np.ndarray:
        mask = part.arrays().mask
        return np.random.default_rng(0).random(mask.shape) * mask

    settings = dataclasses.replace(TINY, method="soft", prompt="caption", temperature=8.0, max_examples=8)
    training = train.post_train(small_log, tmp_path / "soft", settings, made)
    rows = data.impressions(small_log, "train", 8, settings.seed)
    assert training["examples"] == 8 and (rows.arrays().reward == 0).any()
    language_model, tokenizer = model.load(settings.base, None, settings.dtype, max_tokens=settings.max_tokens)
    bare = prompts.score(language_model, makers.reader_for(small_log, tokenizer, settings).read(rows))
    log_p = np.log(np.maximum(calibration.probabilities(bare, 8.0), 1e-38))
    first = next(entry["loss"] for entry in training["curve"] if "loss" in entry)
    assert first == pytest.approx(-(made(rows) * log_p).sum(axis=1).mean(), abs=1e-3)
    assert train.post_train(small_log, tmp_path / "soft", settings, made) == training
    assert adapters.question(small_log, settings, None, made(rows) / 2)["targets"] != training["targets"]


@pytest.mark.parametrize(
    ("method", "targets", "message"),
    [
        ("soft", None, "method soft needs targets"),
        ("sft", lambda part: part.arrays().production, "method sft takes no targets"),
        ("soft", lambda part: np.ones((2, 2)), r"shape \(2, 2\): the impressions and their candidates are"),
        ("soft", lambda part: np.where(part.arrays().mask, -1.0, 0), r"targets\[0, 0\] is -1.0"),
        ("soft", lambda part: np.full(part.arrays().mask.shape, np.nan), r"targets\[0, 0\] is nan"),
    ],
)
def test_targets_that_cannot_be_learnt_are_refused_before_anything_is_loaded(
    small_log, tmp_path, method, targets, message
):
    settings = dataclasses.replace(TINY, method=method, base="not there")
    with pytest.raises(ValueError, match=message):
        train.post_train(small_log, tmp_path / method, settings, targets)


def test_every_method_has_its_objective():
    assert set(METHODS) == {*objectives.OBJECTIVES, "sft-reasoning", "grpo", "distil"}


def test_an_adapters_frame_is_kept_through_training_resumption_and_scoring(small_log, tmp_path, monkeypatch):
    """However the chat template changes meanwhile; what refines sft and the zero-shot answers have the same frame."""
    frames = []
    read = Reader.__init__

    def reading(self, *arguments, **named):
        read(self, *arguments, **named)
        frames.append(self.frame)

    monkeypatch.setattr(Reader, "__init__", reading)
    monkeypatch.setattr(text, "chat_frame", lambda _: ("Monday: ", "\n"))
    settings = dataclasses.replace(TINY, max_examples=4, max_validation=4)
    folder, trainer = tmp_path / "adapters" / "sft", train._trainer

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "_trainer", killed)
    with pytest.raises(KeyboardInterrupt):
        train.post_train(small_log, folder, settings)
    monkeypatch.setattr(train, "_trainer", trainer)
    monkeypatch.setattr(text, "chat_frame", lambda _: ("Tuesday: ", "\n"))
    assert train.post_train(small_log, folder, settings)["frame"] == ["Monday: ", "\n"]
    refined = dataclasses.replace(settings, method="softmax-dpo")
    assert train.post_train(small_log, folder.parent / "softmax-dpo", refined)["frame"] == ["Monday: ", "\n"]
    assert adapters.frame_of(folder) == ["Monday: ", "\n"]
    trained = adapters.find(folder.parent, small_log)
    answers.ask(small_log, tmp_path / "policies", settings, trained, most=4, encoder="tiny", report=lambda _: None)
    assert len(frames) >= 6 and set(frames) == {("Monday: ", "\n")}
    # Settings of no adapter: today's.
    other = dataclasses.replace(settings, n_genres=2)
    answers.ask(small_log, tmp_path / "others", other, {}, most=4, encoder="tiny", report=lambda _: None)
    assert frames[-1] == ("Tuesday: ", "\n")


def test_a_folder_with_other_peoples_files_is_not_wiped(small_log, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("precious")
    with pytest.raises(adapters.AdapterError, match="holds other files than an adapter's, which would be lost"):
        train.post_train(small_log, tmp_path / "mine", TINY)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "precious"


DISTIL = dataclasses.replace(
    TINY,
    prompt="reasoned",
    method="distil",
    n_genres=2,
    max_examples=8,
    max_validation=4,
    samples=1,
    max_new_tokens=600,
    batch_size=2,
    micro_batch=2,
)


def test_a_reader_is_distilled_from_the_adapter_beside_it(small_log, tmp_path, monkeypatch):
    from safetensors.torch import load_file, save_file

    train.post_train(small_log, tmp_path / "sft", dataclasses.replace(DISTIL.start, max_examples=8, n_genres=1))
    start = tmp_path / "sft" / "adapter_model.safetensors"
    torch.manual_seed(0)  # an adapter far from the base model, which sft's is not
    moved = {name: value + ("lora_B" in name) * torch.randn_like(value) for name, value in load_file(start).items()}
    save_file(moved, start, metadata={"format": "pt"})
    read, read_out = [], makers.read_out

    def reading(log, language_model, *others):
        posters = prompts.reader(log, others[0], max_tokens=8192).read(data.plays(log, "train", 4, 0))
        read.append(prompts.score(language_model, posters))
        read.append(prompts.score(model.load(embedded.TINY, tmp_path / "sft", "float32", max_tokens=8192)[0], posters))
        read.append(prompts.score(model.load(embedded.TINY, None, "float32", max_tokens=8192)[0], posters))
        return read_out(log, language_model, *others)

    monkeypatch.setattr(makers, "read_out", reading)
    before = (tmp_path / "sft" / "training.json").stat().st_mtime_ns
    training = train.post_train(small_log, tmp_path / "distil", dataclasses.replace(DISTIL, max_examples=12))
    assert (tmp_path / "sft" / "training.json").stat().st_mtime_ns == before, "n_genres and plays of its own: no matter"
    np.testing.assert_allclose(read[0], read[1], atol=1e-4)
    assert np.nanmax(np.abs(np.where(np.isfinite(read[0]), read[0] - read[2], 0))) > 0.01
    assert training["start"] == files.sha256(start) and training["examples"] == 12
    assert training["teacher"] is None and 0 <= training["valid_answers"] <= 1
    assert training["zero_shot_temperature"] is None, "what suits another form's scores"
    losses = [entry["eval_loss"] for entry in training["curve"] if "eval_loss" in entry]
    assert losses[-1] < losses[0]
    own = load_file(tmp_path / "distil" / "adapter_model.safetensors")
    assert own.keys() == moved.keys() and 1e-5 < max(float((own[name] - moved[name]).abs().max()) for name in own) < 0.1


def test_a_reader_to_distil_is_trained_where_there_is_none(small_log, tmp_path):
    train._start(small_log, tmp_path / "distil", DISTIL)
    start = adapters.settings_of(tmp_path / "sft")
    assert start == DISTIL.start and (start.prompt, start.method, start.n_genres) == ("genre-likelihood", "sft", 3)
    assert (start.max_examples, start.max_validation, start.learning_rate) == (8, 4, Settings().learning_rate)


def test_a_log_without_genres_is_not_distilled(small_log, tmp_path):
    titles = small_log.titles
    none = pa.array([[]] * len(titles), titles.schema.field("genres").type)
    bare = dataclasses.replace(
        small_log, titles=titles.set_column(titles.schema.get_field_index("genres"), "genres", none)
    )
    with pytest.raises(ValueError, match="method=distil writes of genres, and the log's titles have none"):
        train.post_train(bare, tmp_path / "distil", dataclasses.replace(DISTIL, base="not there"))


def test_what_is_distilled_is_the_readers_reading_and_its_choice_of_what_the_viewer_loves(small_log, monkeypatch):
    language_model, tokenizer = model.load(embedded.TINY)
    reader = makers.reader_for(small_log, tokenizer, DISTIL)
    train_part, validation, _ = makers.make(small_log, reader, DISTIL, None, True)
    names, captions = small_log.history.genres, small_log.artworks["caption"].to_pylist()
    rng = np.random.default_rng(0)

    def read(language_model, posters):
        shape = len(posters), max(len(prompt.posters) for prompt in posters)
        seen.append((rng.integers(0, len(names), shape), rng.normal(size=shape)))
        return seen[-1]

    seen: list = []
    monkeypatch.setattr(genre_likelihood.FORM, "genres_and_scores", read)
    found = makers.read_out(small_log, language_model, tokenizer, reader, train_part, validation, DISTIL)
    parts = makers.learnt_from(small_log, DISTIL), data.plays(small_log, "validation", 4, DISTIL.seed)
    chosen_for_love = 0
    for part, examples, (about, scores) in zip(parts, found, seen, strict=True):
        profile = small_log.history.genre_profile(part.impressions)
        for i, (order, answer) in enumerate(zip(examples.orders, examples.answers, strict=True)):
            *lines, viewer, last = tokenizer.decode(answer, skip_special_tokens=True).split("\n")
            loved = [g for g in np.argsort(-profile[i], kind="stable")[:2] if profile[i, g] > 0]
            worth = [(profile[i, g] if g in loved else 0, score) for g, score in zip(about[i], scores[i], strict=True)]
            best = max(range(len(order)), key=lambda k, worth=worth: worth[k])
            chosen_for_love += worth[best][0] > 0
            letter = "ABCDEFGHIJ"[list(order).index(best)]
            assert last == f"Answer: {letter}" and answer[-1] == tokenizer.eos_token_id
            assert viewer.endswith(f", and plays {names[about[i, best]]} ({letter}).")
            assert all(names[g] in viewer for g in loved)
            for letter, k, line in zip("ABCDEFGHIJ", order, lines, strict=False):
                quoted, _, rest = line.removeprefix(f"{letter}. ").partition(": ")
                assert rest == f"{names[about[i, k]]} ({letter})"
                assert captions[examples.arrays.candidates[i, k]].startswith(quoted) and len(quoted.split()) == 6
    assert 0 < chosen_for_love < 12
    short = dataclasses.replace(DISTIL, max_new_tokens=20)
    with pytest.raises(ValueError, match="a reading of . candidates has .* more than max_new_tokens = 20; raise max_"):
        makers.read_out(small_log, language_model, tokenizer, reader, train_part, validation, short)


def test_members_of_whom_a_question_names_no_genre_are_left_out_of_what_is_distilled(small_log, monkeypatch):
    language_model, tokenizer = model.load(embedded.TINY)
    reader = makers.reader_for(small_log, tokenizer, DISTIL)
    train_part, validation, _ = makers.make(small_log, reader, DISTIL, None, True)
    profile, seen = type(small_log.history).genre_profile, []

    def some(history, impressions):
        found = profile(history, impressions)
        found[::2] = 0  # as of members without a history
        seen.append(found)
        return found

    monkeypatch.setattr(type(small_log.history), "genre_profile", some)
    found = makers.read_out(small_log, language_model, tokenizer, reader, train_part, validation, DISTIL)
    for examples, before in zip(found, (train_part, validation), strict=True):
        assert examples.prompts == before.prompts[1::2] and len(examples.answers) == len(examples.arrays)
        np.testing.assert_array_equal(examples.arrays.shown, before.arrays.shown[1::2])
        assert all((a == b).all() for a, b in zip(examples.orders, before.orders[1::2], strict=True))
    monkeypatch.setattr(type(small_log.history), "genre_profile", lambda *_: np.zeros_like(seen[0]))
    with pytest.raises(ValueError, match="no question names a genre that the member watches"):
        makers.read_out(small_log, language_model, tokenizer, reader, train_part, validation, DISTIL)
