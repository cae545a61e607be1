"""Every strategy of Flower that takes any model, each as a server app of its own."""

from flwr.serverapp import ServerApp
from flwr.serverapp import strategy as flower

STRATEGIES = {
    "fedavg": flower.FedAvg,
    "fedprox": lambda **options: flower.FedProx(proximal_mu=0.1, **options),
    "fedavgm": lambda **options: flower.FedAvgM(server_momentum=0.5, **options),
    "fedadagrad": flower.FedAdagrad,
    "fedadam": flower.FedAdam,
    "fedyogi": flower.FedYogi,
    "fedmedian": flower.FedMedian,
    "fedtrimmedavg": lambda **options: flower.FedTrimmedAvg(beta=0.2, **options),
    "krum": flower.Krum,
    "multikrum": flower.MultiKrum,
    "bulyan": flower.Bulyan,
    "qfedavg": lambda **options: flower.QFedAvg(
        client_learning_rate=0.5, train_loss_key="train-loss", **options
    ),
    "clipping": lambda **options: flower.DifferentialPrivacyServerSideFixedClipping(
        flower.FedAvg(**options), noise_multiplier=0.0, clipping_norm=5.0, num_sampled_clients=3
    ),
}


def server_app(make):
    app = ServerApp()

    @app.main()
    def main(grid, context):
        make(fraction_evaluate=1.0).start(
            grid=grid,
            initial_arrays=context.state["arrays"],
            num_rounds=context.run_config["num-server-rounds"],
        )

    return app


globals().update({name: server_app(make) for name, make in STRATEGIES.items()})
