"""The installed flwr in the place of the stand-in, where an environment has it.

Every private import of Flower on a device stands here; it is imported in an app's own
process only, and never by the agent.

Source: flwr 1.21 to 1.42; the private names have stayed where they are.
"""

from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage

__all__ = ["Context", "Message", "read_message", "read_state", "write_message", "write_state"]


def read_message(payload: bytes) -> Any:
    """Return a message as an app sees it."""
    proto = ProtoMessage.FromString(payload)
    _identify(proto.metadata.run_id, proto.metadata.dst_node_id)
    return message_from_proto(proto)


def write_message(message: Any) -> bytes:
    """Return the bytes of a message."""
    return bytes(message_to_proto(message).SerializeToString(deterministic=True))


def read_state(payload: bytes) -> Any:
    """Return the state that was kept; an empty one for no bytes."""
    return message_from_proto(ProtoMessage.FromString(payload)).content if payload else RecordDict()


def write_state(state: Any) -> bytes:
    """Return the bytes of a state, to be kept; none for an empty one."""
    return write_message(Message(state, 1, "query.state")) if state else b""


def _identify(run: int, node: int) -> None:
    """Say which node this is: since 1.38 no message can be made without."""
    try:
        from flwr.supercore.task_identity import TaskIdentity  # noqa: PLC0415 - older versions have none
    except ImportError:
        return
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run, node, 1
