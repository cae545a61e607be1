"""What a device does."""

from flwr.client import ClientApp, NumPyClient
from flwr.common import Context

from motion_legacy.task import Net, get_weights, load_data, set_weights
from motion_legacy.task import test as test_fn
from motion_legacy.task import train as train_fn


class FlowerClient(NumPyClient):
    """The network of one device."""

    def __init__(self, net, train_data, test_data, local_epochs) -> None:
        self.net, self.local_epochs = net, local_epochs
        self.train_data, self.test_data = train_data, test_data

    def fit(self, parameters, config):
        set_weights(self.net, parameters)
        loss = train_fn(self.net, self.train_data, self.local_epochs, config["lr"])
        return get_weights(self.net), len(self.train_data[1]), {"train_loss": loss}

    def evaluate(self, parameters, _config):
        set_weights(self.net, parameters)
        loss, accuracy = test_fn(self.net, self.test_data)
        return loss, len(self.test_data[1]), {"accuracy": accuracy}


def client_fn(context: Context):
    net = Net(context.run_config["model.hidden"])
    train_data, test_data = load_data(context.node_config["samples-path"])
    local_epochs = context.run_config["local-epochs"]
    return FlowerClient(net, train_data, test_data, local_epochs).to_client()


app = ClientApp(client_fn)
