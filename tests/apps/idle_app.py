"""Flower apps that run no strategy, or one that makes nothing."""

from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

not_an_app = None
app = ServerApp()
nothing = ServerApp()
nobody = ServerApp()


class NothingComesOfIt(FedAvg):
    """A strategy that returns nothing."""

    def aggregate_train(self, *_: object):
        return None, None


class AsksNobody(FedAvg):
    """A strategy that asks nobody."""

    def configure_train(self, *_: object):
        return []


@app.main()
def main(grid, context):
    """Return without a strategy."""


@nothing.main()
def train_nothing(grid, context):
    NothingComesOfIt(fraction_evaluate=0.0).start(
        grid=grid, initial_arrays=context.state["arrays"], num_rounds=2
    )


@nobody.main()
def ask_nobody(grid, context):
    AsksNobody(fraction_evaluate=0.0).start(
        grid=grid, initial_arrays=context.state["arrays"], num_rounds=2
    )
