"""Resident memory over many changes of models, in the daemon's own slots.

Run by ``footprint.py`` in the device's environment, with a folder that holds a store and a
list of releases in it. Each change is one as in an update: the new release is loaded beside
the old one, both answer the same requests, then the old one goes.
"""

import json
import sys
from pathlib import Path

import numpy as np

from agent.config import ObserveConfig
from agent.config_inference import PipelineConfig
from agent.contract.messages import Assigned, Hosted
from agent.daemon.serving import Inference
from agent.disk import Disk
from agent.infer.requests import Request
from agent.observe.resources import rss_bytes
from agent.update.store import Store

SLOT = "motion"
REQUESTS = 20


def main(folder: Path, swaps: int) -> dict[str, int]:
    """Change the models so many times and return the figures after the first and the last."""
    releases = [Assigned(**each) for each in json.loads((folder / "releases.json").read_text())]
    inference = Inference(
        {SLOT: PipelineConfig()},
        Store(Disk(folder)),
        hardware="generic-linux",
        published=(),
        put=lambda _: None,
        wall_ms=lambda: 1,
        observe=ObserveConfig(),
    )
    installed = (Hosted(name="onnx", version="any"), Hosted(name="tflite", version="any"))
    seen = []
    old = None
    for number in range(swaps + 1):
        new = releases[number % len(releases)]
        inference.serve(SLOT, new, old, measure=True, installed=installed)
        _ask(inference)
        inference.serve(SLOT, new, None, measure=False, installed=installed)
        _ask(inference)
        inference.close_windows()
        seen.append(rss_bytes())
        old = new
    inference.stop()
    return {"swaps": swaps, "first_rss_bytes": seen[1], "last_rss_bytes": seen[-1]}


def _ask(inference: Inference) -> None:
    (offered,) = inference.offered()
    window = np.zeros([abs(size) for size in offered.inputs[0].shape], offered.inputs[0].dtype)
    for _ in range(REQUESTS):
        inference.request(SLOT, Request(inputs={offered.inputs[0].name: window}))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
