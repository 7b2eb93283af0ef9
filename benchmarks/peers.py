"""What a user would run instead: each in a process of its own, which has nothing of this project in it.

    python benchmarks/peers.py ENVIRONMENT OPTIONS          OPTIONS: JSON, arguments of the class

Reads a line of JSON per call, [way, its argument], and answers with a line: what came of it, seconds, peak memory. So
none runs on what another has patched, and each may have an interpreter of its own. `benchmarks/speed.py` calls them.

A request is a pair (context, continuation) of token ids, whose answer is log p(continuation | context) in nats, as in
lm-evaluation-harness. An example is an impression to learn from: {"requests": [[context, continuation], ...],
"candidates": which candidate each request speaks of, "weights": of each, "shown": the candidate that was played}. Its
loss is the cross-entropy of `shown` under softmax_k(the weighted sum of the log-likelihoods of candidate k's requests).
"""

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

BATCH = 16  # sequences
SHARE = 0.4  # of the memory, of a processor too, that vLLM may take: others run beside it
STEP = 8  # examples an optimiser step, the default of transformers' and TRL's trainers
RATE = 1e-9  # so small that the losses of every pass are those of the untrained model


class Transformers:
    """transformers and PEFT as they are.

    Args:
        path: folder of a model.
        dtype: of its weights.
        rank, layers: of the adapters; the last so many layers have them.
    """

    def __init__(self, path: str, dtype: str, rank: int, layers: list[int]):
        import torch
        from transformers import AutoModelForCausalLM

        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype)).to(device).eval()
        self.rank, self.layers, self.optimizer = rank, layers, None

    def harness(self, requests: Sequence) -> list[float]:
        """What lm-evaluation-harness does (0.4.13, `HFLM._loglikelihood_tokens`): the longest first, in batches padded
        on the right, logits of every token. Requests that differ in their last token alone, the letters of a question,
        share a forward pass; so do requests of different impressions that are the same."""
        import torch

        shared: dict[tuple, list[int]] = {}
        for i, (context, continuation) in enumerate(requests):
            shared.setdefault((*context, *continuation[:-1]), []).append(i)
        rows = sorted(shared, key=lambda row: (-len(row), row))
        found = [0.0] * len(requests)
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            with torch.no_grad():
                log_p = self.model(input_ids=self._padded(part)).logits.float().log_softmax(dim=-1)
            for row, table in zip(part, log_p, strict=True):
                for i in shared[row]:
                    continuation = torch.tensor(requests[i][1], device=table.device)
                    own = table[len(row) - len(continuation) : len(row)]
                    found[i] = own.gather(1, continuation[:, None]).sum().item()
        return found

    def generate(self, requests: Sequence) -> list[float]:
        """`generate` for one token, in batches padded on the left; requests are letters of questions."""

        letters: dict[tuple, list[int]] = {}
        for i, (context, _) in enumerate(requests):
            letters.setdefault(tuple(context), []).append(i)
        rows = sorted(letters, key=len, reverse=True)
        found = [0.0] * len(requests)
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            written = self.model.generate(
                self._padded(part, left=True),
                attention_mask=self._padded([[1] * len(row) for row in part], left=True),
                max_new_tokens=1,
                do_sample=False,
                pad_token_id=0,
                return_dict_in_generate=True,
                output_logits=True,
            )
            for row, log_p in zip(part, written.logits[0].float().log_softmax(dim=-1).tolist(), strict=True):
                for i in letters[row]:
                    found[i] = log_p[requests[i][1][0]]
        return found

    def padded(self, examples: Sequence) -> float:
        """PEFT in a loop: one padded batch an example, or several examples of few sequences; the mean loss."""
        return self._pass(examples, BATCH)

    def single(self, examples: Sequence) -> float:
        """PEFT in a loop: one sequence at a time, without padding; the mean loss."""
        return self._pass(examples, 1)

    def _pass(self, examples: Sequence, batch: int) -> float:
        import torch

        self._adapt()
        total = 0.0
        for start in range(0, len(examples), STEP):
            step = examples[start : start + STEP]
            for part in _chunks(step, batch):
                losses = torch.stack(list(self._losses(part, batch)))
                (losses.sum() / len(step)).backward()
                total += float(losses.detach().sum())
            self.optimizer.step()
            self.optimizer.zero_grad()
        return total / len(examples)

    def _losses(self, examples: Sequence, batch: int) -> Iterator:
        """The loss of each example. Requests of an example that differ in their last token alone share a row."""
        import torch

        rows = [_rows(example["requests"]) for example in examples]
        everything = [row for part in rows for row in part]
        width = len(everything) if batch > 1 else 1
        tables = []
        for start in range(0, len(everything), width):
            ids = self._padded(part := everything[start : start + width])
            mask = self._padded([[1] * len(row) for row in part])
            tables += self.model(input_ids=ids, attention_mask=mask).logits.float().log_softmax(dim=-1)
        tables = iter(tables)
        for example, own in zip(examples, rows, strict=True):
            own = {row: next(tables) for row in own}
            scores = [0.0] * (1 + max(example["candidates"]))
            for (context, continuation), k, weight in zip(
                example["requests"], example["candidates"], example["weights"], strict=True
            ):
                row = (*context, *continuation[:-1])
                place = torch.arange(len(context) - 1, len(row))
                scores[k] = scores[k] + weight * own[row][place, torch.tensor(continuation)].sum()
            yield -torch.stack(scores).log_softmax(dim=0)[example["shown"]]

    def _adapt(self) -> None:
        if self.optimizer:
            return
        import torch
        from peft import LoraConfig, get_peft_model

        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        config = LoraConfig(
            r=self.rank,
            lora_alpha=2 * self.rank,
            target_modules=targets,
            layers_to_transform=self.layers,
            task_type="CAUSAL_LM",
        )
        self.model = get_peft_model(self.model, config).train()
        self.optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=RATE)

    def _padded(self, rows: Sequence, left: bool = False):
        import torch

        width = max(map(len, rows))
        padded = [[0] * (width - len(row)) + list(row) if left else [*row] + [0] * (width - len(row)) for row in rows]
        return torch.tensor(padded, device=self.model.device)


