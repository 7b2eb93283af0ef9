"""A server that speaks OpenAI's chat completions as well or badly as a test wants it to."""

import base64
import collections
import contextlib
import http.server
import io
import json
import threading
from collections.abc import Callable, Iterator

from PIL import Image


def reply(text, finish: str = "stop", usage: dict | None = None) -> bytes:
    """The body of a chat completion."""
    choice = {"message": {"content": text}, "finish_reason": finish}
    return json.dumps({"choices": [choice], "usage": usage}).encode()


def number(body: dict) -> int:
    """Which of the pictures of `made_pictures` a request shows."""
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    assert url.startswith("data:image/jpeg;base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    return round(picture.getpixel((1, 1))[0] / 10)


def words(body: dict) -> str:
    """What a request says."""
    content = body["messages"][0]["content"]
    return content if isinstance(content, str) else content[1]["text"]


@contextlib.contextmanager
def serving(behave: Callable) -> Iterator["Server"]:
    """A server at work.

    Args:
        behave: (body of the request, how often it has been asked just this) -> what to send: bytes, or (status,
            headers, bytes), or an iterator of bytes, sent one after the other.
    """
    server = Server(behave)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, behave: Callable):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behave, self.bodies, self.headers = behave, [], []
        self.times: collections.Counter = collections.Counter()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def numbers(self) -> list[int]:
        """The pictures that were asked about, in order, with repetitions."""
        return [number(body) for body in self.bodies]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.bodies.append(body)
            self.server.headers.append(dict(self.headers))
            self.server.times[json.dumps(body)] += 1
            time = self.server.times[json.dumps(body)]
        made = self.server.behave(body, time)
        status, headers, sent = made if isinstance(made, tuple) else (200, {}, made)
        with contextlib.suppress(OSError):  # the client has gone
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            for part in [sent] if isinstance(sent, bytes) else sent:
                self.wfile.write(part)

    def log_message(self, *_):
        pass
