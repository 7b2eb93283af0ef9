"""A model in service: it answers from a request alone as it does from its log, draws as it says, and goes on."""

import contextlib
import dataclasses
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from made_models import telling

import artlib
from artlib import __main__ as cli
from artlib import files
from artlib.analysis import evaluation
from artlib.data import Log, LogError
from artlib.data.columns import replaced
from artlib.lm import embedded, generation, model, prompts
from artlib.lm.prompts import genre_likelihood, text
from artlib.policies import baselines, chooser, llm, requests
from artlib.policies.chooser import Exploration
from artlib.posttrain import adapters
from artlib.posttrain.settings import Settings

SETTINGS = Settings(base=embedded.TINY, dtype="float32", max_tokens=8192, samples=2, max_new_tokens=4)
LOADED = SETTINGS.base, None, SETTINGS.dtype, False, SETTINGS.max_tokens
FILM = {"name": "Hill", "genres": ["Heist Thrillers"], "synopsis": "Two sisters climb."}
CAPTIONS = ["A hill at dawn", "Two sisters on a rope", "A storm"]


@pytest.fixture(scope="module")
def adapter(small_log, tiny, tmp_path_factory):
    """As `post_train` leaves one (see test_train), far from the base model."""
    folder = tmp_path_factory.mktemp("run") / "adapters" / "sft"
    made = model.add_lora(model.load(*LOADED)[0], rank=2)
    torch.manual_seed(0)
    for name, weights in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights)
    made.save_pretrained(str(folder))
    known = {"code": adapters.code(SETTINGS), "background": small_log.background.described(), "temperature": 1.5}
    settings = dataclasses.asdict(SETTINGS)
    adapters.finish(folder, known | {"settings": settings, "frame": text.chat_frame(tiny[1])})
    return folder


@pytest.fixture(scope="module")
def policy(adapter, tmp_path_factory):
    """Loaded from another place than the run's, where there is no log."""
    return artlib.load_policy(shutil.copytree(adapter, tmp_path_factory.mktemp("elsewhere") / "sft"))


@pytest.fixture(scope="module")
def tiny():
    return model.load(*LOADED)


@pytest.mark.parametrize("prompt", prompts.PROMPTS)
def test_a_request_alone_tells_a_form_all_that_the_log_does(small_log, prompt, tiny, monkeypatch):
    close, apart = (2e-5, 2e-4) if prompt == "clause-topics" else (2e-4, 0)
    loaded = (telling(tiny[0]), tiny[1]) if prompt == "clause-topics" else tiny
    for module in (model, generation):
        monkeypatch.setattr(module, "load", lambda *_: loaded)
    some = small_log.split("test").take(np.arange(3))
    method = "sft-reasoning" if prompt == "reasoned" else "sft"
    settings = dataclasses.replace(SETTINGS, prompt=prompt, method=method, n_recent=2)
    asked = requests.to_log(requests.from_log(some), small_log.background)
    language_model = llm.LanguageModel(settings, remembers=True)
    expected = llm.llm_scores(small_log, some, settings, None)
    for _ in range(2):  # anew, and from memory
        np.testing.assert_allclose(language_model.scores(asked, asked), expected, atol=close)
    if prompt != "reasoned":  # of which a tiny model writes no valid answer
        assert np.nanstd(np.where(np.isfinite(expected), expected, np.nan), axis=1).min() > apart


def test_it_needs_nothing_but_the_adapter(policy, adapter, small_log):
    some = small_log.split("test").take(np.arange(8))
    found = policy.choose_many(requests.from_log(some))
    scores = llm.llm_scores(small_log, some, SETTINGS, adapter, adapters.frame_of(adapter))
    assert found["shown"].to_pylist() == scores.argmax(axis=1).tolist()
    assert found["request_id"].to_pylist() == some.impressions["impression_id"].to_pylist()
    offered = some.impressions["candidates"].to_pylist()
    assert found["artwork_id"].to_pylist() == [row[k] for row, k in zip(offered, scores.argmax(axis=1), strict=True)]


