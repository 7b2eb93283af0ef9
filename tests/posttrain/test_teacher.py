"""Teachers: what they write is checked, kept and asked for once; their failures are counted and stop nothing."""

import dataclasses
import http.server
import json
import threading
import time

import numpy as np
import pytest

from artlib import data
from artlib.lm import embedded, model, prompts
from artlib.lm.prompts import label, reasoned
from artlib.posttrain import teacher
from artlib.worlds import fiction_text, movielens_text

REASON = "The viewer watches space films, and the picture shows a rocket."


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (f"{REASON}\nAnswer: B", None),
        (f"{REASON}\nAnswer: B\n\n", None),
        (f"{REASON}\nAnswer: C", "another choice"),
        (f"{REASON}\nAnswer: B, I think", "no final answer"),
        (f"{REASON} Answer: B", "no final answer"),
        ("Answer: B", "too short"),
        (f"{REASON * 20}\nAnswer: B", "too long"),
        (f"Poster B fits. {REASON}\nAnswer: B", "names its letter before"),
        (f"{REASON} So it is B.\nAnswer: B", "names its letter before"),
        (f"{REASON} (B)\nAnswer: B", "names its letter before"),
        (f"B. {REASON}\nAnswer: B", "names its letter before"),
        ("", "no final answer"),
    ],
)
def test_faults_of_an_answer_to_a_question_with_choice_b(answer, expected):
    assert teacher.fault(answer, "B") == expected


@pytest.mark.parametrize(
    ("reason", "named"),
    [
        ("A viewer of space films meets a rocket here.", False),
        ("It is poster A that shows the rocket.", True),
        ("The rocket is what draws them (A).", True),
    ],
)
def test_the_article_a_does_not_give_letter_a_away(reason, named):
    assert teacher.fault(f"{reason}\nAnswer: A", "A") == ("names its letter before" if named else None)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("because\nAnswer: C", "C"),
        ("Answer: C", "C"),
        ("Answer: C.", None),
        ("answer: c", None),
        ("Answer: CD", None),
        ("I answer: Answer: C", None),
        ("Answer: C\nor D", None),
        ("", None),
    ],
)
def test_answers_are_parsed_whole_or_not_at_all(text, letter):
    assert reasoned.parse(text) == letter


def questions(n: int) -> list[teacher.Question]:
    return [teacher.Question(i, f"Question {i}?", "ABC"[i % 3]) for i in range(n)]


class Server(http.server.BaseHTTPRequestHandler):
    """Speaks just enough of OpenAI's protocol, well or badly by the number in the question."""

    requests: list = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        message = body["messages"][0]["content"]
        number = int(message.split()[1].rstrip("?"))
        self.requests.append((self.path, body["model"], number))
        letter = message[-1]
        if number == 1:
            time.sleep(1.5)  # longer than the client waits
        content = {2: "no idea", 3: None, 4: f"Poster {letter} it is, I am sure of that.\nAnswer: {letter}"}.get(
            number, f"Reason {number}: {REASON}\nAnswer: {letter}\n"
        )
        reply = b"<html>" if number == 5 else json.dumps({"choices": [{"message": {"content": content}}]}).encode()
        try:
            self.send_response(500 if number == 6 else 200)
            self.end_headers()
            self.wfile.write(reply)
        except OSError:
            pass  # the client has gone

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    Server.requests = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_an_endpoint_that_times_out_or_answers_rubbish_loses_nothing_and_is_counted(server, tmp_path):
    endpoint = teacher.Endpoint(server, "judge", timeout=0.5, workers=3, pause=0.01)
    usable, counts = teacher.write(questions(10), endpoint, tmp_path / "reasons.jsonl")
    assert sorted(usable) == [0, 7, 8, 9]
    assert usable[7] == f"Reason 7: {REASON}\nAnswer: B"
    assert counts["questions"] == counts["asked"] == 10 and counts["usable"] == 4
    faults = counts["faults"]
    assert faults.pop("no final answer") == 1 and faults.pop("names its letter before") == 1
    assert sum(faults.values()) == 4 and all(kind.startswith("no answer (") for kind in faults)
    assert {(path, name) for path, name, _ in Server.requests} == {("/v1/chat/completions", "judge")}


def test_only_what_is_missing_is_asked_again(server, tmp_path):
    endpoint, path = teacher.Endpoint(server, "judge", timeout=0.5, pause=0.01), tmp_path / "reasons.jsonl"
    first, _ = teacher.write(questions(4)[2:] + questions(9)[7:], endpoint, path)
    Server.requests.clear()
    with open(path, "a") as file:
        file.write('{"key": "cut o')  # killed while writing
    second, counts = teacher.write(questions(9)[7:] + questions(10)[9:], endpoint, path)
    assert [number for _, _, number in Server.requests] == [9] and counts["asked"] == 1
    assert set(second) == {7, 8, 9} and second[7] == first[7]
    third, counts = teacher.write(questions(10)[7:], endpoint, path)
    assert third == second and counts["asked"] == 0
    kept, counts = teacher.write(questions(12)[7:], endpoint, path, ask=False)
    assert kept == second and counts["asked"] == 0 and counts["questions"] == 5
    other = teacher.write(questions(8)[7:], teacher.Endpoint(server, "another", timeout=0.5, pause=0.01), path)[1]
    assert other["asked"] == 1  # another teacher is another answer


