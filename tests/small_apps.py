"""Apps in a few lines, and one message for them."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from agent.contract.app_bundle import AppBundle
from agent.contract.tensors import (
    ArrayRecord,
    ConfigRecord,
    FlowerMessage,
    Metadata,
    encode_message,
)
from agent.learn.apps.apart import Bounds
from agent.learn.apps.running import AppOrder, Interpreter

HEAD = """
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()
"""

HALVING = (
    HEAD
    + """
@app.train()
def train(message: Message, context: Context):
    arrays = message.content["arrays"]
    halved = ArrayRecord({name: Array(a.numpy() / 2) for name, a in arrays.items()})
    metrics = MetricRecord({"num-examples": 8})
    return Message(RecordDict({"arrays": halved, "metrics": metrics}), reply_to=message)
"""
)


def bundle(source, **changes):
    return AppBundle(
        name="small",
        version="1",
        client="client:app",
        files={"client.py": source.encode()},
        **changes,
    )


def body(lines, imports=""):
    """Return the source of an app whose training does these lines, and then replies."""
    inside = "\n".join(f"    {line}" for line in lines.strip().splitlines())
    reply = "    return Message(message.content, reply_to=message)"
    return f"{imports}{HEAD}\n@app.train()\ndef train(message, context):\n{inside}\n{reply}\n"


def train_message(kind="train", **arrays):
    arrays = arrays or {"weight": np.arange(6, dtype=np.float32).reshape(2, 3)}
    return encode_message(
        FlowerMessage(
            metadata=Metadata(
                run_id=7,
                message_id="1.5",
                src_node_id=1,
                dst_node_id=5,
                message_type=kind,
                created_at=1.7e9,
            ),
            content={"arrays": ArrayRecord(arrays), "config": ConfigRecord({"lr": 0.1})},
        )
    )


def own_interpreter(*, flwr=False):
    folders = {sys.prefix, sys.base_prefix, *(p for p in sys.path if p and Path(p).is_dir())}
    return Interpreter(python=sys.executable, readable=tuple(sorted(folders)), flwr=flwr)


def order(tmp_path, source, **changes):
    secret = tmp_path / "state"
    secret.mkdir(exist_ok=True)
    (secret / "identity.json").write_text("the key of this device")
    usual = AppOrder(
        bundle=bundle(source) if isinstance(source, str) else source,
        interpreter=own_interpreter(),
        message=train_message(),
        state=b"",
        windows=None,
        node_config={"partition-id": 0, "num-partitions": 1},
        run_config={},
        bounds=Bounds(memory_bytes=2 * 1024**3, cpu_seconds=20, file_bytes=64 * 1024**2, nice=0),
        seconds=30.0,
        secret=secret,
    )
    return replace(usual, **changes)
