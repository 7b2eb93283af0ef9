"""Answers that a model writes, by transformers or vLLM."""

import contextlib
import functools
import gc
import importlib.util
import json
import math
import os
from pathlib import Path

from artlib.lm import machine
from artlib.lm.embedded import locate
from artlib.lm.model import load, require_adapter
from artlib.lm.unsloth import import_unsloth, quiet


def generate(model, tokenizer, prompts: list[list[int]], max_new_tokens: int, temperature: float = 0.0) -> list[str]:
    """Continue a batch of prompts and return the new text of each, without special tokens; see `sample`."""
    found = sample(model, tokenizer, prompts, max_new_tokens, temperature)
    return tokenizer.batch_decode(found, skip_special_tokens=True)


def sample(
    model, tokenizer, prompts: list[list[int]], max_new_tokens: int, temperature: float = 0.0
) -> list[list[int]]:
    """Continue a batch of prompts and return the new token ids of each, with the one that ends it, if it came to that.

    Args:
        prompts: token ids; padded on the left.
        temperature: 0 for the likeliest token each time; else sampled, from torch's global random state.
    """
    import torch

    width = max(map(len, prompts))
    device = next(model.parameters()).device
    ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(row)) + row for row in prompts], device=device)
    real = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts], device=device)
    # All tokens at their own probabilities, whatever the model's generation_config prefers.
    drawn = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    sampling = {"repetition_penalty": 1.0} | (drawn if temperature else {"do_sample": False})
    with torch.inference_mode(), quiet():
        found = model.generate(
            input_ids=ids,
            attention_mask=real,
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
            **sampling,
        )
    return [_whole(row, {tokenizer.eos_token_id, tokenizer.pad_token_id}) for row in found[:, width:].tolist()]


def _whole(ids: list[int], ends: set[int]) -> list[int]:
    """Token ids up to the first that ends an answer."""
    last = next((place for place, token in enumerate(ids) if token in ends), len(ids))
    return ids[: last + 1]


@contextlib.contextmanager
def writer(
    name: str,
    adapter: str | os.PathLike | None = None,
    dtype: str = "auto",
    load_in_4bit: bool = False,
    max_tokens: int = 2048,
    max_new_tokens: int = 96,
    seed: int = 0,
):
    """Who writes a model's answers: vLLM, where it is installed and the model is not quantised; else transformers.

    Args:
        name, adapter, dtype, load_in_4bit, max_tokens: as for `load`.
        max_new_tokens: of the longest answer.
        seed: of vLLM's sampling; transformers samples from torch's global random state.

    Yields:
        (tokenizer, write, batch): write(prompts, max_new_tokens, temperature) as `generate` does, best given so many
        prompts at once. vLLM's memory is given back afterwards.
    """
    if load_in_4bit or not has_vllm():
        model, tokenizer = load(name, adapter, dtype, load_in_4bit, max_tokens)
        yield tokenizer, functools.partial(generate, model, tokenizer), 32
        return
    require_adapter(adapter)
    engine = _vllm_engine(locate(name), adapter, machine.resolve(dtype), max_tokens + max_new_tokens, seed)
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    tokenizer = engine.get_tokenizer()
    tokenizer.clean_up_tokenization_spaces = False
    lora = None if adapter is None else LoRARequest("adapter", 1, str(adapter))

    def write(prompts: list[list[int]], max_new_tokens: int, temperature: float = 0.0) -> list[str]:
        # Without a seed of their own, which the CPU build cannot take: the engine's does.
        sampling = SamplingParams(temperature=temperature, max_tokens=max_new_tokens)
        asked = [{"prompt_token_ids": ids} for ids in prompts]
        return [found.outputs[0].text for found in engine.generate(asked, sampling, use_tqdm=False, lora_request=lora)]

    try:
        yield tokenizer, write, 1024
    finally:
        engine.llm_engine.engine_core.shutdown()


def has_vllm() -> bool:
    """Whether vLLM is installed, in a build for this machine."""
    if importlib.util.find_spec("vllm") is None:
        return False
    import_unsloth()  # vLLM imports transformers
    with quiet():
        from vllm.platforms import current_platform
    return not current_platform.is_unspecified()


def _vllm_engine(path: str, adapter: str | os.PathLike | None, dtype: str, max_tokens: int, seed: int):
    """A vLLM engine in what the GPU has free, without one in half of the free memory, for at most so many tokens of
    prompt and answer together."""
    import torch

    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    options = {}
    if adapter is not None:
        rank = json.loads((Path(adapter) / "adapter_config.json").read_text())["r"]
        options = {"enable_lora": True, "max_lora_rank": max(8, 2 ** math.ceil(math.log2(rank)))}
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info()
        options["gpu_memory_utilization"] = 0.9 * free / total
    else:  # its CPU build goes by the same name for the machine's memory, and asks for nearly all of it
        import psutil

        memory = psutil.virtual_memory()
        options["gpu_memory_utilization"] = 0.5 * memory.available / memory.total
    with quiet():
        import vllm

        return vllm.LLM(model=path, dtype=dtype, max_model_len=max_tokens, seed=seed, enforce_eager=True, **options)
