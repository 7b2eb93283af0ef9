"""Chat completions from a server that speaks OpenAI's protocol: vLLM, Ollama, llama.cpp's, or a hosted one.

Servers are busy, restart, or never stop talking: what passes is tried again with growing pauses, and every answer is
bounded in bytes and in seconds. What cannot be had is an exception, which stops no other question.
"""

import concurrent.futures
import contextlib
import dataclasses
import email.utils
import json
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from artlib import ArtlibError

LARGEST = 4_000_000  # bytes of a reply
LONGEST_PAUSE = 120.0  # seconds, also where the server asks for more
Asked = TypeVar("Asked")
Found = TypeVar("Found")


class EndpointError(ArtlibError):
    """No answer.

    Attributes:
        kind: in a few words, to be counted by.
        status: of the reply; 0 where there was none.
    """

    def __init__(self, kind: str, message: str, status: int = 0):
        super().__init__(message)
        self.kind, self.status = kind, status


class Unusable(EndpointError):
    """The server is not there, or refuses whoever asks: no other question would fare better."""


class _Passing(Exception):
    """What may be gone when asked again.

    Attributes:
        pause: seconds that the server wants to be left alone; None if it does not say.
    """

    def __init__(self, error: EndpointError, pause: float | None = None):
        self.error, self.pause = error, pause


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a model wrote.

    Attributes:
        cut: it wrote up to the limit and was stopped.
        prompt_tokens, completion_tokens: 0 where the server does not say.
    """

    text: str
    cut: bool = False
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Endpoint:
    """A model on a server; a context manager around all questions, which may come from several threads.

    The key, if one is needed, is read from OPENAI_API_KEY.

    Args:
        url: up to and including /v1.
        model_name: as the server knows it.
        timeout: seconds for an answer, from the first byte sent to the last one received.
        tries: how often a question is asked of a server that is busy, fails (429, 5xx) or is silent.
        pause: seconds before the second try, doubled before each further one, unless the server says (Retry-After).
    """

    def __init__(self, url: str, model_name: str, timeout: float = 60.0, tries: int = 4, pause: float = 1.0):
        self.url, self.model_name = url.rstrip("/"), model_name
        self.timeout, self.tries, self.pause = timeout, tries, pause
        self._client: Any = None
        self._left = threading.Event()
        self._unusable: Unusable | None = None

    def __enter__(self) -> "Endpoint":
        import httpx

        key = os.environ.get("OPENAI_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # As many connections as there are threads.
        self._client = httpx.Client(timeout=self.timeout, headers=headers, limits=httpx.Limits(max_connections=None))
        self._left.clear()
        self._unusable = None
        return self

    def __exit__(self, *_) -> None:
        self.leave()
        self._client.close()

    def leave(self) -> None:
        """Have pauses end at once, without another try."""
        self._left.set()

    def complete(self, messages: list[dict], **options) -> Answer:
        """Ask for the likeliest answer.

        Args:
            messages: as the protocol has them.
            options: more of the request: max_tokens, response_format.

        Raises:
            EndpointError: there is none after all tries, or it is no completion.
            Unusable: nor would there be for other questions; from then on it is raised without asking.
        """
        if self._unusable:
            raise self._unusable
        body = {"model": self.model_name, "messages": messages, "temperature": 0, **options}
        for attempt in range(1, self.tries + 1):
            try:
                return _answer(self.url, self._post(body))
            except _Passing as failure:
                pause = self.pause * 2 ** (attempt - 1) * random.uniform(1, 1.25)  # lest all threads come back at once
                pause = min(LONGEST_PAUSE, pause if failure.pause is None else failure.pause)
                if attempt == self.tries or self._left.wait(pause):
                    self._remember(failure.error)
                    raise failure.error from None
            except Unusable as error:
                self._remember(error)
                raise
        raise ValueError(f"tries = {self.tries} must be at least 1")

    def _remember(self, error: EndpointError) -> None:
        if isinstance(error, Unusable):
            self._unusable = error
            self.leave()

    def _post(self, body: dict) -> bytes:
        import httpx

        url, until, received = f"{self.url}/chat/completions", time.monotonic() + self.timeout, bytearray()
        try:
            with self._client.stream("POST", url, json=body) as reply:
                # Read by hand: the client's timeout is for one read, and some servers drip for ever.
                for part in reply.iter_bytes():
                    received += part
                    if len(received) > LARGEST:
                        raise EndpointError("endless reply", f"{url}: its reply has more than {LARGEST:,} bytes")
                    if time.monotonic() > until:
                        raise httpx.ReadTimeout("the reply is not complete")
        except httpx.TimeoutException:
            error = EndpointError("timeout", f"{url}: no complete reply in {self.timeout:g} s")
            raise _Passing(error) from None
        except (httpx.ConnectError, httpx.UnsupportedProtocol) as error:
            raise _Passing(Unusable("no connection", f"{url} cannot be reached ({error}); is the server up?")) from None
        except httpx.HTTPError as error:
            raise _Passing(EndpointError("broken connection", f"{url}: {type(error).__name__}: {error}")) from None
        if reply.is_success:
            return bytes(received)
        said = " ".join(received[:300].decode(errors="replace").split())
        kind = f"HTTP {reply.status_code}"
        if reply.status_code in (401, 403, 404):
            raise Unusable(kind, f"{url}: {kind} for model {self.model_name!r}: {said}", reply.status_code)
        failed = EndpointError(kind, f"{url}: {kind}: {said}", reply.status_code)
        if reply.status_code in (408, 429) or reply.status_code >= 500:
            raise _Passing(failed, _retry_after(reply.headers.get("Retry-After")))
        raise failed


def _answer(url: str, reply: bytes) -> Answer:
    try:
        content = json.loads(reply)
        choice, usage = content["choices"][0], content.get("usage")
        text = choice["message"]["content"]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise EndpointError("no completion", f"{url}: the reply is no chat completion: {reply[:100]!r}") from None
    if not isinstance(text, str):
        raise EndpointError("no text", f"{url}: the answer is a {type(text).__name__}, not text")
    used = [usage.get(name) if isinstance(usage, dict) else 0 for name in ("prompt_tokens", "completion_tokens")]
    counts = [count if isinstance(count, int) else 0 for count in used]
    return Answer(text, choice.get("finish_reason") == "length", *counts)


def _retry_after(value: str | None) -> float | None:
    """Seconds from now, given them or a date."""
    if not value:
        return None
    with contextlib.suppress(ValueError):
        return max(0.0, float(value))
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None


def concurrently(
    ask: Callable[[Asked], Found],
    questions: Iterable[Asked],
    workers: int,
    leave: Callable[[], None],
    every: float | None = None,
) -> Iterator[tuple[Asked, Found | Exception] | None]:
    """Ask several questions at once; yield each with what came of it, in the order of coming.

    Args:
        ask: called from `workers` threads; what it raises is yielded in the answer's place.
        leave: called when whoever iterates has had enough, so that what is under way ends soon.
        every: yield None, too, when nothing has come for so many seconds.
    """
    came: queue.SimpleQueue = queue.SimpleQueue()  # waiting for all futures anew would take longer the more there are
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        under_way = {pool.submit(ask, question): question for question in questions}
        for future in list(under_way):
            future.add_done_callback(came.put)
        try:
            while under_way:
                try:
                    future = came.get(timeout=every)
                except queue.Empty:
                    yield None
                    continue
                question, error = under_way.pop(future), future.exception()
                if error is not None and not isinstance(error, Exception):
                    raise error
                yield question, error or future.result()
        finally:
            if under_way:
                leave()
            pool.shutdown(cancel_futures=True)
