"""Base models and adapters, loaded through Unsloth on CPU and GPU alike."""

import os
from pathlib import Path
from typing import Any

from artlib.lm import machine
from artlib.lm.embedded import EMBEDDED, locate
from artlib.lm.unsloth import ModelError, import_unsloth, quiet

LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def load(
    name: str = EMBEDDED,
    adapter: str | os.PathLike | None = None,
    dtype: str = "auto",
    load_in_4bit: bool = False,
    max_tokens: int = 2048,
):
    """Load a causal LM and its tokenizer.

    Args:
        name: `EMBEDDED`, `TINY`, a local folder, or a hub id. Safetensors only; no code from the model is run.
        adapter: folder of a PEFT adapter to put on top.
        dtype: of `machine.TYPES`: "auto" for the faster one here, "bfloat16" or "float32".
        load_in_4bit: quantise the base weights (GPU with bitsandbytes only).
        max_tokens: the longest prompt.

    Returns:
        (model, tokenizer). The model is in evaluation mode, its weights frozen.

    Raises:
        ModelError: it cannot be had, or not with so long prompts; the message says what to do.
    """
    unsloth = import_unsloth()
    import torch

    require_adapter(adapter)
    path, dtype = locate(name), machine.resolve(dtype)
    try:
        with quiet():
            from transformers import AutoConfig

            _require_context(name, AutoConfig.from_pretrained(path, trust_remote_code=False), max_tokens)
            model, tokenizer = unsloth.FastLanguageModel.from_pretrained(
                path,
                max_seq_length=max_tokens,
                dtype=getattr(torch, dtype),
                load_in_4bit=load_in_4bit,
                use_safetensors=True,
                trust_remote_code=False,
            )
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"model {name!r} cannot be loaded from {path} ({type(error).__name__}: {error}); give {EMBEDDED!r}, "
            "a folder with config.json and safetensors, or, with internet, a hub id"
        ) from error
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter))
    model.requires_grad_(False)
    if tokenizer.eos_token is None:
        raise ModelError(
            f"the tokenizer of model {name!r} names no token that ends an answer; give eos_token in its "
            "tokenizer_config.json"
        )
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token  # any would do: it is never read
    tokenizer.clean_up_tokenization_spaces = False  # true would take spaces before punctuation out of what is shown
    return model.eval(), tokenizer


def _require_context(name: str, config, max_tokens: int) -> None:
    """Unsloth would stretch the positions of a model to `max_tokens`, which makes it another model."""
    most = getattr(config.get_text_config(), "max_position_embeddings", None)
    if most and most < max_tokens:
        raise ModelError(
            f"model {name!r} reads {most} tokens at most, fewer than max_tokens = {max_tokens}; set max_tokens={most}, "
            "or use another base"
        )


def require_adaptable(model) -> None:
    """Raise a ModelError if none of the layers that get adapters is in the model, before anything is trained."""
    if not any(name.rpartition(".")[2] in LORA_TARGETS for name, _ in model.named_modules()):
        raise ModelError(
            f"{type(model).__name__} has none of the layers that get adapters ({', '.join(LORA_TARGETS)}), so that it "
            "cannot be trained; use another base, such as a Llama, Qwen, Mistral, or Gemma"
        )


def require_adapter(adapter: str | os.PathLike | None) -> None:
    """Raise a ModelError if a folder is given that holds no adapter."""
    if adapter is not None and not (Path(adapter) / "adapter_model.safetensors").is_file():
        raise ModelError(f"{adapter} holds no adapter_model.safetensors; train it first (02_train_lora)")


def add_lora(model, rank: int = 16, layers: int = 0, seed: int = 0):
    """Wrap the model with fresh LoRA adapters on all linear layers (B = 0: the scores stay what they were).

    Args:
        rank: of the update; its scale alpha / rank is 2.
        layers: adapt only the last so many layers, so that the backward pass stops there; 0 for all.
    """
    depth = model.config.num_hidden_layers
    adapted = list(range(depth - min(layers or depth, depth), depth))
    with quiet():
        return import_unsloth().FastLanguageModel.get_peft_model(
            model,
            r=rank,
            lora_alpha=2 * rank,
            lora_dropout=0,
            bias="none",
            target_modules=LORA_TARGETS,
            layers_to_transform=adapted,
            use_gradient_checkpointing=False,
            random_state=seed,
        )


def set_lora(model, adapter: str | os.PathLike) -> None:
    """Give a model's fresh adapters the weights of a saved adapter of the same rank and layers, to go on from them."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    result: Any = set_peft_model_state_dict(model, load_file(Path(adapter) / "adapter_model.safetensors"))
    missing = [name for name in result.missing_keys if "lora_" in name and ".default." in name]
    if missing or result.unexpected_keys:
        odd = (missing + list(result.unexpected_keys))[0]
        raise ModelError(f"{adapter} is an adapter of another shape: {odd}; use its rank and layers")
