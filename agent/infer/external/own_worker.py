"""The worker of a slot that runs in a process of its own: the agent's Python and runtimes.

It takes the same command line and speaks the same protocol as any other worker, with the
adapters of this package, so that a model answers as it does inside of the agent.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from agent.contract.manifest import Tensor
from agent.errors import AgentError, InputRefusedError, ModelError
from agent.infer.external.standalone import onnx_worker
from agent.infer.external.supervised import DATA_ERROR, UNAVAILABLE
from agent.infer.oip.tensors import DATATYPES
from agent.infer.runtime import Array
from agent.infer.variants import open_model


class OwnModel:
    """A model as ``standalone.onnx_worker`` serves it."""

    numpy = np

    def __init__(self, asked: argparse.Namespace) -> None:
        """Load what the command line asks for.

        Raises:
            ModelError: The file is not such a model.
            RuntimeMissingError: Its runtime does not work here.

        """
        self.providers = [name for name in asked.providers.split(",") if name]
        self._runtime = open_model(
            asked.runtime,
            Path(asked.model),
            self.providers,
            asked.library or None,
            json.loads(asked.options),
        )
        self.platform = asked.runtime
        self.library, self.version = asked.library or asked.runtime, self._runtime.version
        self.inputs = list(map(_describe, self._runtime.inputs))
        self.outputs = list(map(_describe, self._runtime.outputs))

    def infer(self, inputs: Mapping[str, Array], wanted: Sequence[str]) -> list[tuple[str, Array]]:
        """Return the wanted outputs."""
        try:
            found = self._runtime.infer_named(inputs)
        except InputRefusedError as why:
            raise onnx_worker.RefusedError(str(why)) from why
        return [(name, found[name]) for name in wanted or found]


def main(words: Sequence[str]) -> NoReturn:
    """Load a model and serve it until the agent ends this process."""
    parser = onnx_worker.reader()
    parser.add_argument("--runtime", required=True, help="as in a variant: onnx or tflite")
    parser.add_argument("--library", default="", help="which package runs it")
    asked = parser.parse_args(words)
    try:
        model = OwnModel(asked)
    except ModelError as why:
        onnx_worker.leave(DATA_ERROR, str(why))
    except AgentError as why:
        onnx_worker.leave(UNAVAILABLE, str(why))
    onnx_worker.serve(asked.socket, model)


def _describe(tensor: Tensor) -> tuple[str, str, list[int]]:
    return tensor.name, DATATYPES.get(tensor.dtype, tensor.dtype), list(tensor.shape)


if __name__ == "__main__":
    main(sys.argv[1:])
