"""An operator's Flower app as its documentation writes them: another strategy, with evaluation."""

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedMedian

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    print("an app may print what it likes")
    arrays = context.state["arrays"]
    assert isinstance(arrays, ArrayRecord)
    FedMedian(fraction_evaluate=1.0).start(
        grid=grid, initial_arrays=arrays, num_rounds=context.run_config["num-server-rounds"]
    )
