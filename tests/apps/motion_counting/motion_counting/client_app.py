"""What a device does."""

import numpy as np
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    with np.load(context.node_config["samples-path"]) as samples:
        count = len(samples["y"])
        if samples["split"].any():
            raise ValueError("there are windows among these that are not for training")
    held = context.state.config_records.get("count")
    seen = held["seen"] + 1 if held else 1
    context.state["count"] = ConfigRecord({"seen": seen})
    shrink = context.run_config["shrink.by"]
    arrays = message.content.array_records["arrays"]
    shrunk = {name: Array((a.numpy() * shrink).astype(np.float32)) for name, a in arrays.items()}
    metrics = MetricRecord(
        {
            "num-examples": count,
            "seen": seen,
            "rounds": context.run_config["num-server-rounds"],
            "partitions": context.node_config["num-partitions"],
        }
    )
    return Message(
        RecordDict({"arrays": ArrayRecord(shrunk), "metrics": metrics}), reply_to=message
    )