def test_one_decision_is_as_one_of_many(policy):
    alone = policy.choose([FILM, "Another"], FILM, CAPTIONS, "r7")
    assert alone.artwork_id == str(alone.shown) and alone.propensity == 1
    assert alone.probabilities[alone.shown] == 1 and alone.choice.sum() == pytest.approx(1)
    rows = pa.concat_tables(
        [requests.row([], "Else", CAPTIONS[:2], "r6"), requests.row([FILM, "Another"], FILM, CAPTIONS, "r7")]
    )
    together = policy.choose_many(rows).to_pylist()[1]
    np.testing.assert_allclose(together["choice"], alone.choice, atol=1e-5)
    assert policy.choose_many(rows.to_pandas()).equals(policy.choose_many(rows))  # as pandas holds nested columns
    assert policy(rows).equals(policy.choose_many(rows))  # as engines call it


def test_genres_that_training_did_not_know_say_nothing_and_are_named_once(policy, monkeypatch):
    monkeypatch.setattr(policy, "_warned", False)
    unknown = {**FILM, "genres": ["Mockumentary"]}
    plain = policy.choose([{**FILM, "genres": []}], FILM, CAPTIONS).choice
    policy._warned = False
    with pytest.warns(UserWarning, match="1 of 1 genres, 'Mockumentary' among them, are unknown"):
        found = policy.choose([unknown], FILM, CAPTIONS)
    np.testing.assert_allclose(found.choice, plain, atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy.choose([unknown], FILM, CAPTIONS)


def test_members_who_are_new_are_no_cause_for_a_warning(policy, monkeypatch):
    monkeypatch.setattr(policy, "_warned", False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy.choose([], FILM, CAPTIONS)
    with pytest.warns(UserWarning, match="no title has genres"):
        policy.choose(["Hill"], FILM, CAPTIONS)


def test_decisions_that_explore_need_an_id_of_their_own(policy, monkeypatch):
    assert policy.choose([], FILM, CAPTIONS).shown in (0, 1, 2)
    monkeypatch.setattr(policy, "exploration", Exploration("epsilon", epsilon=1.0))
    with pytest.raises(chooser.ChoiceError, match="request_id is missing"):
        policy.choose([], FILM, CAPTIONS)
    drawn = {policy.choose([], FILM, CAPTIONS, f"r{i}").shown for i in range(30)}
    assert drawn == {0, 1, 2}


def test_what_it_said_of_an_artwork_is_not_asked_again(policy, monkeypatch):
    first = policy.choose([FILM], FILM, CAPTIONS)
    monkeypatch.setattr(genre_likelihood, "leaf_table", lambda *_: pytest.fail("it was asked again"))
    np.testing.assert_array_equal(policy.choose([FILM], FILM, CAPTIONS).choice, first.choice)
    policy.choose([], "Other", CAPTIONS[::-1])
    with pytest.raises(pytest.fail.Exception):
        policy.choose([], "Other", ["A new picture"])


def test_the_documented_decision_is_one(adapter, capsys):
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    exec(code.replace("runs/quick/adapters/sft", str(adapter)), {})
    artwork, propensity, *_ = capsys.readouterr().out.split()
    assert artwork in ("0", "1") and float(propensity) in (pytest.approx(0.05), pytest.approx(0.95))


# Exploration

SCORES = np.array([[0.0, 1.0, 2.0], [3.0, 1.0, -np.inf]])


def test_policies_of_exploration_are_what_they_are_called():
    np.testing.assert_allclose(Exploration().policy(SCORES, 2.0), [[0, 0, 1], [1, 0, 0]])
    epsilon = Exploration("epsilon", epsilon=0.3).policy(SCORES, 2.0)
    np.testing.assert_allclose(epsilon, [[0.1, 0.1, 0.8], [0.85, 0.15, 0]])
    softmax = Exploration("softmax", temperature=0.5).policy(SCORES, 2.0)
    np.testing.assert_allclose(softmax[0], np.exp(SCORES[0]) / np.exp(SCORES[0]).sum())


@pytest.mark.parametrize("exploration", [Exploration("epsilon", epsilon=0.4), Exploration("softmax", seed=3)])
def test_choices_are_drawn_with_the_probabilities_that_are_logged(exploration):
    n = 30_000
    policy = np.repeat(exploration.policy(SCORES, 1.0), n, axis=0)
    shown = exploration.draw(policy, [f"r{i}" for i in range(2 * n)])
    for part, expected in ((shown[:n], policy[0]), (shown[n:], policy[-1])):
        share = np.bincount(part, minlength=3) / n
        assert (np.abs(share - expected) <= 4 * np.sqrt(expected * (1 - expected) / n)).all()


def test_a_draw_depends_on_seed_and_request_alone():
    policy, ids = np.full((50, 4), 0.25), [f"r{i}" for i in range(50)]
    shown = Exploration("softmax").draw(policy, ids)
    np.testing.assert_array_equal(Exploration("softmax").draw(policy[:20], ids[::-1][:20]), shown[::-1][:20])
    assert (Exploration("softmax", seed=1).draw(policy, ids) != shown).any()


@pytest.mark.parametrize(("wrong", "said"), [({"kind": "greedy"}, "none, epsilon, softmax"), ({"epsilon": 2}, "2")])
def test_impossible_exploration_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        Exploration(**wrong)


# Requests that cannot be answered

CANDIDATES = [{"artwork_id": "a", "caption": "A hill"}, {"artwork_id": "b", "caption": "A lake"}]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"request_id": None}, "column request_id: None is null"),
        ({"title": {"name": " \u200b"}}, "column title.*has no name"),
        ({"history": [{"name": None}]}, "column history.*has no name"),
        ({"history": [{**FILM, "weight": 5}]}, "no number in"),
        ({"candidates": []}, "has no candidate"),
        ({"candidates": [{"artwork_id": "a", "caption": ""}]}, "has no caption"),
        ({"candidates": [{"artwork_id": None, "caption": "A hill"}]}, "has no artwork_id"),
        ({"candidates": CANDIDATES + CANDIDATES[:1]}, "twice"),
        ({"request_id": float("nan")}, "column request_id: nan is null"),
        ({"request_id": pd.NA}, "column request_id: <NA> is null"),
        ({"history": [{**FILM, "weight": "0.5"}]}, "column history.*no number in"),
        ({"history": FILM}, "column history.*is no list"),
        ({"candidates": "A hill"}, "column candidates.*is no list"),
        ({"candidates": ["A hill"]}, "has no artwork_id"),
        ({"candidates": [{"artwork_id": "a", "caption": float("nan")}]}, "has no caption"),
        ({"history": [{**FILM, "genres": 7}]}, "cannot be read as requests"),
        ({"history": [{**FILM, "genres": "Heist Thrillers"}]}, "column history.*has text for genres"),
    ],
)
def test_a_request_that_cannot_be_answered_is_named(policy, change, said):
    fine = {"request_id": "r", "history": [FILM], "title": FILM, "candidates": CANDIDATES}
    with pytest.raises(LogError, match=said) as caught:
        policy.choose_many([fine, fine | change], "mine.parquet", first=10)
    assert "mine.parquet" in str(caught.value) and ("row 11" in str(caught.value) or "cannot be read" in said)


