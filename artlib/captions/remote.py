"""A captioner on a server that speaks OpenAI's chat completions and takes pictures."""

import base64
import io
import warnings
from typing import TYPE_CHECKING, Any

from artlib.captions import schema
from artlib.lm.endpoint import Answer, Endpoint, EndpointError

if TYPE_CHECKING:
    from PIL.Image import Image


class Remote:
    """Any server's vision-language model.

    Args:
        url, model_name, timeout, tries, pause: see `endpoint.Endpoint`.
        workers: questions under way at once.
    """

    def __init__(
        self, url: str, model_name: str, workers: int = 8, timeout: float = 120.0, tries: int = 5, pause: float = 1.0
    ):
        self._server, self.workers, self._formats = Endpoint(url, model_name, timeout, tries, pause), workers, True
        self.model, self.name = model_name, f"{self._server.url} {model_name}"

    def __enter__(self) -> "Remote":
        self._server.__enter__()
        return self

    def __exit__(self, *_) -> None:
        self._server.__exit__()

    def leave(self) -> None:
        """Give up what waits for another try."""
        self._server.leave()

    def answer(self, picture: "Image", request: str, max_tokens: int) -> Answer:
        """What the model says of a picture.

        Raises:
            EndpointError: it says nothing.
        """
        content = [{"type": "image_url", "image_url": {"url": _data(picture)}}, {"type": "text", "text": request}]
        options: dict[str, Any] = {"messages": [{"role": "user", "content": content}], "max_tokens": max_tokens}
        if self._formats:
            try:
                return self._server.complete(**options, response_format=schema.response_format())
            except EndpointError as error:
                if error.status not in (400, 422):
                    raise
        answer = self._server.complete(**options)
        if self._formats:
            self._formats = False  # it was the format, then, and not the picture, that it would not take
            warnings.warn(f"{self.name} takes no response format: the prompt alone tells the schema", stacklevel=2)
        return answer


def _data(picture: "Image") -> str:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
