"""What a device does."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from motion_mlp.task import Net, get_weights, load_data, set_weights
from motion_mlp.task import test as test_fn
from motion_mlp.task import train as train_fn

app = ClientApp()


@app.train()
def train(msg: Message, context: Context):
    net = Net(context.run_config["model.hidden"])
    set_weights(net, msg.content["arrays"].to_numpy_ndarrays())
    data, _ = load_data(context.node_config["samples-path"])

    loss = train_fn(net, data, context.run_config["local-epochs"], msg.content["config"]["lr"])

    content = RecordDict(
        {
            "arrays": ArrayRecord(get_weights(net)),
            "metrics": MetricRecord({"train_loss": loss, "num-examples": len(data[1])}),
        }
    )
    return Message(content=content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context):
    net = Net(context.run_config["model.hidden"])
    set_weights(net, msg.content["arrays"].to_numpy_ndarrays())
    _, data = load_data(context.node_config["samples-path"])

    loss, accuracy = test_fn(net, data)

    metrics = {"eval_loss": loss, "eval_acc": accuracy, "num-examples": len(data[1])}
    return Message(content=RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)
