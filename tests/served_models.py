"""An inference server over real models, as a test asks it; and raw HTTP to ask it with."""

import json
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Self

import msgspec
import numpy as np

from agent.config_serving import ServeConfig
from agent.errors import UnknownModelError
from agent.infer.loaded import Loaded
from agent.infer.onnx import OnnxRuntime
from agent.infer.requests import Offered, Request, Response
from agent.infer.runtime import Runtime
from agent.infer.server.desk import Models
from agent.infer.server.endpoint import Endpoint
from agent.infer.serving import Serving
from agent.observe.windows import WindowRecorder
from tests.small_models import SAMPLES, classifier, digest_of, release_of

TOKEN = "a-token-that-nobody-guesses"


def loaded(model: bytes | Runtime | None = None, *, version: str = "1", **members: Any) -> Loaded:
    """Return a model as it is served: a classifier, or what ``members`` make of its release."""
    content = model if isinstance(model, bytes) else classifier(0)
    release = msgspec.structs.replace(release_of(content, version=version), **members)
    digest = digest_of(release)
    recorder = WindowRecorder("motion", digest, len(release.classes), now_ms=0)
    runtime = OnnxRuntime(content) if model is None or isinstance(model, bytes) else model
    return Loaded(digest=digest, release=release, runtime=runtime, observer=recorder)


PLAIN: dict[str, Any] = {"windowing": None, "classes": (), "probabilities": None, "head": None}
"""Members of the release of a model without classes."""


@dataclass
class Place:
    """Slots as the daemon has them, and the server before them."""

    servings: dict[str, Serving]
    endpoint: Endpoint
    path: Path
    ended: list[str] = field(default_factory=list)

    def client(self, *, tcp: bool = False) -> "Client":
        """Connect anew."""
        if tcp:
            assert self.endpoint.tcp_port is not None
            there = socket.create_connection(("127.0.0.1", self.endpoint.tcp_port), 10)
        else:
            there = socket.socket(socket.AF_UNIX)
            there.settimeout(10)
            there.connect(str(self.path))
        return Client(there)


@contextmanager
def serving(
    folder: Path, models: dict[str, Loaded | None] | None = None, **members: Any
) -> Iterator[Place]:
    """Serve some models, by default one classifier in slot ``motion``.

    ``request`` and ``actions`` among the members replace or add to what is served; the others
    are those of ``[serve]``.
    """
    servings = {
        slot: Serving(slot=slot) for slot in (models if models is not None else {"motion": None})
    }
    for slot, model in (models if models is not None else {"motion": loaded()}).items():
        if model is not None:
            servings[slot].serve(model)

    def request(slot: str, asked: Request) -> Response:
        if slot not in servings:
            raise UnknownModelError(f"there is no model {slot!r} here")
        return servings[slot].request(asked)

    def offered() -> tuple[Offered, ...]:
        return tuple(one.offered() for one in servings.values())

    served = Models(
        request=members.pop("request", request),
        offered=members.pop("offered", offered),
        actions=members.pop("actions", {}),
        version="9.9",
    )
    if members.pop("tcp", False):
        token = folder / "token"
        token.touch(0o600)
        token.write_text(TOKEN + "\n")
        members |= {"tcp": "127.0.0.1:0", "token_file": token}
    path = folder / "inference.sock"
    ended: list[str] = []
    config = ServeConfig(**{"socket": path, "requests_per_second": 1e6, **members})
    endpoint = Endpoint(config, served, ended.append)
    endpoint.start()
    try:
        yield Place(servings, endpoint, path, ended)
    finally:
        assert endpoint.stop()
        for one in servings.values():
            one.close()


@dataclass(frozen=True)
class Heard:
    """A reply."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The JSON of the body; raw tensors behind it are left alone."""
        length = self.headers.get("inference-header-content-length")
        return json.loads(self.body[: int(length)] if length else self.body)

    @property
    def error(self) -> str:
        """The sentence of a refusal, which is all that its body holds."""
        assert self.status != 200
        assert self.headers["content-type"] == "application/json"
        assert set(self.json) == {"error"}
        return str(self.json["error"])


class Client:
    """Raw HTTP over one connection."""

    def __init__(self, there: socket.socket) -> None:
        self.there = there
        self._held = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.there.close()

    def send(self, raw: bytes) -> None:
        """Send bytes as they are."""
        self.there.sendall(raw)

    def pour(self, part: bytes) -> None:
        """Send the same again and again, until there is a reply."""
        while not select.select([self.there], [], [], 0)[0]:
            self.send(part)

    def send_for_ever(self, part: bytes) -> NoReturn:
        """Send the same again and again, until it cannot be sent."""
        while True:
            self.send(part)

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Heard:
        """Ask, and hear the reply."""
        self.send(written(method, path, body, headers))
        return self.hear()

    def infer(self, body: bytes, headers: dict[str, str] | None = None) -> Heard:
        """Ask the model of slot ``motion``."""
        return self.ask("POST", "/v2/models/motion/infer", body, headers)

    def hear(self) -> Heard:
        """Read one reply."""
        head = self._until(b"\r\n\r\n").decode("latin-1")
        first, *lines = head.split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        length = int(headers.get("content-length", 0))
        while len(self._held) < length:
            self._read()
        body, self._held = self._held[:length], self._held[length:]
        return Heard(int(first.split()[1]), headers, body)

    def is_closed(self) -> bool:
        """Wait until the other side has closed."""
        try:
            return not self._held and not self.there.recv(1)
        except ConnectionError:
            return True

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._held:
            self._read()
        found, _, self._held = self._held.partition(mark)
        return found

    def _read(self) -> None:
        more = self.there.recv(65536)
        if not more:
            raise ConnectionError(f"closed after {self._held!r}")
        self._held += more


def written(
    method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> bytes:
    """Return a request as it travels."""
    said = {"Host": "localhost", "Content-Length": str(len(body)), **(headers or {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in said.items() if value is not None)
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body


def window(seed: int = 0) -> np.ndarray:
    """Return an input of the classifier."""
    return np.random.default_rng(seed).normal(size=(1, 3, SAMPLES)).astype(np.float32)


def question(x: np.ndarray | None = None, **more: Any) -> bytes:
    """Return a request in JSON."""
    x = window() if x is None else x
    tensor = {"name": "x", "shape": x.shape, "datatype": "FP32", "data": x.ravel().tolist()}
    return json.dumps({"inputs": [tensor], **more}).encode()
