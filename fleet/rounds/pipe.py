"""What the manager and its Flower child say to each other over two pipes.

A frame is a length (u32, big-endian) and the MessagePack of one word. The child has no
keys and no registry, and where the kernel lets it (``apart``) no network: all it can do is
push messages and wait for replies.

Rule 1: what is the same for all nodes of a push travels once: a Flower message is its
        instruction's bytes and then the push's ``shared`` ones, as protobuf joins them.
Rule 2: large replies are fetched one by one, so that neither side holds two of them.
"""

import struct
from typing import Annotated, BinaryIO, Final

import msgspec
from msgspec import Meta, Struct

from fleet.errors import RefusedError
from fleet.rounds.strategies import Strategy

MAX_FRAME_BYTES: Final = 1 << 30
_LENGTH: Final = struct.Struct(">I")


class Begin(Struct, frozen=True, kw_only=True, tag="begin"):
    """The manager's first word: everything that the run depends on.

    Attributes:
        run_id: Number of the run for Flower.
        nodes: Node ids of the participants, ascending.
        settings: Goes into the config record of every train message of the built-in app,
            and into ``run_config`` of an operator's.
        arrays: A Flower message with the head that the run starts from.
        app, app_folder: An operator's ServerApp, or None for a built-in strategy.
        strategy: The built-in one; None of runs that were started before there was a
            choice, which Flower's own FedAvg averages.
        patience_seconds: How long the child may work between two words.
        buffer: How many updates make a version of a buffered run; 0 is rounds.

    """

    run_id: int
    seed: int
    rounds: int
    started_ms: int
    minimum_replies: int
    nodes: tuple[int, ...]
    settings: dict[str, float | int | str]
    arrays: bytes
    app: str | None = None
    app_folder: str | None = None
    strategy: Strategy | None = None
    patience_seconds: int = 3600
    buffer: int = 0


class Instruction(Struct, frozen=True, kw_only=True):
    """One Flower message for one node; ``kind`` is its message type."""

    node: int
    kind: str
    content: bytes


class Push(Struct, frozen=True, kw_only=True, tag="push"):
    """The child asks for replies; it waits until it gets ``Replies`` of this ordinal.

    Attributes:
        instructions: One for each node.
        shared: How the message of each goes on.

    """

    ordinal: Annotated[int, Meta(ge=1)]
    instructions: tuple[Instruction, ...]
    shared: bytes = b""


class Fetch(Struct, frozen=True, kw_only=True, tag="fetch"):
    """The child asks for the content of one spooled reply to an earlier push."""

    ordinal: Annotated[int, Meta(ge=1)]
    node: int


class Reply(Struct, frozen=True, kw_only=True):
    """One node's reply: a Flower message, or that it is spooled, or why there is none.

    ``asked`` is the push that it answers, where that is an earlier one.
    """

    node: int
    content: bytes | None = None
    why: str = ""
    spooled: bool = False
    asked: int = 0


class Replies(Struct, frozen=True, kw_only=True, tag="replies"):
    """All replies to one push, by ascending node; silent nodes are left out."""

    ordinal: int
    replies: tuple[Reply, ...]


class Fetched(Struct, frozen=True, kw_only=True, tag="fetched"):
    """One spooled reply; the child's is a view of the frame that it came in."""

    ordinal: int
    node: int
    content: memoryview


class Done(Struct, frozen=True, kw_only=True, tag="done"):
    """The app ended; a Flower message with the final arrays, and its last train metrics."""

    arrays: bytes
    metrics: dict[str, float]


class Crashed(Struct, frozen=True, kw_only=True, tag="crashed"):
    """The app raised; one sentence."""

    why: str


class Apart(Struct, frozen=True, kw_only=True, tag="apart"):
    """The child's first word: what it is, before it has loaded anything of an operator.

    Attributes:
        user: Its effective user id.
        network: Whether it can reach one.
        why: What it could not give up; empty where it could everything.

    """

    user: int
    network: bool
    why: str = ""


class Gone(Struct, frozen=True, kw_only=True, tag="gone"):
    """Said by the manager's own reader: the child ended without a last word."""

    why: str


class ManagerGoneError(Exception):
    """The pipe from the manager ended; a new manager will start this run again."""


FromChild = Push | Fetch | Done | Crashed | Gone
ToChild = Begin | Replies | Fetched

_FROM_CHILD = msgspec.msgpack.Decoder(Push | Fetch | Done | Crashed | Apart)
_TO_CHILD = msgspec.msgpack.Decoder(Begin | Replies | Fetched)


def write_word(stream: BinaryIO, word: FromChild | ToChild | Apart) -> None:
    """Write one frame and flush it."""
    content = msgspec.msgpack.encode(word)
    stream.write(_LENGTH.pack(len(content)))
    stream.write(content)
    stream.flush()


def read_from_child(stream: BinaryIO) -> Push | Fetch | Done | Crashed | Apart | None:
    """Read one word of the child; None at the end of the stream.

    Raises:
        RefusedError: The bytes are not a word.

    """
    frame = _read_frame(stream)
    try:
        return None if frame is None else _FROM_CHILD.decode(frame)
    except msgspec.MsgspecError as why:
        raise RefusedError(f"the Flower child said something unintelligible: {why}") from why


def read_from_manager(stream: BinaryIO) -> ToChild | None:
    """Read one word of the manager; None at the end of the stream."""
    frame = _read_frame(stream)
    return None if frame is None else _TO_CHILD.decode(frame)


def _read_frame(stream: BinaryIO) -> bytes | None:
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (size,) = _LENGTH.unpack(head)
    if size > MAX_FRAME_BYTES:
        raise RefusedError(f"a frame of {size} bytes is over {MAX_FRAME_BYTES}")
    content = stream.read(size)
    return content if len(content) == size else None
