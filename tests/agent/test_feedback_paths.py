"""Labels come by HTTP, by the owner's broker and by a call; the fleet hears two counts of them."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.contract.messages import Quality
from agent.contract.rounds import Task
from agent.contract.tensors import ArrayRecord, FlowerMessage, Metadata, encode_message
from agent.disk import Disk
from agent.embedded import Agent
from agent.infer.onnx import OnnxRuntime
from agent.learn.keeping import KeptWindows
from agent.learn.kept import Kept
from agent.learn.trainer import LinearHead
from agent.refusals import UnknownPredictionError
from fleet.release.build import BuiltRelease
from tests.agents import RunningAgent, command
from tests.benches import PIPELINE, Bench, placement
from tests.brokers import eventually
from tests.home_broker import HomeBroker, OwnersClient
from tests.served_models import Client
from tests.small_manager import SmallManager
from tests.small_models import CHANNELS, CLASSES, SAMPLES, classifier

pytestmark = pytest.mark.broker
ASKED = json.dumps(
    {
        "inputs": [
            {
                "name": "x",
                "datatype": "FP32",
                "shape": [1, len(CHANNELS), SAMPLES],
                "data": [0.25] * (len(CHANNELS) * SAMPLES),
            }
        ]
    }
).encode()
FEEDBACK = "/v2/models/motion/feedback"
CONFIG = """
[serve]
socket = "{folder}/inference.sock"

[local_broker]
url = "{url}"

[feedback]
recent = 100000
keep_windows = true

[learn]
evaluate = true

[pipeline.motion]
source = {{ kind = "replay", path = "recording.npz", speed = 20, loop = true }}
"""

LEARNS = """
[feedback]
keep_windows = true
retention_days = 3650

