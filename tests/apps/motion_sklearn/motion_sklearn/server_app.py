"""What the server does."""

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from motion_sklearn.task import get_model, get_parameters

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    model = get_model(context.run_config["penalty-c"], context.run_config["max-iter"])
    strategy = FedAvg(fraction_evaluate=context.run_config["fraction-evaluate"])
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(get_parameters(model)),
        num_rounds=context.run_config["num-server-rounds"],
    )