class Trl:
    """Unsloth and TRL as they come: `FastLanguageModel`, and `SFTTrainer` on text with its own defaults and Unsloth's,
    adapters in all layers. It knows one answer an example, and learns to write it.

    Args:
        path: folder of a model.
        dtype: of its weights.
        rank: of the adapters.
        max_tokens: of an example.
        folder: for its checkpoints, of which none is written.
    """

    def __init__(self, path: str, dtype: str, rank: int, max_tokens: int, folder: str):
        import torch
        import unsloth

        self.model, self.tokenizer = unsloth.FastLanguageModel.from_pretrained(
            path, max_seq_length=max_tokens, dtype=getattr(torch, dtype), load_in_4bit=False
        )
        self.model = unsloth.FastLanguageModel.get_peft_model(self.model, r=rank)
        self.max_tokens, self.folder, self.trainer = max_tokens, folder, None

    def sft(self, examples: Sequence) -> float:
        """One epoch on the answer that was played, after its question: {"prompt": text, "completion": text}; its mean
        loss. The data are those of the first call."""
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        if self.trainer is None:
            self.trainer = SFTTrainer(
                model=self.model,
                processing_class=self.tokenizer,
                args=SFTConfig(
                    self.folder,
                    num_train_epochs=1,
                    max_length=self.max_tokens,
                    learning_rate=RATE,
                    save_strategy="no",
                    report_to="none",
                    disable_tqdm=True,
                ),
                train_dataset=Dataset.from_list(examples),
            )
        return self.trainer.train().training_loss


