"""An operator's Flower app between the real server child and devices that run its other side.

The test is the manager: what the child pushes is answered by ``tests/flower_device.py``, and
each reply is looked at as the manager does.
"""

import subprocess
import sys
from pathlib import Path
from queue import SimpleQueue

import msgspec
import numpy as np

from agent.contract.tensors import ArrayRecord, decode_message
from fleet.rounds.heads import begin_word
from fleet.rounds.host import FlowerChild
from fleet.rounds.pipe import Crashed, Done, Push, Replies, Reply
from fleet.rounds.project import read_project
from fleet.rounds.screen import screen_reply
from tests.flower_device import Question, read_frame, write_frame
from tests.small_rounds import plan, running_head

ROOT = Path(__file__).resolve().parents[1]
APPS = ROOT / "tests" / "apps"
NODES = (11, 12, 13)
PEOPLE = (5, 6, 7)


def write_samples(folder):
    """Write the labelled windows of one wrist of each person; return the files by node."""
    recordings = _recordings()
    found = recordings.read_recordings()
    places = {}
    for node, person in zip(NODES, PEOPLE, strict=True):
        own = [r for r in found if (r.person, r.side) == (person, 0)]
        x, y, split = recordings.labelled_windows(own)
        places[node] = folder / f"{node}.npz"
        np.savez(places[node], x=x, y=y, split=split)
    return places


def _recordings():
    from importlib.util import module_from_spec, spec_from_file_location

    place = ROOT / "scripts" / "base_model" / "recordings.py"
    spec = spec_from_file_location("motion_recordings", place)
    module = sys.modules["motion_recordings"] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Devices:
    """Every device of the test, in one process of its own."""

    def __init__(self, way, app, samples) -> None:
        self._folder, self._samples = APPS / app, samples
        self._project = read_project(self._folder)
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "flower_device.py"), way, str(self._folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def answer(self, node, message):
        question = Question(
            message=message,
            client_app=self._project.client_app,
            node_config={
                "partition-id": NODES.index(node),
                "num-partitions": len(NODES),
                "samples-path": str(self._samples[node]),
            },
            run_config=dict(self._project.settings),
        )
        write_frame(self._process.stdin, msgspec.msgpack.encode(question))
        return read_frame(self._process.stdout)

    def close(self):
        self._process.stdin.close()
        status = self._process.wait(30)
        self._process.stdout.close()
        return status


def run_app(app, answer, **changes):
    """Run an app's server side to its last word; return that word and what was pushed."""
    folder = changes.pop("app_folder", str(APPS / app))
    asked = plan(
        app=changes.pop("app", read_project(APPS / app).server_app), app_folder=folder, **changes
    )
    words, pushes = SimpleQueue(), []
    child = FlowerChild(begin_word(asked, running_head(), NODES), words.put)
    try:
        while True:
            match words.get(timeout=60):
                case Push() as push:
                    pushes.append(push)
                    replies = tuple(_reply(one, answer) for one in push.instructions)
                    child.send(Replies(ordinal=push.ordinal, replies=replies))
                case last:
                    return last, pushes
    finally:
        child.close()
        child.join()


def _reply(asked, answer):
    made = answer(asked.node, asked.content)
    if made is None:
        return Reply(node=asked.node, why="it declined")
    screen_reply(made, asked.content)
    return Reply(node=asked.node, content=made)


def final_arrays(word):
    """The arrays of a last word, in their order."""
    assert isinstance(word, Done), word.why if isinstance(word, Crashed) else word
    record = decode_message(word.arrays).content["arrays"]
    assert isinstance(record, ArrayRecord)
    return list(record.items.values())
