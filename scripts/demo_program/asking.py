"""A program beside the agent asks its model for answers, and a person says what was right.

The Open Inference Protocol over the device's own Unix socket, by the standard library alone:
what any client would do. The windows are withheld ones, on which nothing was trained.
"""

import http.client
import json
import socket
import statistics
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns

import numpy as np

ASKED = 40
WITHHELD = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What came of it: answers, how many were right, and the median of a whole exchange."""

    windows: int
    right: int
    labelled: int
    median_us: float


def ask(socket_path: Path, samples: Path, slot: str, classes: tuple[str, ...]) -> Asked:
    """Ask for some withheld windows, then tell the device which class each was.

    Args:
        socket_path: ``[serve] socket`` of the device.
        samples: Its labelled windows: ``x`` (n, channels, samples), ``y``, ``split``.
        slot: Whose model answers.
        classes: Their names, in the order of the probabilities.

    """
    with np.load(samples) as held:
        chosen = held["split"] == WITHHELD
        windows, labels = held["x"][chosen], held["y"][chosen]
    places = np.linspace(0, len(windows) - 1, min(ASKED, len(windows))).astype(int)
    connection = _OverSocket(socket_path)
    taken = connection.exchange("GET", f"/v2/models/{slot}")["inputs"][0]["name"]
    right, opinions, times = 0, [], []
    for place in places:
        window = windows[place][np.newaxis]
        asked = {
            "inputs": [
                {
                    "name": taken,
                    "datatype": "FP32",
                    "shape": list(window.shape),
                    "data": window.reshape(-1).tolist(),
                }
            ]
        }
        began = perf_counter_ns()
        told = connection.exchange("POST", f"/v2/models/{slot}/infer", asked)
        times.append((perf_counter_ns() - began) / 1000)
        answers = {output["name"]: output["data"] for output in told["outputs"]}
        right += int(np.argmax(answers["probabilities"]) == labels[place])
        prediction = told["parameters"]["prediction_id"]
        opinions.append({"id": prediction, "label": classes[labels[place]]})
    told = connection.exchange("POST", f"/v2/models/{slot}/feedback", opinions)
    connection.close()
    labelled = sum("error" not in result for result in told["results"])
    return Asked(
        windows=len(places), right=right, labelled=labelled, median_us=statistics.median(times)
    )


class _OverSocket(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)

    def exchange(self, method: str, path: str, body: object = None) -> dict[str, object]:
        content = None if body is None else json.dumps(body)
        self.request(method, path, content, {"Content-Type": "application/json"})
        answer = self.getresponse()
        content = json.loads(answer.read())
        if answer.status != http.client.OK:
            raise TimeoutError(f"{path} answered {answer.status}: {content}")
        return content