def test_lists_may_be_arrays_as_pandas_reads_them(policy):
    fine = {"request_id": "r", "history": [FILM], "title": FILM, "candidates": CANDIDATES}
    arrays = fine | {"history": np.array([FILM], object), "candidates": np.array(CANDIDATES, object)}
    assert requests.read([arrays], "here").equals(requests.read([fine], "here"))


def test_a_file_where_choices_of_a_log_are_to_go_is_refused(small_log, tmp_path):
    small_log.save(tmp_path / "log")
    (tmp_path / "out").write_text("mine")
    with pytest.raises(chooser.ChoiceError, match="out is a file; name a folder"):
        chooser.requests_of(tmp_path / "log", "test", tmp_path / "out")


def test_a_missing_column_and_no_requests(policy):
    fine = {"request_id": "r", "history": [], "title": FILM, "candidates": CANDIDATES}
    with pytest.raises(LogError, match="row 1: column title is missing"):
        policy.choose_many([fine, {name: value for name, value in fine.items() if name != "title"}])
    with pytest.raises(LogError, match="column candidates is missing"):
        policy.choose_many([{"request_id": "r", "history": [], "title": FILM}])
    assert policy.choose_many(requests.SCHEMA.empty_table()).num_rows == 0


def test_requests_are_read_in_whatever_types_an_engine_hands_them_over(small_log):
    rows = requests.from_log(small_log.split("test").take(np.arange(6)))
    titles = pa.large_list(rows.schema.field("history").type.value_type)
    others = {
        "chunked": pa.concat_tables([rows[:1], rows[1:1], rows[1:]]),
        "large": rows.set_column(1, "history", rows["history"].cast(titles)),
        "dictionary": rows.set_column(0, "request_id", rows["request_id"].dictionary_encode()),
        "with more": rows.append_column("member", pa.array(["m"] * 6)),
    }
    for name, other in others.items():
        assert requests.read(other, "here").equals(rows), name
        assert requests.read(other[:0], "here").equals(rows[:0]), name
    unknown = rows.set_column(1, "history", pa.nulls(6, rows.schema.field("history").type))
    assert requests.read(unknown, "here")["history"].to_pylist() == [[]] * 6


