"""A vision-language model on this machine: a tiny Llava with random weights, whose processor needs no torchvision."""

import json
import sys
from pathlib import Path

import pytest
from made_models import made_tokenizer
from made_pictures import answer, captions, pictured_log
from PIL import Image

from artlib.captions import fill, local, schema
from artlib.lm.unsloth import ModelError, import_unsloth, quiet

TEMPLATE = (
    "{% for message in messages %}<|user|>{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "<|assistant|>"
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """The folder of a saved model and its processor."""
    import_unsloth()
    import torch
    from transformers import AutoModelForImageTextToText, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    folder = tmp_path_factory.mktemp("llava")
    torch.manual_seed(0)
    tokenizer = made_tokenizer("bytes")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = LlamaConfig(**sizes, vocab_size=len(tokenizer), max_position_embeddings=4096, pad_token_id=0, eos_token_id=2)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**sizes, image_size=28, patch_size=14, projection_dim=32),
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    with quiet():
        AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
        processor.save_pretrained(folder)
    assert "torchvision" not in sys.modules
    return folder


def test_a_models_nonsense_is_counted_and_the_log_stays_as_it_was(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(schema, "most_tokens", lambda words: 12)
    folder = pictured_log(tmp_path / "log", 2)
    work = fill.fill(folder, fill.captioner(str(tiny), "", 8))
    assert sum(work.faults.values()) == 2 and set(work.faults) <= {"no JSON object", "cut off"}
    assert captions(folder) == [None, None] and set(work.refused) == {"a0", "a1"}
    _, prompt, completion = fill.total(work.outcomes.values())
    assert 0 < completion <= 2 * 3 * 12 and prompt > 6 * 500  # letters, in this tokenizer


def test_a_models_answer_becomes_the_caption_of_its_picture(tiny, tmp_path, monkeypatch):
    folder = pictured_log(tmp_path / "log", 4)
    asked, shown = local.Local(str(tiny), "float32"), []
    with asked:
        model, tokenizer = asked._model, asked._processor.tokenizer

    def generate(input_ids, pixel_values, **options):
        """The right answer for how bright the picture is, which the processor has normalised."""
        import torch

        shown.append(pixel_values.mean().item())
        order = len(shown) - 1
        ids = tokenizer(json.dumps(answer(order)), add_special_tokens=False)["input_ids"]
        return torch.cat([input_ids, torch.tensor([[*ids, tokenizer.eos_token_id]])], dim=1)

    monkeypatch.setattr(model, "generate", generate)
    work = fill.fill(folder, asked)
    assert captions(folder) == [f"Scene of picture {i}. Mood: calm." for i in range(4)]
    assert shown == sorted(shown) and len(set(shown)) == 4  # pictures get brighter by their number
    assert work.faults == {} and all(found.completion_tokens > 50 for found in work.outcomes.values())


def test_a_model_is_shown_the_picture(tiny):
    with local.Local(str(tiny), "float32") as asked:
        pictures = [Image.new("RGB", (40, 60), colour) for colour in ("black", "white", "black")]
        said = [asked.answer(picture, "What is this?", 16) for picture in pictures]
    assert said[0] == said[2] and said[0].text != said[1].text
    assert all(one.completion_tokens <= 16 and one.cut == (one.completion_tokens == 16) for one in said)


def test_a_model_without_eyes_is_refused_before_anything_is_asked(tmp_path, capsys):
    from artlib.lm.embedded import TINY

    folder = pictured_log(tmp_path / "log", 2)
    with pytest.raises(ModelError, match="captioner 'tiny' cannot be loaded .* give a vision-language model"):
        fill.fill(folder, fill.captioner(TINY, "", 1))
    assert captions(folder) == [None, None]