class LlamaCpp:
    """llama.cpp on the quantised file, through llama-cpp-python's bindings.

    Args:
        path: GGUF file.
        threads: that compute.
        sequences, tokens: of a batch.
    """

    def __init__(self, path: str, threads: int, sequences: int = 64, tokens: int = 2048):
        import llama_cpp

        self.api, self.path, self.threads, self.sequences, self.tokens = llama_cpp, path, threads, sequences, tokens
        quiet = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(quiet, None)
        self._kept = quiet
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = options.n_batch = tokens
        options.n_seq_max, options.kv_unified = sequences, True
        options.n_threads = options.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(tokens, 0, sequences)

    def batches(self, requests: Sequence) -> list[float]:
        """As llama.cpp scores multiple choice itself: sequences that begin alike have that beginning in common, logits
        only of the tokens that predict a continuation."""
        import numpy as np

        wanted: dict[tuple, list[int]] = {}
        for i, (context, continuation) in enumerate(requests):
            wanted.setdefault((*context, *continuation[:-1]), []).append(i)
        found = [0.0] * len(requests)
        for groups in packed(common_beginnings(sorted(wanted), self.sequences), self.sequences, self.tokens):
            places = self._decode(groups, {row: min(len(requests[i][0]) for i in wanted[row]) - 1 for row in wanted})
            for row, outputs in places.items():
                log_p = {}
                for place, output in outputs.items():
                    logits = self.api.llama_get_logits_ith(self.context, output)
                    logits = np.ctypeslib.as_array(logits, (self.vocabulary,)).astype(np.float64)
                    log_p[place] = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
                for i in wanted[row]:
                    context, continuation = requests[i]
                    found[i] = float(sum(log_p[len(context) - 1 + j][t] for j, t in enumerate(continuation)))
        return found

    def dequantised(self, requests: Sequence) -> list[float]:
        """The same with the file's weights, and so activations, in float32: what differs less is the file's numbers."""
        with tempfile.TemporaryDirectory() as folder:
            options = self.api.llama_model_quantize_default_params()
            options.ftype, options.allow_requantize, options.nthread = 0, True, self.threads  # LLAMA_FTYPE_ALL_F32
            path = os.path.join(folder, "float32.gguf")
            if self.api.llama_model_quantize(self.path.encode(), path.encode(), options):
                raise RuntimeError(f"llama.cpp cannot turn {self.path} into float32")
            other = LlamaCpp(path, self.threads, self.sequences, self.tokens)
            try:
                return other.batches(requests)
            finally:
                self.api.llama_free(other.context)
                self.api.llama_model_free(other.model)

    def _decode(self, groups: list, first: dict[tuple, int]) -> dict[tuple, dict[int, int]]:
        """Row -> place of a token in it -> its place in the batch, of tokens from `first` on."""
        batch, n, sequence = self.batch, 0, 0
        places: dict[tuple, dict[int, int]] = {}

        def add(token: int, position: int, sequences: range, wanted: bool) -> int:
            nonlocal n
            batch.token[n], batch.pos[n], batch.logits[n] = token, position, wanted
            batch.n_seq_id[n] = len(sequences)
            for j, number in enumerate(sequences):
                batch.seq_id[n][j] = number
            n += 1
            return n - 1

        for common, rows in groups:
            own = range(sequence, sequence + len(rows))
            sequence += len(rows)
            needed = min(first[row] for row in rows)
            shared = [add(rows[0][at], at, own, at >= needed) for at in range(common)]
            for number, row in zip(own, rows, strict=True):
                at = {place: shared[place] for place in range(first[row], common)}
                for place in range(common, len(row)):
                    output = add(row[place], place, range(number, number + 1), place >= first[row])
                    if place >= first[row]:
                        at[place] = output
                places[row] = at
        batch.n_tokens = n
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)
        if code := self.api.llama_decode(self.context, batch):
            raise RuntimeError(f"llama_decode failed with code {code} on {n} tokens of {sequence} sequences")
        return places


def common_beginnings(rows: Sequence[tuple], most: int) -> list[tuple[int, list[tuple]]]:
    """Groups of sorted rows with at least half of each in common: (how many tokens, the rows), `most` at most."""
    groups: list[tuple[int, list[tuple]]] = []
    for row in rows:
        if groups and len(groups[-1][1]) < most:
            common, members = groups[-1]
            both = zip(row[:common], members[0][:common], strict=False)
            same = next((i for i, (a, b) in enumerate(both) if a != b), min(common, len(row)))
            if 2 * same >= max(map(len, [row, *members])):
                groups[-1] = (same, [*members, row])
                continue
        groups.append((len(row), [row]))
    return groups


