"""Servers that are busy, slow, endless or gone: what passes is tried again, nothing hangs, each fault has a name."""

import email.utils
import itertools
import socket
import threading
import time

import pytest
from made_server import reply, serving

from artlib.lm import endpoint

ASKED = [{"role": "user", "content": "Question?"}]


def complete(server, **options) -> endpoint.Answer:
    with endpoint.Endpoint(server.url, "judge", **({"timeout": 5, "pause": 0.01} | options)) as judge:
        return judge.complete(ASKED, max_tokens=9)


def test_an_answer_comes_with_its_tokens_and_the_key_is_sent(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with serving(lambda *_: reply("Yes.", "length", {"prompt_tokens": 5, "completion_tokens": 2})) as server:
        assert complete(server) == endpoint.Answer("Yes.", True, 5, 2)
    (body,), (headers,) = server.bodies, server.headers
    assert body == {"model": "judge", "messages": ASKED, "temperature": 0, "max_tokens": 9}
    assert headers["Authorization"] == "Bearer secret"


@pytest.mark.parametrize("usage", [None, [], {"prompt_tokens": "many"}])
def test_usage_that_is_none_counts_as_none(usage):
    with serving(lambda *_: reply("Yes.", usage=usage)) as server:
        assert complete(server) == endpoint.Answer("Yes.")


@pytest.mark.parametrize("status", [408, 429, 500, 503, 529])
def test_a_server_that_is_busy_twice_answers_at_last(status):
    with serving(lambda _, time: reply("Yes.") if time == 3 else (status, {}, b"busy")) as server:
        assert complete(server).text == "Yes." and len(server.bodies) == 3


def test_a_server_that_stays_busy_is_given_up_by_name():
    with serving(lambda *_: (503, {}, b"overloaded, come back")) as server:
        with pytest.raises(endpoint.EndpointError, match="HTTP 503: overloaded, come back") as caught:
            complete(server, tries=3)
    assert (caught.value.kind, caught.value.status, len(server.bodies)) == ("HTTP 503", 503, 3)


def test_pauses_grow_and_the_server_may_say_how_long(monkeypatch):
    pauses = []
    monkeypatch.setattr(threading.Event, "wait", lambda self, timeout=None: pauses.append(timeout))
    monkeypatch.setattr(endpoint.random, "uniform", lambda low, high: low)
    said = [{}, {"Retry-After": "7"}, {}, {"Retry-After": "9999"}, {"Retry-After": "soon"}]
    dates = [time.time() + 30, time.time() - 30]
    said += [{"Retry-After": email.utils.formatdate(date, usegmt=True)} for date in dates]
    judge = endpoint.Endpoint("http://localhost/v1", "judge", tries=9)
    replies = iter(said)

    def post(_):
        if (headers := next(replies, None)) is None:
            return reply("Yes.")
        raise endpoint._Passing(endpoint.EndpointError("busy", ""), endpoint._retry_after(headers.get("Retry-After")))

    monkeypatch.setattr(judge, "_post", post)
    assert judge.complete(ASKED).text == "Yes."
    assert pauses[:5] == [1, 7, 4, endpoint.LONGEST_PAUSE, 16]
    assert 28 < pauses[5] <= 30 and pauses[6] == 0


def test_retry_after_is_waited_for():
    begun = time.monotonic()
    with serving(lambda _, time: reply("Yes.") if time == 2 else (429, {"Retry-After": "0.3"}, b"")) as server:
        assert complete(server, pause=30).text == "Yes."
    assert 0.3 <= time.monotonic() - begun < 10


def dripping():
    while True:
        time.sleep(0.05)
        yield b" "


@pytest.mark.parametrize("silent", [True, False])
def test_a_server_that_is_silent_or_drips_for_ever_times_out(silent):
    release = threading.Event()
    begun = time.monotonic()

    def behave(*_):
        if silent:
            release.wait(5)
        return dripping()

    with serving(behave) as server:
        with pytest.raises(endpoint.EndpointError, match="no complete reply in 0.3 s") as caught:
            complete(server, timeout=0.3, tries=2)
        release.set()
    assert caught.value.kind == "timeout" and len(server.bodies) == 2 and time.monotonic() - begun < 4


def test_an_endless_reply_is_cut_short():
    with serving(lambda *_: itertools.repeat(b"{" * 65536)) as server:
        with pytest.raises(endpoint.EndpointError, match="more than 4,000,000 bytes") as caught:
            complete(server)
    assert caught.value.kind == "endless reply" and len(server.bodies) == 1


@pytest.mark.parametrize("sent", [b"<html>", b"", b"[]", b'{"choices": []}', b'{"choices": [7]}', b'{"error": "x"}'])
def test_what_is_no_completion_is_said_to_be_none(sent):
    with serving(lambda *_: sent) as server, pytest.raises(endpoint.EndpointError) as caught:
        complete(server)
    assert caught.value.kind == "no completion"


def test_a_completion_without_text_is_said_to_have_none():
    with serving(lambda *_: reply(None)) as server, pytest.raises(endpoint.EndpointError, match="a NoneType, not text"):
        complete(server)


@pytest.mark.parametrize("status", [401, 404])
def test_a_server_that_refuses_whoever_asks_is_asked_once(status):
    with serving(lambda *_: (status, {}, b"no such model")) as server:
        with endpoint.Endpoint(server.url, "judge", pause=0.01) as judge:
            for _ in range(2):
                with pytest.raises(endpoint.Unusable, match="for model 'judge': no such model"):
                    judge.complete(ASKED)
    assert len(server.bodies) == 1


def test_a_server_that_is_not_there_is_tried_again_and_then_left_alone():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    with endpoint.Endpoint(url, "judge", tries=3, pause=0.1) as judge:
        begun = time.monotonic()
        with pytest.raises(endpoint.Unusable, match="cannot be reached"):
            judge.complete(ASKED)
        first = time.monotonic() - begun
        with pytest.raises(endpoint.Unusable):
            judge.complete(ASKED)
    assert first >= 0.3 and time.monotonic() - begun - first < 0.1


def test_another_fault_is_not_tried_again():
    with serving(lambda *_: (400, {}, b"bad picture")) as server, pytest.raises(endpoint.EndpointError) as caught:
        complete(server)
    assert not isinstance(caught.value, endpoint.Unusable) and (caught.value.status, len(server.bodies)) == (400, 1)


def test_answers_come_as_they_are_ready_and_silence_shows():
    gate = threading.Event()

    def ask(question: int) -> int:
        if question == 0:
            gate.wait(5)
        if question == 2:
            raise KeyError(question)
        return question * 10

    came = []
    for found in endpoint.concurrently(ask, range(4), 2, lambda: None, every=0.05):
        came.append(found)
        if found is None:
            gate.set()
    assert None in came and came[-1] == (0, 0)
    answers = dict(found for found in came if found is not None)
    assert isinstance(answers.pop(2), KeyError) and answers == {0: 0, 1: 10, 3: 30}


def test_whoever_has_had_enough_waits_for_no_pause():
    begun = time.monotonic()
    with serving(lambda body, _: reply("Yes.") if "0" in str(body["messages"]) else (503, {}, b"")) as server:
        with endpoint.Endpoint(server.url, "judge", pause=30) as judge:
            asked = [[{"role": "user", "content": str(i)}] for i in range(4)]
            found = endpoint.concurrently(judge.complete, asked, 4, judge.leave)
            assert next(found)[1].text == "Yes."
            found.close()
    assert time.monotonic() - begun < 10