def test_a_folder_without_an_adapter_is_named(tmp_path, adapter, tiny, monkeypatch):
    monkeypatch.setattr(model, "load", lambda *_: tiny)
    with pytest.raises(adapters.AdapterError, match="holds no training.json"):
        artlib.load_policy(tmp_path)
    old = shutil.copytree(adapter, tmp_path / "old")
    training = files.read_json(old / "training.json")
    files.write_json(old / "training.json", training | {"code": "else"})
    with pytest.warns(UserWarning, match="by other code"):
        artlib.load_policy(old)
    del training["background"]
    files.write_json(old / "training.json", training)
    with pytest.raises(adapters.AdapterError, match="train it again"):
        artlib.load_policy(old)


# Files


def test_a_run_that_was_cut_short_asks_only_for_what_is_missing(policy, small_log, tmp_path, monkeypatch):
    file = tmp_path / "requests.parquet"
    pq.write_table(requests.from_log(small_log.split("test").take(np.arange(10))), file)
    assert chooser.answer_file(policy, file, tmp_path / "whole", batch=4) == (10, 0)
    asked, real = [], policy.choose_many

    def dies(rows, where, first):
        asked.append(first)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(rows, where, first)

    monkeypatch.setattr(policy, "choose_many", dies)
    with pytest.raises(KeyboardInterrupt):
        chooser.answer_file(policy, file, tmp_path / "cut", batch=4)
    assert not files.left_half_written(tmp_path)
    assert chooser.answer_file(policy, file, tmp_path / "cut", batch=4) == (10, 4)
    assert asked == [0, 4, 4, 8]
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "cut"), pd.read_parquet(tmp_path / "whole"))
    assert len(pd.read_parquet(tmp_path / "cut")) == 10


