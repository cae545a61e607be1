"""What a device does."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from sklearn.metrics import log_loss

from motion_sklearn.task import (
    CLASSES,
    fit,
    get_model,
    get_parameters,
    load_data,
    set_parameters,
)

app = ClientApp()


def received(msg: Message, context: Context):
    model = get_model(context.run_config["penalty-c"], context.run_config["max-iter"])
    set_parameters(model, msg.content["arrays"].to_numpy_ndarrays())
    return model, *load_data(context.node_config["samples-path"])


@app.train()
def train(msg: Message, context: Context):
    model, data, _ = received(msg, context)
    fit(model, data)
    loss = log_loss(data[1], model.predict_proba(data[0]), labels=range(CLASSES))
    content = RecordDict(
        {
            "arrays": ArrayRecord(get_parameters(model)),
            "metrics": MetricRecord({"num-examples": len(data[1]), "train_logloss": float(loss)}),
        }
    )
    return Message(content=content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context):
    model, _, (x, y) = received(msg, context)
    metrics = {
        "num-examples": len(y),
        "test_logloss": float(log_loss(y, model.predict_proba(x), labels=range(CLASSES))),
        "accuracy": float(model.score(x, y)),
    }
    return Message(content=RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)
