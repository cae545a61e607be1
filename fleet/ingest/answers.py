"""What a download is answered with: a part of a file, or a refusal that says why.

Ranges as in RFC 9110, 14: one of them in each request, as devices ask.
"""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

_RANGE: Final = re.compile(r"bytes=(\d{1,12})-(\d{0,12})|bytes=-(\d{1,12})")

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What a request is answered with: ``length`` bytes of a file from ``first`` on."""

    first: int
    length: int
    size: int
    whole: bool


class NotServed(Exception):  # noqa: N818 - an answer, not a fault of this program
    """A request that is answered with a refusal."""

    def __init__(self, status: int, code: str, why: str, **headers: str) -> None:
        super().__init__(why)
        self.status = status
        self.code = code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def choose_part(wanted: str | None, size: int) -> Part:
    """Return the part of a file that a ``Range`` header asks for.

    Raises:
        NotServed: 416: there is no such part, or more than one range is asked for.

    """
    if wanted is None:
        return Part(first=0, length=size, size=size, whole=True)
    match = _RANGE.fullmatch(wanted.strip())
    if match is not None and match[3] is not None:
        length = min(int(match[3]), size)
        first, last = size - length, size - 1
    elif match is not None:
        first = int(match[1])
        last = min(int(match[2]) if match[2] else size - 1, size - 1)
    else:
        first, last = size, -1
    if first > last:
        raise NotServed(
            416,
            "range",
            f"ask for one range of the {size} bytes, as in `Range: bytes=0-65535`",
            content_range=f"bytes */{size}",
        )
    return Part(first=first, length=last - first + 1, size=size, whole=False)


async def begin(send: Send, part: Part) -> None:
    """Send the head of an answer that brings a part."""
    headers = {
        "content-type": "application/octet-stream",
        "content-length": str(part.length),
        "accept-ranges": "bytes",
        "cache-control": "private, no-store",
    }
    if not part.whole:
        last = part.first + part.length - 1
        headers["content-range"] = f"bytes {part.first}-{last}/{part.size}"
    await send(_start(200 if part.whole else 206, headers))


async def refuse(send: Send, why: NotServed) -> None:
    """Send a refusal: JSON with a stable code and one sentence."""
    body = msgspec.json.encode({"code": why.code, "why": str(why)})
    headers = {"content-type": "application/json", "content-length": str(len(body)), **why.headers}
    await send(_start(why.status, headers))
    await send({"type": "http.response.body", "body": body})


def _start(status: int, headers: dict[str, str]) -> Message:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": raw}