def packed(groups: Sequence[tuple[int, list]], sequences: int, tokens: int) -> Iterator[list]:
    """Groups that go into a batch together."""
    batch, used, size = [], 0, 0
    for common, rows in groups:
        more = common + sum(len(row) - common for row in rows)
        if batch and (used + len(rows) > sequences or size + more > tokens):
            yield batch
            batch, used, size = [], 0, 0
        batch.append((common, rows))
        used, size = used + len(rows), size + more
    if batch:
        yield batch


class Vllm:
    """vLLM's own engine, with its defaults; but on a CPU it would leave one core to itself, which no other peer does.

    Args:
        path: folder of a model.
        dtype: of its weights.
        max_tokens: of a sequence.
    """

    def __init__(self, path: str, dtype: str, max_tokens: int):
        os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        import vllm

        self.vllm = vllm
        self.engine = vllm.LLM(path, dtype=dtype, max_model_len=max_tokens, seed=0, gpu_memory_utilization=SHARE)

    def logprobs(self, requests: Sequence) -> list[float]:
        """Letters: the log-probabilities of these tokens after the question; longer continuations: those of a prompt's
        own tokens. What earlier calls left in the cache of prefixes is dropped first."""
        self.engine.reset_prefix_cache()
        contexts: dict[tuple, list[int]] = {}
        long = [i for i, (_, continuation) in enumerate(requests) if len(continuation) > 1]
        for i, (context, continuation) in enumerate(requests):
            if len(continuation) == 1:
                contexts.setdefault(tuple(context), []).append(i)
        asked = [{"prompt_token_ids": list(context)} for context in contexts]
        asked += [{"prompt_token_ids": [*requests[i][0], *requests[i][1]]} for i in long]
        sample = self.vllm.SamplingParams
        how = [
            sample(max_tokens=1, temperature=0, logprob_token_ids=sorted({requests[i][1][0] for i in own}))
            for own in contexts.values()
        ]
        how += [sample(max_tokens=1, temperature=0, prompt_logprobs=0) for _ in long]
        outputs = self.engine.generate(asked, how, use_tqdm=False)
        found = [0.0] * len(requests)
        for own, output in zip(contexts.values(), outputs, strict=False):
            for i in own:
                found[i] = output.outputs[0].logprobs[0][requests[i][1][0]].logprob
        for i, output in zip(long, outputs[len(contexts) :], strict=True):
            context, continuation = requests[i]
            own = output.prompt_logprobs[len(context) :]
            found[i] = sum(table[token].logprob for token, table in zip(continuation, own, strict=True))
        return found


ENVIRONMENTS = {"transformers": Transformers, "trl": Trl, "llama.cpp": LlamaCpp, "vllm": Vllm}


def _rows(requests: Sequence) -> dict[tuple, None]:
    return dict.fromkeys((*context, *continuation[:-1]) for context, continuation in requests)


def _chunks(examples: Sequence, batch: int) -> Iterator[list]:
    """Examples that go through the model together: `batch` sequences at most, or one example."""
    part, size = [], 0
    for example in examples:
        more = len(_rows(example["requests"]))
        if part and size + more > batch:
            yield part
            part, size = [], 0
        part, size = [*part, example], size + more
    yield part


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print as they please
    peer = ENVIRONMENTS[sys.argv[1]](**json.loads(sys.argv[2]))
    for line in sys.stdin:
        way, argument = json.loads(line)
        start = time.perf_counter()
        found = getattr(peer, way)(argument)  # plain numbers: a GPU has finished
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if (torch := sys.modules.get("torch")) and torch.cuda.is_available():
            peak = torch.cuda.max_memory_allocated()
        print(json.dumps({"found": found, "seconds": seconds, "peak": peak}), file=answers, flush=True)


if __name__ == "__main__":
    main()
