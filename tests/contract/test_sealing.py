"""A sealed stream opens with its own key, whole and in order, or is refused by name."""

from io import BytesIO

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl import bindings
from nacl.signing import SigningKey, VerifyKey

from agent.contract.expand import expand_source
from agent.contract.sealing import (
    PART_BYTES,
    OpenedStream,
    new_key,
    seal_stream,
    unwrap_key,
    wrap_key,
)
from agent.contract.sources import FULL, PLAIN, SEALED
from agent.errors import ContractError, CorruptError, MalformedError, TrustError
from agent.refusals import (
    BadStreamError,
    DisorderedStreamError,
    NoContentKeyError,
    TruncatedStreamError,
    UnfinishedStreamError,
    WrongContentKeyError,
)

KEY = bytes(range(32))
FRAME, HEADER, TAG = 12, 24, 17
PART = PART_BYTES + TAG
CONTENT = b"".join(bytes([n]) * (PART_BYTES // 2) for n in range(5))  # two parts and a half
SEALED_CONTENT = seal_stream(CONTENT, KEY)
HEAD = SEALED_CONTENT[: FRAME + HEADER]
PARTS = [SEALED_CONTENT[at : at + PART] for at in range(FRAME + HEADER, len(SEALED_CONTENT), PART)]


def opened(sealed: bytes, key: bytes = KEY) -> bytes:
    return OpenedStream(BytesIO(sealed), key).read()


@pytest.mark.parametrize("size", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES])
def test_what_was_sealed_comes_out_again(size: int):
    content = (b"fieldfare" * (size // 9 + 1))[:size]
    assert opened(seal_stream(content, KEY)) == content


def test_it_is_read_in_pieces_of_any_size_and_ends_with_nothing():
    stream = OpenedStream(BytesIO(SEALED_CONTENT), KEY)
    found = b"".join(iter(lambda: stream.read(300_001), b""))
    assert found == CONTENT
    assert stream.read(1) == b""


def test_two_streams_of_the_same_bytes_share_nothing_that_shows():
    again = seal_stream(CONTENT, KEY)
    assert again[:FRAME] == SEALED_CONTENT[:FRAME]
    assert again[FRAME + HEADER :] != SEALED_CONTENT[FRAME + HEADER :]


def unfinished() -> bytes:
    state = bindings.crypto_secretstream_xchacha20poly1305_state()
    frame = seal_stream(b"abc", KEY)[:FRAME]
    header = bindings.crypto_secretstream_xchacha20poly1305_init_push(state, KEY)
    return (
        frame + header + bindings.crypto_secretstream_xchacha20poly1305_push(state, b"abc", frame)
    )


@pytest.mark.parametrize(
    ("sealed", "reason"),
    [
        pytest.param(b"", TruncatedStreamError, id="nothing"),
        pytest.param(SEALED_CONTENT[: FRAME - 1], TruncatedStreamError, id="half a frame"),
        pytest.param(SEALED_CONTENT[: FRAME + 5], TruncatedStreamError, id="half a header"),
        pytest.param(HEAD, TruncatedStreamError, id="no part at all"),
        pytest.param(SEALED_CONTENT[:-1], TruncatedStreamError, id="the last byte is gone"),
        pytest.param(HEAD + PARTS[0] + PARTS[1], TruncatedStreamError, id="the last part is gone"),
        pytest.param(
            HEAD + PARTS[1] + PARTS[0] + PARTS[2], WrongContentKeyError, id="it begins elsewhere"
        ),
        pytest.param(
            HEAD + PARTS[0] + PARTS[0] + PARTS[2], DisorderedStreamError, id="a part twice"
        ),
        pytest.param(
            HEAD + PARTS[0] + PARTS[1][:-1] + bytes([PARTS[1][-1] ^ 1]) + PARTS[2],
            DisorderedStreamError,
            id="changed",
        ),
        pytest.param(SEALED_CONTENT + b"!", DisorderedStreamError, id="more after its end"),
        pytest.param(unfinished(), UnfinishedStreamError, id="the last part is not marked"),
        pytest.param(b"FFX" + SEALED_CONTENT[3:], BadStreamError, id="no sealed stream"),
        pytest.param(b"FFS\x02" + SEALED_CONTENT[4:], BadStreamError, id="of a later version"),
        pytest.param(b"FFS\x01" + b"\xff" * 80, BadStreamError, id="a claim beyond all limits"),
        pytest.param(
            SEALED_CONTENT[:4] + (5).to_bytes(8, "big") + SEALED_CONTENT[12:],
            WrongContentKeyError,
            id="another length in the frame",
        ),
    ],
)
def test_a_stream_that_is_not_whole_is_refused(sealed: bytes, reason: type[Exception]):
    with pytest.raises(reason):
        opened(sealed)


def test_parts_two_and_three_in_the_other_order_are_refused():
    content = bytes(3 * PART_BYTES)
    sealed = seal_stream(content, KEY)
    first, second, third = (
        sealed[FRAME + HEADER + n * PART : FRAME + HEADER + (n + 1) * PART] for n in range(3)
    )
    head = sealed[: FRAME + HEADER]
    assert opened(head + first + second + third) == content
    with pytest.raises(DisorderedStreamError):
        opened(head + first + third + second)


def test_a_last_part_before_the_end_is_refused():
    state = bindings.crypto_secretstream_xchacha20poly1305_state()
    frame = seal_stream(bytes(PART_BYTES + 1), KEY)[:FRAME]
    push = bindings.crypto_secretstream_xchacha20poly1305_push
    final = bindings.crypto_secretstream_xchacha20poly1305_TAG_FINAL
    header = bindings.crypto_secretstream_xchacha20poly1305_init_push(state, KEY)
    parts = (push(state, content, frame, final) for content in (bytes(PART_BYTES), b"!"))
    with pytest.raises(DisorderedStreamError, match="not its last"):
        opened(b"".join((frame, header, *parts)))


def test_bytes_after_a_compressed_artifact_are_refused():
    packed = zstandard.compress(b"abc") + b"something more"
    sealed = BytesIO(seal_stream(packed, KEY))
    with pytest.raises(CorruptError):
        list(expand_source(SEALED + FULL, sealed, None, 3, KEY))


def test_another_key_is_told_from_a_damaged_stream():
    with pytest.raises(WrongContentKeyError):
        opened(SEALED_CONTENT, new_key())


def test_a_source_that_is_sealed_needs_its_key():
    with pytest.raises(NoContentKeyError):
        list(expand_source(SEALED + PLAIN, BytesIO(SEALED_CONTENT), None, len(CONTENT), None))


def test_a_stream_that_holds_more_than_its_artifact_is_refused():
    sealed = seal_stream(b"abc", KEY)
    with pytest.raises(CorruptError):
        list(expand_source(SEALED + PLAIN, BytesIO(sealed), None, 2, KEY))


def test_nothing_is_sealed_for_a_key_that_is_no_point_of_the_curve_or_of_small_order():
    for public in (bytes(32), b"\x02" * 32):
        with pytest.raises(MalformedError):
            wrap_key(KEY, VerifyKey(public))


def test_a_key_opens_on_its_own_device_only():
    ours, other = SigningKey(b"1" * 32), SigningKey(b"2" * 32)
    box = wrap_key(KEY, ours.verify_key)
    assert unwrap_key(box, ours) == KEY
    for bad, device in ((box, other), (box[:-1], ours), (b"", ours)):
        with pytest.raises(WrongContentKeyError):
            unwrap_key(bad, device)
    with pytest.raises(WrongContentKeyError):
        unwrap_key(wrap_key(KEY[:16], ours.verify_key), ours)


SMALL = seal_stream(b"small content of a stream", KEY)


@settings(max_examples=200)
@given(st.integers(0, len(SMALL) - 1), st.integers(1, 255))
def test_no_flipped_bit_passes(at: int, flip: int):
    changed = bytearray(SMALL)
    changed[at] ^= flip
    with pytest.raises((TrustError, ContractError)):
        opened(bytes(changed))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_by_name(content: bytes):
    for sealed in (content, HEAD[:4] + content):
        with pytest.raises((TrustError, ContractError)):
            opened(sealed)
