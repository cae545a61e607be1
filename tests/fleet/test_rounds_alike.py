"""One device that names its records otherwise costs a strategy of Flower one reply."""

from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
import pytest

from agent.contract.tensors import FlowerMessage, MetricRecord, decode_message, encode_message
from tests.small_rounds import (
    DEVICES,
    ThreadChild,
    World,
    conductor,
    drive,
    plan,
    three_devices,
)

APPS = Path(__file__).resolve().parents[1] / "apps"


def other_metric(content):
    content["metrics"] = MetricRecord({**content["metrics"].items, "mine": 1.0})


def other_record(content):
    content["figures"] = content.pop("metrics")


def a_list(content):
    content["metrics"] = MetricRecord({**content["metrics"].items, "train-loss": (1.0, 2.0)})


def other_arrays(content):
    content["weights"] = content.pop("arrays")


def run_with(change, names, odd=None):
    devices, world = three_devices(), World()
    asked = plan(app="strategies_app:fedavg", app_folder=str(APPS), participants=names)
    run = conductor(world, asked, launch=ThreadChild)

    def answer(device, task, content):
        said, reply = devices[device].answer(task, content)
        if device == odd and task.kind == "train":
            message = decode_message(reply)
            records = dict(message.content)
            change(records)
            reply = encode_message(FlowerMessage(metadata=message.metadata, content=records))
            said = msgspec.structs.replace(said, digest=sha256(reply).hexdigest())
        return said, reply

    return drive(run, world, devices, answer=answer), run.candidate()


@pytest.mark.slow
@pytest.mark.parametrize("change", [other_metric, other_record, a_list, other_arrays])
def test_a_reply_of_other_names_is_left_out_and_the_round_goes_on(change):
    state, found = run_with(change, DEVICES, odd="d-three")
    assert state.status == "finished", state.why
    _, alone = run_with(None, DEVICES[:2])
    np.testing.assert_allclose(found.weight, alone.weight, atol=1e-6)
