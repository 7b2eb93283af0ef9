"""Policies: for every impression, a probability for each of its candidates."""

import contextlib
import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import scipy.optimize

from artlib import files, machine, model, train
from artlib.log import History, Log, LogError, pad, unpad
from artlib.prompts import one_line
from artlib.score import probabilities, score

PRIOR_SHOWN = 20.0  # impressions' worth of the average play rate that every artwork starts with
EMBEDDING_SIZE = 128  # leading principal components of the caption embeddings
PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0)  # of the text baseline, chosen on the validation split


def uniform(log: Log) -> np.ndarray:
    """(n, K) the same probability for every candidate."""
    mask = log.arrays().mask
    return mask / mask.sum(axis=1, keepdims=True)


def greedy(scores: np.ndarray) -> np.ndarray:
    """(n, K) all probability on the best candidate; ties share it."""
    best = scores == scores.max(axis=1, keepdims=True)
    return best / best.sum(axis=1, keepdims=True)


def popular_scores(log: Log, impressions: Log) -> np.ndarray:
    """The play rate of each candidate in the earlier period and the training split, for whoever watches.

    Inverse propensities correct for what the logging policy preferred to show; rates are shrunk to the average.

    Returns:
        (n, K) smoothed rates; -inf where padded. Candidates never shown get the average.
    """
    parts = [log.split("train").arrays()] + ([log.arrays("earlier")] if log.earlier is not None else [])
    artwork = np.concatenate([part.shown_artwork for part in parts])
    reward = np.concatenate([part.reward for part in parts])
    weight = np.concatenate([1 / (part.propensity * part.mask.sum(axis=1)) for part in parts])
    shown = np.bincount(artwork, weights=weight, minlength=len(log.artworks))
    played = np.bincount(artwork, weights=weight * reward, minlength=len(log.artworks))
    average = np.average(reward, weights=weight)
    rate = (played + PRIOR_SHOWN * average) / (shown + PRIOR_SHOWN)
    arrays = impressions.arrays()
    return np.where(arrays.mask, rate[arrays.candidates], -np.inf)


def oracle(log: Log) -> np.ndarray:
    """(n, K) always the candidate with the largest true expected reward. Simulated worlds only."""
    return greedy(np.where(log.arrays().mask, log.expected_reward(), -np.inf))


def llm_scores(
    log: Log, impressions: Log, settings: train.Settings, adapter: str | os.PathLike | None,
    frame: Sequence[str] | None = None,
) -> np.ndarray:  # fmt: skip
    """(n, K) scores of the LLM with an adapter, or of the bare model (zero-shot), see `train.reader_for`."""
    which = settings.base, adapter, settings.dtype, settings.load_in_4bit, settings.max_tokens
    if settings.prompt == "reasoned":
        with model.writer(*which, settings.max_new_tokens, settings.seed) as (tokenizer, write, batch):
            questions = train.reader_for(log, tokenizer, settings, frame).read(impressions)
            return train.votes_of(write, questions, settings, batch)[0]
    language_model, tokenizer = model.load(*which)
    return score(language_model, train.reader_for(log, tokenizer, settings, frame).read(impressions))


