"""Bodies that were compressed on their way, within the limit that holds for what is in them."""

import zlib
from typing import Final

from agent.errors import MalformedError
from agent.refusals import OversizedError

_WINDOWS: Final = {"gzip": 31, "deflate": 15}
"""zlib's ``wbits`` by content coding: RFC 9110 calls the zlib format deflate."""


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """Return what a body holds.

    Args:
        body: As it came.
        encoding: The header Content-Encoding; empty for none.
        limit: Bytes that it may hold.

    Raises:
        MalformedError: An encoding that is not known, or a body that is not of it.
        OversizedError: More than the limit; no more than that was inflated.

    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body
    if name not in _WINDOWS:
        raise MalformedError(f"Content-Encoding {name[:40]!r} is not gzip or deflate")
    stream = zlib.decompressobj(_WINDOWS[name])
    try:
        found = stream.decompress(body, limit + 1)
    except zlib.error as why:
        raise MalformedError(f"the body is not {name}: {why}") from why
    if len(found) > limit:
        raise OversizedError(f"the body holds more than the limit of {limit} bytes")
    if not stream.eof or stream.unused_data:
        raise MalformedError(f"the body is not one whole {name} stream")
    return found
