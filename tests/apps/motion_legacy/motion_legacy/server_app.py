"""What the server does."""

from flwr.common import Context, ndarrays_to_parameters
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg

from motion_legacy.task import Net, get_weights


def weighted_average(metrics):
    total = sum(count for count, _ in metrics)
    return {name: sum(c * m[name] for c, m in metrics) / total for name in metrics[0][1]}


def server_fn(context: Context):
    run_config = context.run_config
    strategy = FedAvg(
        fraction_fit=1.0,
        fraction_evaluate=run_config["fraction-evaluate"],
        min_available_clients=2,
        initial_parameters=ndarrays_to_parameters(get_weights(Net(run_config["model.hidden"]))),
        on_fit_config_fn=lambda _round: {"lr": run_config["lr"]},
        fit_metrics_aggregation_fn=weighted_average,
        evaluate_metrics_aggregation_fn=weighted_average,
    )
    config = ServerConfig(num_rounds=run_config["num-server-rounds"])
    return ServerAppComponents(strategy=strategy, config=config)


app = ServerApp(server_fn=server_fn)