def caption_embeddings(log: Log, artworks: np.ndarray, settings: train.Settings) -> np.ndarray:
    """Frozen embeddings of captions by the same base model: whitened principal components.

    Args:
        artworks: (M,) rows in `artworks`.

    Returns:
        (A, d) rows in the order of `artworks` in the log; 0 for those not asked for.
    """
    from tqdm import tqdm

    language_model, tokenizer = model.load(settings.base, dtype=settings.dtype, max_tokens=settings.max_tokens)
    captions = [one_line(log.artworks["caption"][int(artwork)].as_py()) for artwork in artworks]
    order = np.argsort([len(caption) for caption in captions])
    rows = None
    with tqdm(total=len(order), desc="embedding captions", mininterval=2) as progress:
        for part in np.array_split(order, -(-len(order) // 32)):
            mean = _mean_hidden(language_model, tokenizer, [captions[i] for i in part])
            rows = np.empty((len(captions), mean.shape[1])) if rows is None else rows
            rows[part] = mean
            progress.update(len(part))
    rows -= rows.mean(axis=0)
    left, singular, _ = np.linalg.svd(rows, full_matrices=False)
    kept = min(EMBEDDING_SIZE, int((singular > 1e-6 * singular[0]).sum()))
    found = np.zeros((len(log.artworks), kept))
    found[artworks] = left[:, :kept] * np.sqrt(len(rows))
    return found


def _mean_hidden(language_model, tokenizer, texts: list[str]) -> np.ndarray:
    """(n, d) mean over a text's tokens of what a model's layer two thirds up makes of them. Middle layers carry more of
    what a text is about than the last, which is busy predicting the next token; those above it are not run."""
    import torch

    inner = language_model.base_model
    layers = inner.layers
    device = next(language_model.parameters()).device
    ids = tokenizer(texts, add_special_tokens=False, split_special_tokens=True).input_ids
    width = max(map(len, ids))
    tokens = torch.tensor([row + [0] * (width - len(row)) for row in ids], device=device)
    real = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids], device=device)
    found = []

    class Reached(Exception):
        pass

    def keep(layer, inputs, output):
        found.append(output[0] if isinstance(output, tuple) else output)
        raise Reached

    hook = layers[len(layers) * 2 // 3 - 1].register_forward_hook(keep)
    try:
        with torch.inference_mode(), contextlib.suppress(Reached):
            inner(tokens, attention_mask=real, use_cache=False)
    finally:
        hook.remove()
    hidden = found[0].float() * real[:, :, None]
    return (hidden.sum(dim=1) / real.sum(dim=1, keepdim=True)).cpu().numpy()


def text_scores(log: Log, impressions: Log, embeddings: np.ndarray, plays: Log, validation: Log) -> np.ndarray:
    """The strongest reader of captions without an LLM's forward pass per decision: a bilinear conditional logit.

    score(u, c) = (1, g_u)' W e_c, with g_u the member's genre profile, less its mean over `plays`, and e_c the
    caption's embedding; W maximises the likelihood of the played artwork among the candidates, less an L2 penalty
    chosen on the validation plays.

    Args:
        embeddings: (A, d).
        plays, validation: played impressions to fit W and to choose the penalty.

    Returns:
        (n, K) scores; -inf where padded.
    """
    history = History(log.titles, log.histories)
    average = history.genre_profile(plays.impressions).mean(axis=0)

    def inputs(part: Log) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        arrays, profile = part.arrays(), history.genre_profile(part.impressions)
        member = np.hstack([np.ones((len(profile), 1)), 5 * (profile - average)])
        return member, embeddings[np.maximum(arrays.candidates, 0)], arrays.mask

    fit_inputs, check_inputs = inputs(plays), inputs(validation)
    fit_shown, check_shown = plays.arrays().shown, validation.arrays().shown
    best = None
    start = np.zeros((fit_inputs[0].shape[1], embeddings.shape[1]))
    for penalty in sorted(PENALTIES, reverse=True):
        start = _conditional_logit(*fit_inputs, fit_shown, penalty, start)
        chosen = probabilities(_bilinear(start, *check_inputs))[np.arange(len(check_shown)), check_shown]
        loss = -np.log(np.maximum(chosen, 1e-12)).mean()
        if best is None or loss < best[0]:
            best = loss, start
    return _bilinear(best[1], *inputs(impressions))


def _bilinear(weights: np.ndarray, member: np.ndarray, caption: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.where(mask, np.einsum("nd,nkd->nk", member @ weights, caption), -np.inf)


def _conditional_logit(member, caption, mask, shown, penalty: float, start: np.ndarray) -> np.ndarray:
    """Maximum penalised likelihood by L-BFGS: sum_i log softmax_k(score)[shown_i] - penalty |W|^2 / 2."""
    rows = np.arange(len(shown))

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(start.shape)
        p = probabilities(_bilinear(weights, member, caption, mask))
        residual = p.copy()
        residual[rows, shown] -= 1
        gradient = member.T @ np.einsum("nk,nkd->nd", residual, caption) + penalty * weights
        value = -np.log(np.maximum(p[rows, shown], 1e-300)).sum() + penalty * (weights**2).sum() / 2
        return value, gradient.ravel()

    found = scipy.optimize.minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 200})
    return found.x.reshape(start.shape)