def test_a_reason_is_used_once(tmp_path):
    class Parrot:
        name = identity = "parrot"

        def answers(self, asked):
            yield from ((question, f"{REASON}\nAnswer: {question.letter}") for question in asked)

    usable, counts = teacher.write(questions(5), Parrot(), tmp_path / "reasons.jsonl")
    assert list(usable) == [0] and counts["faults"] == {"duplicate": 4}


def test_the_worlds_own_reasons_are_usable_and_name_the_theme_that_is_shown(small_log, tmp_path):
    part = data.plays(small_log, "train", 40, seed=0)
    reader = prompts.reader(small_log, model.load(embedded.TINY)[1], "reasoned", max_tokens=100_000)
    asked = [
        teacher.Question(i, reader.question(prompt, np.arange(len(prompt.options))), label.LABELS[shown])
        for i, (prompt, shown) in enumerate(zip(reader.read(part), part.arrays().shown, strict=True))
    ]
    assert asked[0].text.startswith("A viewer") and "<|" not in asked[0].text
    usable, counts = teacher.write(asked, teacher.World(part), tmp_path / "reasons.jsonl")
    assert counts["usable"] + counts["faults"].get("duplicate", 0) == len(asked) and counts["usable"] > 30
    assert set(counts["faults"]) <= {"duplicate"}
    genres = fiction_text.text().genres
    assert all(any(genre in text for genre in genres) for text in usable.values())


def test_the_worlds_own_reasons_go_by_the_moods_of_movielens(small_log, tmp_path):
    words = movielens_text.words()
    genres = sorted(words["moods"])
    moods = [words["moods"][genre][0] for genre in genres] + words["other"][:1]  # whose genre nobody can tell
    captions = [f"A picture of a hat, {moods[i % len(moods)]}." for i in range(len(small_log.artworks))]
    tagged = [[genres[i % len(genres)]] for i in range(len(small_log.titles))]
    log = dataclasses.replace(
        small_log,
        manifest={"world": "movielens"},
        artworks=small_log.artworks.drop_columns("caption").append_column("caption", [captions]),
        titles=small_log.titles.drop_columns("genres").append_column("genres", [tagged]),
    )
    part = data.plays(log, "train", 60, seed=0)
    shown = [captions[int(artwork)] for artwork in part.arrays().shown_artwork]
    asked = [teacher.Question(i, f"Question {i}", "B") for i in range(len(shown))]
    usable, counts = teacher.write(asked, teacher.World(part), tmp_path / "reasons.jsonl")
    untold = sum(moods[-1] in caption for caption in shown)
    assert 0 < untold == counts["faults"]["no answer (LookupError)"] and len(usable) > 20
    for i, text in usable.items():
        genre = next(genre for genre, mood in zip(genres, moods, strict=False) if mood in shown[i])
        assert genre in text and "looks like such films" in text and text.endswith("\nAnswer: B")


def test_who_would_answer_otherwise_has_another_identity(small_log):
    parts = (data.plays(small_log, "train", most, seed=0) for most in (20, 30))
    assert len({teacher.World(part).identity for part in parts}) == 2
    assert teacher.Local("a").identity != teacher.Local("a", max_new_tokens=6).identity


def test_a_question_is_whole_without_a_chat_template(small_log):
    _, tokenizer = model.load(embedded.TINY)
    texts = []
    for template in (tokenizer.chat_template, None):
        tokenizer.chat_template = template
        reader = prompts.reader(small_log, tokenizer, "reasoned", max_tokens=100_000)
        prompt = reader.read(small_log.take(np.arange(1)))[0]
        texts.append(reader.question(prompt, np.arange(len(prompt.options))))
    assert "\nB. " in texts[1] and texts[1] == texts[0]


def test_a_local_model_answers_every_question(tmp_path):
    local = teacher.Local(embedded.TINY, dtype="float32", batch=2, max_new_tokens=6)
    found = list(local.answers(questions(3)))
    assert [question.impression for question, _ in found] == [0, 1, 2]
    assert all(isinstance(text, str) for _, text in found)


def test_teachers_are_made_by_name(small_log):
    assert isinstance(teacher.make("world", "", small_log), teacher.World)
    assert teacher.make("http://localhost:1/v1/", "qwen", small_log).name == "http://localhost:1/v1 qwen"
    assert isinstance(teacher.make("some/model", "", small_log), teacher.Local)
    with pytest.raises(ValueError, match="is an endpoint: say which of its models with teacher_model"):
        teacher.make("http://localhost:1/v1", "", small_log)
    with pytest.raises(ValueError, match="'world' knows the worlds fiction and movielens only, not 'upworthy'"):
        teacher.World(dataclasses.replace(small_log, manifest={"world": "upworthy"}))
