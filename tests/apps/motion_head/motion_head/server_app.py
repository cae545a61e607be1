"""Asks what devices have, then trains and evaluates with a strategy that resists outliers."""

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedMedian

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    question = RecordDict({"config": ConfigRecord({"wants": "nothing"})})
    nodes = sorted(grid.get_node_ids())
    answers = grid.send_and_receive([Message(question, node, "query") for node in nodes])
    for answer in answers:
        print(answer.error.reason if answer.has_error() else answer.content)

    settings = {
        "learning-rate": context.run_config["learning-rate"],
        "epochs": context.run_config["local.epochs"],
    }
    result = FedMedian(fraction_evaluate=1.0).start(
        grid=grid,
        initial_arrays=context.state["arrays"],
        num_rounds=context.run_config["num-server-rounds"],
        train_config=ConfigRecord(settings),
    )
    for measured in result.evaluate_metrics_clientapp.values():
        if not 0 < measured["accuracy"] <= 1:
            raise ValueError(f"devices measured {measured}")
