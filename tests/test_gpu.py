"""What may differ on a GPU: kernels, masks, 16 bits. `python -m pytest -m gpu` on a machine with a CUDA device."""

import numpy as np
import pytest

from artlib.lm import embedded, model, prompts
from artlib.posttrain import train
from artlib.posttrain.settings import Settings

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", autouse=True)
def cuda():
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@pytest.mark.parametrize("method", ["genre-likelihood", "caption", "label"])
def test_batches_score_as_single_impressions_do(small_log, method):
    """A tree's mask must hold in the kernels of the GPU: neighbours in a batch or a tree must not leak."""
    language_model, tokenizer = model.load(embedded.EMBEDDED)
    rows = prompts.reader(small_log, tokenizer, method).read(small_log.take(np.arange(12)))
    together = prompts.score(language_model, rows, batch_tokens=8192)
    alone = [prompts.score(language_model, [row])[0] for row in rows]
    for many, one in zip(together, alone, strict=True):
        real = np.isfinite(one)
        np.testing.assert_allclose(many[: len(one)][real], one[real], atol=0.3)  # nats, in 16 bits


@pytest.mark.parametrize("method", ["genre-likelihood", "caption", "label"])
def test_the_gpu_scores_as_the_cpu_does(small_log, method):
    language_model, tokenizer = model.load(embedded.TINY, dtype="float32", max_tokens=8192)
    rows = prompts.reader(small_log, tokenizer, method, max_tokens=8192).read(small_log.take(np.arange(12)))
    found = prompts.score(language_model, rows)
    expected = prompts.score(language_model.to("cpu"), rows)
    np.testing.assert_allclose(found, expected, atol=5e-2)  # TF32


@pytest.mark.parametrize("prompt", ["genre-likelihood", "label"])
def test_training_lowers_the_loss_and_its_adapter_reads_back(small_log, tmp_path, prompt):
    settings = Settings(
        prompt=prompt, max_examples=64, max_validation=32, epochs=4, batch_size=4, micro_batch=2, learning_rate=1e-3
    )
    training = train.post_train(small_log, tmp_path / "sft", settings)
    losses = [entry["loss"] for entry in training["curve"] if "loss" in entry]
    assert losses[-1] < losses[0]
    again = train.post_train(small_log, tmp_path / "again" / "sft", settings)
    difference = np.subtract([entry["loss"] for entry in again["curve"] if "loss" in entry], losses)
    assert np.abs(difference).max() < 0.05  # kernels of a GPU add up in no fixed order