def test_choices_for_another_question_are_not_written_over(policy, small_log, tmp_path, monkeypatch):
    file = tmp_path / "requests.parquet"
    pq.write_table(requests.from_log(small_log.split("test").take(np.arange(3))), file)
    chooser.answer_file(policy, file, tmp_path / "out")
    monkeypatch.setattr(policy, "exploration", Exploration("epsilon"))
    with pytest.raises(chooser.ChoiceError, match=r"another question .*exploration.kind.*name another folder"):
        chooser.answer_file(policy, file, tmp_path / "out")
    (tmp_path / "page.parquet").write_text("no")
    with pytest.raises(LogError, match="cannot be read as Parquet"):
        chooser.answer_file(policy, tmp_path / "page.parquet", tmp_path / "new")


def test_two_requests_of_one_id_are_refused_wherever_they_stand(policy, small_log, tmp_path):
    rows = requests.from_log(small_log.split("test").take(np.arange(5)))
    pq.write_table(pa.concat_tables([rows, rows.slice(2, 1)]), tmp_path / "requests.parquet")
    with pytest.raises(LogError, match="row 2, column request_id: there is another row of this id"):
        chooser.answer_file(policy, tmp_path / "requests.parquet", tmp_path / "out", batch=2)
    pq.write_table(rows, tmp_path / "requests.parquet")  # mended, it may have the same folder
    assert chooser.answer_file(policy, tmp_path / "requests.parquet", tmp_path / "out", batch=2) == (5, 0)


def test_choices_are_not_put_among_other_files(policy, small_log, tmp_path):
    file = tmp_path / "requests.parquet"
    pq.write_table(requests.from_log(small_log.split("test").take(np.arange(2))), file)
    with pytest.raises(chooser.ChoiceError, match=r"other files than choices, requests.parquet among them"):
        chooser.answer_file(policy, file, tmp_path)
    with pytest.raises(chooser.ChoiceError, match="is a file; name a folder"):
        chooser.answer_file(policy, file, file)


@pytest.fixture
def partitions(small_log, tmp_path) -> Path:
    """Requests in three files, one of them empty, and something else."""
    rows = requests.from_log(small_log.split("test").take(np.arange(20)))
    folder = tmp_path / "requests"
    for name, part in (("day=1/a", rows[:8]), ("day=1/b", rows[:0]), ("day=2/a", rows[8:])):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(part, folder / f"{name}.parquet")
    (folder / "_SUCCESS").write_text("")
    pq.write_table(rows, tmp_path / "all.parquet")
    return folder


def test_partitions_are_answered_as_one_file_is(policy, partitions, tmp_path, monkeypatch):
    monkeypatch.setattr(policy, "exploration", Exploration("epsilon", epsilon=0.5))
    chooser.answer_file(policy, tmp_path / "all.parquet", tmp_path / "one")
    assert chooser.answer_folder(policy, partitions, tmp_path / "many", batch=5) == (20, 0)
    many = pq.read_table(tmp_path / "many")  # with the day, as folders tell it
    assert many["day"].to_pylist() == [1] * 8 + [2] * 12
    assert many["request_id"].equals(pq.read_table(tmp_path / "one")["request_id"])
    assert many["shown"].equals(pq.read_table(tmp_path / "one")["shown"])
    monkeypatch.setattr(policy, "choose_many", lambda *_: pytest.fail("it was asked again"))
    assert chooser.answer_folder(policy, partitions, tmp_path / "many", batch=5) == (20, 20)


def test_what_another_process_has_is_waited_for_and_finished_where_it_dies(policy, partitions, tmp_path, monkeypatch):
    taken = tmp_path / "many" / "day=1" / "a"
    taken.mkdir(parents=True)
    code = "import filelock, sys, time\nwith filelock.FileLock(sys.argv[1]):\n    print(1, flush=True); time.sleep(99)"
    other = subprocess.Popen([sys.executable, "-c", code, str(taken / "_lock")], stdout=subprocess.PIPE)
    assert other.stdout.read(1) == b"1"
    order, real = [], chooser.answer_file

    def answered(policy, file, *given):
        order.append(file.relative_to(partitions).as_posix())
        if len(order) == 2:  # all that is free is done
            assert not list(taken.glob("part-*"))
            other.kill()
        return real(policy, file, *given)

    monkeypatch.setattr(chooser, "answer_file", answered)
    assert chooser.answer_folder(policy, partitions, tmp_path / "many") == (20, 0)
    assert order == ["day=1/b.parquet", "day=2/a.parquet", "day=1/a.parquet"]
    other.wait()


