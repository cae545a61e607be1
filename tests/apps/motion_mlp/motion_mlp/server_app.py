"""What the server does."""

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from motion_mlp.task import Net, get_weights

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    net = Net(context.run_config["model.hidden"])
    strategy = FedAvg(fraction_evaluate=context.run_config["fraction-evaluate"])
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(get_weights(net)),
        train_config=ConfigRecord({"lr": context.run_config["lr"]}),
        num_rounds=context.run_config["num-server-rounds"],
    )
    np.savez("final_model.npz", *result.arrays.to_numpy_ndarrays())
