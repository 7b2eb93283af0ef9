"""A captioner on this machine: a vision-language model through transformers, or through Unsloth on a CUDA GPU."""

from typing import TYPE_CHECKING, Any

from artlib.lm import machine
from artlib.lm.embedded import locate
from artlib.lm.endpoint import Answer
from artlib.lm.unsloth import ModelError, import_unsloth, quiet

if TYPE_CHECKING:
    from PIL.Image import Image


class Local:
    """Any model of transformers' image-text-to-text, one picture at a time.

    On a CUDA GPU Unsloth's FastVisionModel loads it, which nobody has tried here yet. Nothing but the prompt holds it
    to the schema. Processors that take videos too (Qwen2-VL, SmolVLM) need torchvision; others (Llava) do not.

    Args:
        name: a folder or a hub id. Safetensors only; no code from the model is run.
        dtype: see `machine.TYPES`.
    """

    workers = 1

    def __init__(self, name: str, dtype: str = "auto"):
        self.model = self.name = name
        self._dtype = dtype
        self._model: Any = None
        self._processor: Any = None

    def __enter__(self) -> "Local":
        if self._model is None:
            self._model, self._processor = _load(self.name, self._dtype)
        return self

    def __exit__(self, *_) -> None:
        pass

    def leave(self) -> None:
        """Nothing waits."""

    def answer(self, picture: "Image", request: str, max_tokens: int) -> Answer:
        """What the model says of a picture, the likeliest token each time."""
        import torch

        content = [{"type": "image", "image": picture}, {"type": "text", "text": request}]
        read = self._processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self._model.device, dtype=self._model.dtype)
        length = read["input_ids"].shape[1]
        with torch.inference_mode(), quiet():
            written = self._model.generate(**read, max_new_tokens=max_tokens, do_sample=False)[0, length:]
        text = self._processor.decode(written, skip_special_tokens=True)
        return Answer(text, len(written) >= max_tokens, length, len(written))


def _load(name: str, dtype: str) -> tuple[Any, Any]:
    path = locate(name)
    unsloth = import_unsloth()  # which must come before transformers
    import torch

    number = getattr(torch, machine.resolve(dtype))
    options = {"dtype": number, "use_safetensors": True, "trust_remote_code": False}
    try:
        with quiet():
            from transformers import AutoModelForImageTextToText, AutoProcessor

            if torch.cuda.is_available():
                model, processor = unsloth.FastVisionModel.from_pretrained(path, load_in_4bit=False, **options)
                unsloth.FastVisionModel.for_inference(model)
            else:
                processor = AutoProcessor.from_pretrained(path, trust_remote_code=False)
                model = AutoModelForImageTextToText.from_pretrained(path, **options)
    except Exception as error:
        said = str(error).strip().split("\n")[0]
        raise ModelError(
            f"captioner {name!r} cannot be loaded from {path} ({type(error).__name__}: {said}); give a vision-language "
            "model of transformers with safetensors, and install torchvision if its processor asks for it; or the URL "
            "of a server"
        ) from error
    if not getattr(processor, "chat_template", None):
        raise ModelError(f"the processor of captioner {name!r} has no chat template; give an instruction-tuned model")
    return model.eval(), processor
