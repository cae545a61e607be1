"""What a device does: the training of Fieldfare's own device, called from a Flower app."""

import time
from functools import cache
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from agent.learn.trainer import HeadTraining, LinearHead, train_head
from scripts.bench.rounds_model import embed

app = ClientApp()
TRAIN = 0


@cache
def _windows(samples: str, model: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    with np.load(samples) as held:
        chosen = held["split"] == TRAIN
        return embed(Path(model), held["x"][chosen]), held["y"][chosen]


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the head on this device's windows."""
    began = time.monotonic()
    arrays = message.content["arrays"]
    head = LinearHead(weight=arrays["weight"].numpy(), bias=arrays["bias"].numpy())
    x, y = _windows(str(context.node_config["samples-path"]), str(context.run_config["model"]))
    made = train_head(head, x, y, HeadTraining(epochs=int(context.run_config["epochs"])))
    content = RecordDict(
        {
            "arrays": ArrayRecord({"weight": Array(made.weight), "bias": Array(made.bias)}),
            "metrics": MetricRecord(
                {"num-examples": len(y), "work-seconds": time.monotonic() - began}
            ),
        }
    )
    return Message(content=content, reply_to=message)
