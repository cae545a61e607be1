"""What goes back over HTTP: a status, a body, and the standard's error body for all but 200.

Rule 1: every answer that is not 200 is ``{"error": "…"}`` with one sentence.
Rule 2: whose fault it was decides the status: 4xx the caller's, 500 the model's, 503 and 504
        for what may go better when it is asked again.
"""

from http import HTTPStatus
from typing import Final

from msgspec import Struct

from agent.errors import (
    AgentError,
    ContractError,
    DeadlineError,
    InputRefusedError,
    NotServingError,
    UnknownModelError,
    WorkerError,
)
from agent.infer.oip.documents import write_error
from agent.infer.oip.exchange import Framed
from agent.refusals import OversizedError

RETRY_SECONDS: Final = 1
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_STATUSES: Final = (
    (UnknownModelError, HTTPStatus.NOT_FOUND),
    (OversizedError, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (InputRefusedError, HTTPStatus.BAD_REQUEST),
    (ContractError, HTTPStatus.BAD_REQUEST),
    (NotServingError, HTTPStatus.SERVICE_UNAVAILABLE),
    (DeadlineError, HTTPStatus.GATEWAY_TIMEOUT),
    (WorkerError, HTTPStatus.SERVICE_UNAVAILABLE),
)
_AGAIN: Final = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}


class Reply(Struct, frozen=True, gc=False):
    """An answer.

    Attributes:
        status: Of HTTP.
        body: JSON, or JSON with raw tensors behind it.
        json_length: Bytes of the JSON, where something stands behind it.
        reason: Under which a refusal is counted; "" for an answer.
        allow: Methods that would have done, for 405.

    """

    status: int
    body: bytes
    json_length: int | None = None
    reason: str = ""
    allow: str = ""

    def written(self, *, keep_alive: bool) -> bytes:
        """Return status line, headers and body."""
        head = f"HTTP/1.1 {self.status} {_PHRASES.get(self.status, '')}\r\n"
        if self.json_length is None:
            head += "Content-Type: application/json\r\n"
        else:
            head += (
                "Content-Type: application/octet-stream\r\n"
                f"Inference-Header-Content-Length: {self.json_length}\r\n"
            )
        if not keep_alive:
            head += "Connection: close\r\n"
        if self.status in _AGAIN:
            head += f"Retry-After: {RETRY_SECONDS}\r\n"
        if self.status == HTTPStatus.UNAUTHORIZED:
            head += "WWW-Authenticate: Bearer\r\n"
        if self.allow:
            head += f"Allow: {self.allow}\r\n"
        return f"{head}Content-Length: {len(self.body)}\r\n\r\n".encode() + self.body


def answer(framed: Framed) -> Reply:
    """Return the answer of a model."""
    return Reply(HTTPStatus.OK, framed.content, framed.json_length)


def document(body: bytes, status: int = HTTPStatus.OK) -> Reply:
    """Return a JSON document."""
    return Reply(status, body)


def refuse(status: int, reason: str, sentence: str) -> Reply:
    """Return a refusal; ``reason`` is the word it is counted under."""
    return Reply(status, write_error(sentence), reason=reason)


def refuse_method(allowed: str) -> Reply:
    """Return the refusal of a method where another one would do."""
    sentence = f"this path is for {allowed}"
    return Reply(
        HTTPStatus.METHOD_NOT_ALLOWED, write_error(sentence), reason="method", allow=allowed
    )


def of_error(why: AgentError) -> Reply:
    """Return the refusal that an error of the tree is."""
    for kind, status in _STATUSES:
        if isinstance(why, kind):
            return refuse(status, why.code, str(why))
    return refuse(HTTPStatus.INTERNAL_SERVER_ERROR, why.code, str(why))


def of_bug(why: Exception) -> Reply:
    """Return the answer to what the agent could not name; its log has the rest."""
    sentence = f"the agent failed with {type(why).__name__}; its log says where"
    return refuse(HTTPStatus.INTERNAL_SERVER_ERROR, "bug", sentence)