def test_folders_that_are_no_partitions_or_hold_others_choices_are_refused(policy, partitions, tmp_path):
    with pytest.raises(LogError, match="neither impressions.parquet nor Parquet files of requests"):
        chooser.answer_folder(policy, tmp_path / "nowhere", tmp_path / "out")
    for among in (partitions, partitions / "out"):
        with pytest.raises(chooser.ChoiceError, match="is among the requests"):
            chooser.answer_folder(policy, partitions, among)
    chooser.answer_folder(policy, partitions, tmp_path / "out")
    (partitions / "day=2" / "a.parquet").unlink()
    with pytest.raises(chooser.ChoiceError, match=r"day=2/a/part-00000.parquet holds no choices about"):
        chooser.answer_folder(policy, partitions, tmp_path / "out")
    with pytest.raises(chooser.ChoiceError, match="is a file; name a folder"):
        chooser.answer_folder(policy, partitions, tmp_path / "all.parquet")


def test_the_command_takes_a_folder_of_partitions(adapter, partitions, tmp_path, capsys):
    assert cli.main(["choose", str(adapter), str(partitions), str(tmp_path / "out")]) == 0
    assert "20 requests, 0 of them answered before" in capsys.readouterr().out
    assert pq.read_table(tmp_path / "out").num_rows == 20


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--explore", "epsilon", "--epsilon", "2"], "epsilon = 2.0 is not a probability"),
        (["--epsilon", "0.2"], "--epsilon goes with --explore epsilon only"),
        (["--explore", "epsilon", "--temperature", "2"], "--temperature goes with --explore softmax only"),
        (["--split", "test"], "--split goes with a log only"),
    ],
)
def test_options_that_would_do_nothing_are_refused(adapter, tmp_path, capsys, options, said):
    assert cli.main(["choose", str(adapter), str(tmp_path / "r.parquet"), str(tmp_path / "out"), *options]) == 2
    assert said in capsys.readouterr().err


# Ray Data


