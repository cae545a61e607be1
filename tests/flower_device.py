"""One process in the place of a fleet's devices: it runs an unmodified ClientApp.

Usage: flower_device.py flwr|stand-in FOLDER     (questions and answers on its pipes)

With ``stand-in`` the app finds what a device without flwr has, and flwr is not to be found.
"""

import os
import struct
import sys
from importlib import import_module

import msgspec

LENGTH = struct.Struct(">I")


class Question(msgspec.Struct):
    """A Flower message for one device, and what its operator and the run configured."""

    message: bytes
    client_app: str
    node_config: dict[str, int | str]
    run_config: dict[str, bool | int | float | str]


def read_frame(stream):
    head = stream.read(LENGTH.size)
    return stream.read(LENGTH.unpack(head)[0]) if head else None


def write_frame(stream, content):
    stream.write(LENGTH.pack(len(content)) + content)
    stream.flush()


def with_flwr():
    """Return how bytes become a message and a message bytes, by flwr."""
    from flwr.app import Context, Error, Message, RecordDict
    from flwr.common.serde import message_from_proto, message_to_proto
    from flwr.proto.message_pb2 import Message as ProtoMessage
    from flwr.supercore.task_identity import TaskIdentity

    def read(payload):
        message = message_from_proto(ProtoMessage.FromString(payload))
        TaskIdentity.run_id, TaskIdentity.task_id = message.metadata.run_id, 1
        TaskIdentity.node_id = message.metadata.dst_node_id
        return message

    def write(message):
        return message_to_proto(message).SerializeToString(deterministic=True)

    return read, write, Context, RecordDict, lambda why, to: Message(Error(2, why), reply_to=to)


def without_flwr():
    """Return the same of the light stand-in, and hide flwr from the app."""
    from agent.learn.stand_in.messages import Context, Error, Message, read_message, write_message
    from agent.learn.stand_in.modules import install
    from agent.learn.stand_in.records import RecordDict

    install()

    def fail(why, to):
        return Message(Error(2, why), reply_to=to)

    return read_message, write_message, Context, RecordDict, fail


def answer(question, tools):
    read, write, context, records, fail = tools
    message = read(question.message)
    module, _, attribute = question.client_app.partition(":")
    app = getattr(import_module(module), attribute)
    here = context(
        run_id=message.metadata.run_id,
        node_id=message.metadata.dst_node_id,
        node_config=question.node_config,
        state=records(),
        run_config=question.run_config,
    )
    try:
        return write(app(message, here))
    except Exception as why:  # noqa: BLE001 - an app may raise anything
        return write(fail(f"{type(why).__name__}: {why}", message))


def main():
    way, folder = sys.argv[1:]
    sys.path[:0] = [folder, os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]  # noqa: PTH100, PTH120 - before any import
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    tools = with_flwr() if way == "flwr" else without_flwr()
    while (frame := read_frame(sys.stdin.buffer)) is not None:
        question = msgspec.msgpack.decode(frame, type=Question)
        write_frame(sink, answer(question, tools))
    if way != "flwr" and "flwr.proto" in sys.modules:
        sys.exit("flwr was loaded")


if __name__ == "__main__":
    main()