[learn]
train = true
"""


class House:
    """One device whose predictions its owner hears and labels."""

    def __init__(self, bench: Bench, agent: RunningAgent, owner: OwnersClient) -> None:
        self.bench = bench
        self.agent = agent
        self.owner = owner
        self._numbers = count()

    def until(self, holds: Callable[[], bool]) -> None:
        self.bench.until(self.agent, holds)

    def topic(self, last: str) -> str:
        return f"fieldfare/{self.bench.device}/motion/{last}"

    def predictions(self, least: int) -> list[dict[str, Any]]:
        """Return at least so many predictions as the owner heard them."""

        def heard() -> list[bytes]:
            return [m.payload for m in self.owner.heard if m.topic == self.topic("prediction")]

        self.until(lambda: len(heard()) >= least)
        return [json.loads(payload) for payload in heard()]

    def label(self, labels: object) -> dict[str, Any]:
        """Label by MQTT, and return the answer."""
        wished = f"labels-{next(self._numbers)}".encode()
        self.owner.publish(
            self.topic("feedback"),
            json.dumps(labels).encode(),
            response_topic="panel/answers",
            correlation=wished,
        )
        return self.owner.answer_to(wished)

    def client(self) -> Client:
        there = socket.socket(socket.AF_UNIX)
        there.settimeout(10)
        there.connect(str(self.bench.folder / "inference.sock"))
        return Client(there)

    def counted(self, digest: str) -> tuple[int, int]:
        return counted(self.bench, digest)


@contextmanager
def house(tmp_path: Path, manager: SmallManager, home: HomeBroker) -> Iterator[House]:
    bench = Bench(tmp_path, manager, CONFIG.format(folder=tmp_path / "device", url=home.url))
    owner = home.listener("#")
    with bench.run() as agent:
        yield House(bench, agent, owner)
        assert agent.stop() == 0
    owner.close()


def counted(bench: Bench, digest: str) -> tuple[int, int]:
    """Return the labelled and the right answers of a release that the fleet heard of."""
    windows = [w for t in bench.heard.telemetry() for w in t.windows if w.release == digest]
    return sum(w.labelled for w in windows), sum(w.right for w in windows)


def kept(bench: Bench) -> int:
    shown = command("feedback", "show", "--state-dir", bench.folder / "state", "-o", "json")
    assert shown.returncode == 0, shown.stderr
    return int(json.loads(shown.stdout)["windows"])


def another(label: str) -> str:
    return next(name for name in CLASSES if name != label)


def as_labels(predictions: list[dict[str, Any]]) -> list[dict[str, str]]:
    return [{"id": one["id"], "label": one["label"]} for one in predictions]


def test_a_label_comes_by_http_and_what_is_wrong_with_one_is_said(tmp_path, manager, home):
    built = manager.publish(classifier(0), placement(1))
    with house(tmp_path, manager, home) as inside:
        inside.bench.install(inside.agent, built)
        with inside.client() as client:
            said = client.infer(ASKED).json["parameters"]
            label = json.dumps({"id": said["prediction_id"], "label": said["label"]}).encode()
            answer = client.ask("POST", FEEDBACK, label)
            assert (answer.status, answer.json["right"]) == (200, True)
            again = client.ask("POST", FEEDBACK, label)
            assert (again.status, again.json["again"]) == (200, True)
            for status, body in (
                (409, label.replace(said["label"].encode(), another(said["label"]).encode())),
                (404, b'{"id": "0011aabb-1", "label": "walk"}'),
                (400, label.replace(said["label"].encode(), b"fly")),
                (400, b"walking"),
                (413, b" " * 70_000),
            ):
                refused = client.ask("POST", FEEDBACK, body)
                assert refused.status == status
                assert refused.json["error"]
            assert client.ask("POST", "/v2/models/gesture/feedback", label).status == 404
            assert client.ask("GET", FEEDBACK).status == 405
            assert client.infer(ASKED).status == 200
        inside.until(lambda: inside.counted(built.digest) == (1, 1))
        telemetry = inside.bench.heard.telemetry
        inside.until(lambda: sum(report.refused_labels for report in telemetry()) == 5)


def test_a_label_by_the_owners_broker_counts_for_the_release_that_predicted(
    tmp_path, manager, home
):
    first, second = (manager.publish(classifier(0), placement(n)) for n in (1, 2))
    with house(tmp_path, manager, home) as inside:
        inside.bench.install(inside.agent, first)
        predicted = inside.predictions(30)
        wrong = {"id": predicted[20]["id"], "label": another(predicted[20]["label"])}
        results = inside.label([*as_labels(predicted[:20]), wrong])["results"]
        assert [result["right"] for result in results] == [True] * 20 + [False]
        inside.owner.publish(inside.topic("feedback"), b'{"id": "0011aabb-1", "label": "walk"}')
        default = inside.topic("feedback/response")
        inside.until(lambda: inside.owner.newest(default) is not None)
        assert inside.owner.document(default)["code"] == "prediction-unknown"
        inside.until(lambda: inside.counted(first.digest) == (21, 20))

        inside.bench.install(inside.agent, second)
        assert inside.label(as_labels(predicted[25:26])[0])["release"] == first.digest
        inside.until(lambda: inside.counted(first.digest) == (22, 21))
        assert inside.counted(second.digest) == (0, 0)


def test_labelled_windows_outlive_the_agent_and_the_owner_can_remove_them(tmp_path, manager, home):
    built = manager.publish(classifier(0), placement(1))
    with house(tmp_path, manager, home) as inside:
        inside.bench.install(inside.agent, built)
        predicted = inside.predictions(30)
        inside.label(as_labels(predicted[:20]))
        held = kept(inside.bench)
        assert 15 < held <= 20
        told = inside.bench.heard.inventory
        inside.until(lambda: told[-1].labelled_windows == held)
    bench, before = inside.bench, len(inside.bench.heard.inventory)
    owner = home.listener("#")
    owner.publish(inside.topic("feedback"), b'{"id": "0011aabb-1", "label": "run"}', retained=True)
    with bench.run() as agent:
        bench.until(agent, lambda: len(bench.heard.inventory) > before)
        assert bench.heard.inventory[-1].labelled_windows == held
        later = House(bench, agent, owner)
        assert later.label(as_labels(predicted[25:26])[0])["code"] == "prediction-unknown"
        assert owner.newest(later.topic("feedback/response")) is None
        cleared = command("feedback", "clear", "--yes", "--state-dir", bench.folder / "state")
        assert cleared.stdout == f"removed {held} labelled windows\n"
        bench.until(agent, lambda: bench.heard.inventory[-1].labelled_windows == 0)
        assert agent.stop() == 0
    owner.close()


def keep_labelled(state: Path, built: BuiltRelease, windows: int = 180) -> None:
    """Keep windows as people labelled them who agree with ``classifier(0)``."""
    x = np.random.default_rng(5).normal(size=(windows, len(CHANNELS), SAMPLES)).astype(np.float32)
    runtime = OnnxRuntime(classifier(0))
    KeptWindows(Disk(state), quota_bytes=1 << 20, retention_ms=1 << 40).keep(
        [
            Kept(
                slot="motion",
                id=f"0011aabb-{number}",
                row=0,
                at_ms=1_700_000_000_000 + number,
                release=built.digest,
                label=CLASSES[int(runtime.infer(one[None])[0].argmax())],
                split=number % 3,
                channels=len(CHANNELS),
                samples=SAMPLES,
                x=one.tobytes(),
            )
            for number, one in enumerate(x)
        ],
        0,
    )


def test_labels_alone_judge_a_release_and_are_enough_to_train_on(tmp_path, manager):
    bench = Bench(tmp_path, manager, PIPELINE + LEARNS)
    good, bad = (manager.publish(classifier(n), placement(v)) for n, v in ((0, 1), (99, 2)))
    keep_labelled(bench.folder / "state", good)
    with bench.run() as agent:
        bench.install(agent, good)
        said = bench.heard.inventory
        bench.until(agent, lambda: said[-1].trains and said[-1].labelled_windows == 180)
        bench.until(agent, lambda: len(bench.heard.events("evaluation")) == 1)
        (evaluation,) = bench.heard.events("evaluation")
        assert evaluation.decide == evaluation.withheld == Quality(right=60, windows=60)

        manager.assign(bench.device, bad)
        bench.until(agent, lambda: bench.heard.outcome_of(bad.digest) == ["failed_rolled_back"])
        why = next(e for e in bench.heard.events("update") if e.release == bad.digest).why
        assert "of 60 labelled windows right" in why
        manager.assign(bench.device, good)
        bench.until(agent, lambda: bench.heard.reported[-1].slots["motion"].phase == "idle")

        head = LinearHead(weight=np.zeros((3, 4), np.float32), bias=np.zeros(3, np.float32))
        metadata = Metadata(
            run_id=3, message_id="t-1", src_node_id=1, dst_node_id=77, message_type="train"
        )
        arrays = ArrayRecord({"weight": head.weight, "bias": head.bias})
        message = encode_message(FlowerMessage(metadata=metadata, content={"arrays": arrays}))
        manager.offer(
            Task(
                device=bench.device,
                run="run-1",
                task="t1",
                kind="train",
                backbone=good.digest,
                digest=sha256(message).hexdigest(),
                lasts_seconds=60,
            ),
            message,
        )
        bench.until(agent, lambda: bool(bench.heard.answers))
        answer, _ = bench.heard.answers[0]
        assert (answer.outcome, answer.why) == ("done", "")
        assert answer.decide is not None
        assert answer.decide.windows == 60
        assert agent.stop() == 0


def test_a_program_that_is_the_agent_labels_what_it_asked(tmp_path, manager):
    bench = Bench(tmp_path, manager, "[feedback]\n[pipeline.motion]\n")
    built = manager.publish(classifier(0), placement(1))
    manager.assign(bench.device, built)
    with Agent(bench.config) as agent:
        agent.wait("motion", seconds=40)
        said = agent.infer("motion", np.zeros((1, len(CHANNELS), SAMPLES), np.float32))
        assert agent.feedback("motion", said.id, said.label).right
        with pytest.raises(UnknownPredictionError):
            agent.feedback("motion", "0011aabb-1", "walk")
        eventually(lambda: counted(bench, built.digest) == (1, 1), 30.0)
    assert not (bench.folder / "state" / "labelled").exists()
