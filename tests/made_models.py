"""Other people's models and tokenizers, small and with random weights."""

import copy

from artlib.lm import unsloth
from artlib.lm.prompts import label

TEXT = (
    "A viewer who loves Drama (40 %) may watch this film: Hill.\nWhich poster would make the viewer play it?\nA. B. C. "
)


def small_model(kind: str, **more):
    """Of two layers, with weights so large that masks and positions matter."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    more = {"vocab_size": 300, "num_key_value_heads": 2, "max_position_embeddings": 4096, "pad_token_id": 0} | more
    with unsloth.quiet():
        made = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **more)).float().eval()
    for weights in made.parameters():
        if weights.ndim > 1:
            weights.data.mul_(4)
        else:
            weights.data += 0.1 * torch.randn_like(weights)
    return made


def made_tokenizer(kind: str, **special: str):
    """A small BPE: bytes as GPT-2's, or spaces as SentencePiece's, with or without one put before the text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE(unk_token="<unk>"))
    letters = [chr(code) for code in range(33, 127)] + ["▁", "\n"]
    if kind == "bytes":
        core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        letters = pre_tokenizers.ByteLevel.alphabet()
    elif kind == "prepend":  # as Llama 2 does
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        strip = decoders.Strip(content=" ", left=1)
        core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), strip])
    else:
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind)
        core.decoder = decoders.Metaspace(prepend_scheme=kind)
    names = ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>"]
    size = 300 if kind == "bytes" else 180
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=names, initial_alphabet=letters, show_progress=False)
    words = [*label.LABELS * 9, *TEXT.split()]
    core.train_from_iterator(words if kind == "prepend" else [f" {word}" for word in words], trainer)
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"} | special
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", additional_special_tokens=["<|user|>", "<|assistant|>"], **special
    )
    made.clean_up_tokenization_spaces = False
    return made


def telling(language_model):
    """A copy of a random model whose next words differ by what it has read: as it comes, they hang on the last token
    alone, and all are about equally likely."""
    made = copy.deepcopy(language_model)
    for name, weights in made.named_parameters():
        if "v_proj" in name or "o_proj" in name:
            weights.data *= 30
    made.base_model.norm.weight.data *= 30
    return made