def first_in_time(part: Log, most: int = 0) -> Log:
    """The earliest impressions of a part of a log, in the order of its rows; all of them if `most` is 0.

    Raises:
        LogError: it has none.
    """
    if not len(part.impressions):
        raise LogError("the log has no impressions in its test split: there is nothing to ask policies about")
    time = pc.cast(part.impressions["timestamp"], pa.int64()).to_numpy()
    return part.take(np.sort(np.argsort(time, kind="stable")[: most or len(time)]))


def asked_about(path: str | os.PathLike, log: Log) -> Log:
    """The impressions of a log that the policy in a file was asked about, in the order of the log's rows."""
    ids = pq.read_table(path, columns=["impression_id"])["impression_id"].combine_chunks()
    return log.take(np.flatnonzero(pc.is_in(log.impressions["impression_id"], ids).to_numpy()))


def save(folder: str | os.PathLike, name: str, log: Log, policy: np.ndarray, choice: np.ndarray | None = None) -> None:
    """Write `policies/NAME.parquet`: impression_id, probabilities, and choice where the policy has one.

    Args:
        log: whose impressions the policy was asked about.
        policy: (n, K) with which probability it shows each candidate.
        choice: (n, K) how likely it thinks each candidate the one to be played; None where it does not say.
    """
    mask = log.arrays().mask
    columns = {"impression_id": log.impressions["impression_id"], "probabilities": unpad(policy, mask)}
    if choice is not None:
        columns["choice"] = unpad(choice, mask)
    with files.replacing(Path(folder) / f"{name}.parquet") as temporary:
        pq.write_table(pa.table(columns), temporary)


def read(folder: str | os.PathLike, log: Log, column: str = "probabilities") -> dict[str, np.ndarray]:
    """Read the policies of a folder for a log's impressions: name -> (n, K), where they have the column.

    Raises:
        LogError: a file lacks an impression, has other candidates, or is by an adapter that was trained anew since.
    """
    found = {}
    mask = log.arrays().mask
    asked = files.read_json(Path(folder) / "asked.json") or {}
    for path in sorted(Path(folder).glob("*.parquet")):
        table = pq.read_table(path)
        if column not in table.column_names:
            continue
        if outdated := _outdated(path, asked.get(path.stem, {}), log):
            raise LogError(f"{path} {outdated}; run 03_evaluate again")
        order = pc.index_in(log.impressions["impression_id"], table["impression_id"].combine_chunks())
        if order.null_count:
            raise LogError(f"{path} lacks some of the impressions; run 03_evaluate again")
        values, given = pad(table[column].take(order))
        if not np.array_equal(given, mask):
            raise LogError(f"{path} is for other candidates than the log's; run 03_evaluate again")
        found[path.stem] = values
    return found


def _outdated(path: Path, asked: dict, log: Log) -> str | None:
    """Why answers are not this run's: notebooks may be opened in any order."""
    if asked and asked["log"] != log.manifest.get("files"):
        return "is about another log"
    training = path.parents[1] / "adapters" / path.stem.removeprefix("llm-") / "training.json"
    if "adapter" in asked and training.exists() and files.sha256(training) != asked["adapter"]:
        return f"is by an earlier adapter than {training.parent}"
    return None


