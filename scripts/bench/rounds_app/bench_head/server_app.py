"""Flower's own FedAvg, which notes when each round began and when the last one ended."""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


class Stamped(FedAvg):  # type: ignore[misc]  # flwr is not followed by mypy
    """FedAvg; ``stamps`` are seconds since 1970."""

    def __init__(self, out: Path, **settings: Any) -> None:
        super().__init__(**settings)
        self._out = out
        self.stamps: list[float] = []

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Note that a round begins."""
        self.note()
        return super().configure_train(server_round, arrays, config, grid)

    def note(self) -> None:
        """Note the time, where the bench reads it."""
        self.stamps.append(time.time())
        part = self._out.with_suffix(".part")
        part.write_text(json.dumps(self.stamps))
        part.rename(self._out.with_suffix(".json"))


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds and keep the weights."""
    config = context.run_config
    out, nodes = Path(str(config["out"])), int(config["nodes"])
    with np.load(str(config["model"])) as model:
        start = ArrayRecord({n: Array(model[n]) for n in ("weight", "bias")})
    strategy = Stamped(out, fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes)
    result = strategy.start(
        grid=grid, initial_arrays=start, num_rounds=int(config["num-server-rounds"])
    )
    strategy.note()
    found = {name: result.arrays[name].numpy() for name in ("weight", "bias")}
    worked = [record["work-seconds"] for record in result.train_metrics_clientapp.values()]
    out.with_suffix(".work").write_text(json.dumps(worked))
    part = out.with_suffix(".part.npz")
    np.savez(part, **found)
    part.rename(out.with_suffix(".npz"))
