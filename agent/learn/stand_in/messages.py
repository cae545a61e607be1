"""Flower's messages and context as an app sees them, and their bytes.

Source: flwr.app of flwr 1.41, whose names and behaviour these are.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from agent.contract import tensors
from agent.errors import MalformedError
from agent.learn.stand_in.records import RecordDict, from_wire, to_wire

DEFAULT_TTL = 43_200.0


class MessageType:
    """What a message asks for."""

    TRAIN = "train"
    EVALUATE = "evaluate"
    QUERY = "query"
    SYSTEM = "system"


@dataclass
class Error:
    """What a message holds instead of content when its maker failed."""

    code: int
    reason: str | None = None


@dataclass
class Metadata:
    """Where a message comes from and goes to; times in seconds."""

    run_id: int
    message_id: str
    src_node_id: int
    dst_node_id: int
    reply_to_message_id: str
    group_id: str
    created_at: float
    ttl: float
    message_type: str
    src_task_id: int | None = None
    dst_task_id: int | None = None
    delivered_at: str = ""


@dataclass
class Context:
    """What an app knows of its run; ``state`` stays on this device between messages."""

    run_id: int
    node_id: int
    node_config: Mapping[str, Any]
    state: RecordDict
    run_config: Mapping[str, Any]
    series_id: int = 0


class Message:
    """Records with their metadata, or an error; apps make replies: ``reply_to`` is needed."""

    def __init__(
        self,
        content: RecordDict | Error | None = None,
        *,
        error: Error | None = None,
        reply_to: "Message | None" = None,
        ttl: float | None = None,
        metadata: Metadata | None = None,
    ) -> None:
        if isinstance(content, Error):
            content, error = None, content
        if content is not None and not isinstance(content, RecordDict):
            raise TypeError(f"a Message holds a RecordDict or an Error, not {type(content)}")
        if (content is None) == (error is None):
            raise TypeError("a Message holds either content or an error")
        if metadata is None:
            if not isinstance(reply_to, Message):
                raise TypeError("on a device a Message is a reply: give reply_to")
            metadata = _replying(reply_to.metadata, ttl)
        self.metadata: Metadata = metadata
        self._content = content
        self._error = error

    @property
    def content(self) -> RecordDict:
        """The records."""
        if self._content is None:
            raise ValueError("Message content is None. Use <message>.has_content() to check.")
        return self._content

    @content.setter
    def content(self, value: RecordDict) -> None:
        if self._error is not None:
            raise ValueError("A message with an error set cannot have content.")
        self._content = value

    @property
    def error(self) -> Error:
        """The error."""
        if self._error is None:
            raise ValueError("Message error is None. Use <message>.has_error() to check.")
        return self._error

    def has_content(self) -> bool:
        """Return whether it holds records."""
        return self._content is not None

    def has_error(self) -> bool:
        """Return whether it holds an error."""
        return self._error is not None

    def create_reply(self, content: RecordDict, ttl: float | None = None) -> "Message":
        """Return a reply, as older apps make it."""
        return Message(content, reply_to=self, ttl=ttl)

    def create_error_reply(self, error: Error, ttl: float | None = None) -> "Message":
        """Return an error as a reply, as older apps make it."""
        return Message(error, reply_to=self, ttl=ttl)


def read_message(payload: bytes) -> Message:
    """Return a message as an app sees it.

    Raises:
        MalformedError: The bytes are not one.

    """
    came = tensors.decode_message(payload, limit=max(len(payload), 1))
    metadata = Metadata(**asdict(came.metadata))
    match came.content:
        case tensors.Failure(code=code, reason=reason):
            return Message(Error(code, reason), metadata=metadata)
        case records:
            return Message(from_wire(records), metadata=metadata)


def write_message(message: Message) -> bytes:
    """Return the bytes of a message.

    Raises:
        MalformedError: A value in it cannot travel.

    """
    told = asdict(message.metadata)
    del told["delivered_at"]
    if message.has_error():
        content: Any = tensors.Failure(message.error.code, message.error.reason or "")
    else:
        content = to_wire(message.content)
    return tensors.encode_message(
        tensors.FlowerMessage(metadata=tensors.Metadata(**told), content=content)
    )


def read_state(payload: bytes) -> RecordDict:
    """Return the state that was kept; an empty one for no bytes.

    Raises:
        MalformedError: The bytes are not a state.

    """
    if not payload:
        return RecordDict()
    message = read_message(payload)
    if not message.has_content():
        raise MalformedError("what was kept is not the state of an app")
    return message.content


def write_state(state: RecordDict) -> bytes:
    """Return the bytes of a state, to be kept; none for an empty one.

    Raises:
        MalformedError: A value in it cannot be kept.

    """
    if not state:
        return b""
    metadata = tensors.Metadata(
        run_id=0, message_id="", src_node_id=0, dst_node_id=0, message_type="query.state"
    )
    return tensors.encode_message(tensors.FlowerMessage(metadata=metadata, content=to_wire(state)))


def _replying(asked: Metadata, ttl: float | None) -> Metadata:
    now = time.time()
    left = asked.created_at + asked.ttl - now
    return Metadata(
        run_id=asked.run_id,
        message_id="",
        src_node_id=asked.dst_node_id,
        dst_node_id=asked.src_node_id,
        reply_to_message_id=asked.message_id,
        group_id=asked.group_id,
        created_at=now,
        ttl=left if ttl is None else min(ttl, left),
        message_type=asked.message_type,
        src_task_id=asked.dst_task_id,
        dst_task_id=asked.src_task_id,
    )