def compute(
    log: Log, folder: str | os.PathLike, settings: train.Settings, adapters: dict[str, Path], most: int = 0,
    deterministic: bool = True, report: Callable[[str], None] = print,
) -> Log:  # fmt: skip
    """Ask every policy about the test split and write its answers; those written for the same by the same code are
    kept.

    Args:
        folder: `policies/` of a run.
        settings: of the zero-shot LLM, and which plays the text baseline learns from.
        adapters: policy name -> adapter folder; each is asked as it was trained.
        most: so many test impressions at most, the first in time; 0 for all.
        deterministic: learned policies show their best candidate; else they draw from their choice probabilities.
        report: told what is being done.

    Returns:
        The test split that was asked about.
    """
    folder = Path(folder)
    test = first_in_time(log.split("test"), most)
    arrays = test.arrays()
    validation = train.plays(log, "validation", settings.max_validation, settings.seed)
    asked = files.read_json(folder / "asked.json") or {}
    common = {"log": log.manifest.get("files"), "most": most, "deterministic": deterministic}
    common["code"] = [train.code(), files.code_sha256(sys.modules[__name__])]
    common["validation"] = [settings.max_validation, settings.seed]
    common["dtype"] = machine.resolve(settings.dtype)

    def learned(name: str, key: dict, make: Callable[[Log], np.ndarray], temperature: float | None = None) -> None:
        if (folder / f"{name}.parquet").exists() and asked.get(name) == common | key:
            return
        report(f"{name} ...")
        scores = make(test)
        if temperature is None:
            temperature = train.fit_temperature(make(validation), validation.arrays().shown)
        choice = probabilities(scores, temperature)
        files.discard(folder / f"{name}.parquet")  # never beside the key of another question
        asked[name] = common | key
        files.write_json(folder / "asked.json", asked)
        save(folder, name, test, greedy(scores) if deterministic else choice, choice)

    save(folder, "random", test, uniform(test))
    save(folder, "production", test, arrays.production)
    save(folder, "popular", test, greedy(popular_scores(log, test)))
    if test.truth is not None:
        save(folder, "oracle", test, oracle(test))
    else:
        files.discard(folder / "oracle.parquet")  # of an earlier log of the run
    all_plays = train.plays(log, "train", None, settings.seed)
    read = [part.arrays() for part in (all_plays, validation, test)]
    artworks = np.unique(np.concatenate([part.candidates[part.mask] for part in read]))
    embeddings = functools.cache(lambda: caption_embeddings(log, artworks, settings))
    sizes = {"text": settings.max_examples, "text-whole-log": len(all_plays.impressions)}
    if settings.max_examples >= sizes["text-whole-log"]:  # they would be the same
        files.discard(folder / "text-whole-log.parquet")
        del sizes["text-whole-log"]
    for name, most_plays in sizes.items():
        plays = all_plays.take(np.arange(min(most_plays, len(all_plays.impressions))))

        def text(part: Log, plays: Log = plays) -> np.ndarray:
            return text_scores(log, part, embeddings(), plays, validation)

        learned(name, {"base": settings.base, "plays": most_plays}, text)
    trained = {name: files.read_json(adapter / "training.json") for name, adapter in adapters.items()}
    # The bare model is asked as the adapter of the same settings was, whatever the chat template writes today.
    twin = next((t for t in trained.values() if t["settings"] == dataclasses.asdict(settings)), {})
    frame = twin.get("frame")
    question = {"settings": {k: v for k, v in dataclasses.asdict(settings).items() if k != "dtype"}, "frame": frame}
    bare = functools.partial(llm_scores, log, settings=settings, adapter=None, frame=frame)
    learned("llm-zero-shot", question, bare, twin.get("zero_shot_temperature"))
    for name, adapter in adapters.items():
        training = trained[name]
        own = train.Settings(**training["settings"])
        if (then := training["machine"]["dtype"]) != (now := machine.resolve(own.dtype)):
            report(f"{name} was trained in {then} and is asked in {now}, this machine's type: scores differ a little")
        ask = functools.partial(llm_scores, log, settings=own, adapter=adapter, frame=training["frame"])
        learned(name, {"adapter": files.sha256(adapter / "training.json")}, ask, training["temperature"])
    for path in folder.glob("llm-*.parquet"):  # of adapters that the run no longer has
        if path.stem not in adapters and path.stem != "llm-zero-shot":
            files.discard(path)
    return test