@pytest.fixture(scope="module")
def ray():
    ray = pytest.importorskip("ray", reason="needs ray: pip install -e .[ray]")
    pytest.importorskip("ray.data", reason="needs ray: pip install -e .[ray]")
    # More processors than there are: reading and writing need some beside the actors'.
    ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def asked(small_log, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("asked")
    rows = requests.from_log(small_log.split("train"))
    for number in range(4):
        pq.write_table(rows[100 * number : 100 * (number + 1)], folder / f"{number}.parquet")
    return folder


def by_actors(ray, who: type, adapter: Path, asked: Path, out: Path) -> pa.Table:
    """As in docs/scale.md."""
    ray.data.read_parquet(str(asked)).repartition(4).map_batches(
        who,
        fn_constructor_args=(adapter, Exploration("epsilon", epsilon=0.4)),
        batch_format="pyarrow",
        batch_size=16,
        compute=ray.data.ActorPoolStrategy(size=2),
    ).write_parquet(str(out))
    return pq.read_table(out).sort_by("request_id")


@pytest.mark.slow
def test_actors_choose_as_one_process_does_even_if_one_is_killed(ray, adapter, asked, tmp_path):
    class Dies(chooser.Chooser):  # made here, and so sent to the workers as it is
        def __call__(self, rows):
            import os
            import signal

            found = self.choose_many(rows)
            with contextlib.suppress(FileExistsError):
                if rows["request_id"][0].as_py() in last:
                    (tmp_path / "died").touch(exist_ok=False)
                    os.kill(os.getpid(), signal.SIGKILL)
            return found

    # Of each file all but the last batch is answered by then.
    last = {pq.read_table(file)["request_id"][96].as_py() for file in asked.iterdir()}
    options = ["--explore", "epsilon", "--epsilon", "0.4"]
    assert cli.main(["choose", str(adapter), str(asked), str(tmp_path / "alone"), *options]) == 0
    alone = pq.read_table(tmp_path / "alone").sort_by("request_id")
    for who in (chooser.Chooser, Dies):
        found = by_actors(ray, who, adapter, asked, tmp_path / who.__name__)
        assert (tmp_path / "died").exists() == (who is Dies)
        assert found.schema.equals(alone.schema)
        for column in ("request_id", "artwork_id", "shown"):
            assert found[column].equals(alone[column])
        np.testing.assert_allclose(found["propensity"], alone["propensity"], atol=1e-6)
        for column in ("probabilities", "choice"):
            flat = [pc.list_flatten(table[column]) for table in (found, alone)]
            np.testing.assert_allclose(*flat, atol=1e-5)


@pytest.mark.slow
def test_a_request_that_an_actor_cannot_answer_is_named(ray, adapter, asked, tmp_path):
    rows = pq.read_table(asked / "0.parquet")[:3].to_pylist()
    rows[1]["candidates"] = []
    (tmp_path / "asked").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, requests.SCHEMA), tmp_path / "asked" / "0.parquet")
    with pytest.raises(Exception, match=r"LogError: the requests, row 1, column candidates: \[\] has no candidate"):
        by_actors(ray, chooser.Chooser, adapter, tmp_path / "asked", tmp_path / "out")


# The round trip: what is chosen becomes the next log


def served(log: Log, answers: pa.Table, rng: np.random.Generator) -> Log:
    """The log of a service that shows what was chosen, and of members who do as the truth says."""
    shown = answers["shown"].to_numpy()
    played = rng.random(len(shown)) < log.expected_reward()[np.arange(len(shown)), shown]
    columns = {
        "shown": pa.array(shown),
        "propensity": answers["propensity"],
        "production": answers["probabilities"],
        "reward": pa.array(played.astype(float)),
    }
    return dataclasses.replace(log, impressions=replaced(log.impressions, columns), manifest={})


def test_choices_with_exploration_make_a_log_that_judges_other_policies(adapter, small_log, tmp_path):
    some = small_log.split("test")
    some.save(tmp_path / "log")
    options = ["--explore", "epsilon", "--epsilon", "0.5", "--batch", "64"]
    arguments = ["choose", str(adapter), str(tmp_path / "log"), str(tmp_path / "choices"), *options]
    assert cli.main(arguments) == cli.main(arguments) == 0
    answers = pq.read_table(tmp_path / "choices")
    assert answers["request_id"].to_pylist() == some.impressions["impression_id"].to_pylist()
    served(some, answers, np.random.default_rng(0)).save(tmp_path / "next")
    log = Log.load(tmp_path / "next")  # valid
    assert not [line for line in log.warnings() if "propensity" in line]
    arrays, q = log.arrays(), some.expected_reward()
    rows, policies = np.arange(len(arrays)), {"production": arrays.production, "oracle": baselines.oracle(some)}
    table = evaluation.evaluate(log, log, policies, n_bootstrap=200)
    table = table[(table["slice"] == "all") & (table["estimator"] == "ips")].set_index("policy")
    for name, target in policies.items():
        terms = target[rows, arrays.shown] / arrays.propensity * arrays.reward
        assert table.loc[name, "value"] == pytest.approx(terms.mean())
        assert abs((terms - (target * q).sum(axis=1)).mean()) < 3.5 * terms.std() / np.sqrt(len(terms))
    assert table.loc["oracle", "ess"] > 5
