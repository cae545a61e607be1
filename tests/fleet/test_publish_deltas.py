"""What the next release looks like where devices run the one before: the CLI and a manager."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from agent.contract.manifest import Release, decode_release
from fleet.cli.client import ManagerClient, RefusedByManagerError
from fleet.cli.publishing import publish_described
from fleet.config import FleetConfig
from fleet.errors import RefusedError
from fleet.registry.devices import DeviceState
from fleet.release.build import find_head
from fleet.release.candidate import read_head, with_head
from fleet.service import releases
from fleet.service.desk import Desk
from fleet.service.loop import RunningManager
from fleet.service.publication import Described, read_described
from tests.manager_home import MODEL, make_home, serving


class Fleet:
    """A manager with one device, and the release engineer beside it."""

    def __init__(self, config: FleetConfig, manager: RunningManager, client: ManagerClient) -> None:
        self.config, self.manager, self.client = config, manager, client

    def publish(self, described: Described) -> Release:
        view = publish_described(self.config, self.client, described, None)
        return decode_release(self.client.get_bytes(f"/artifacts/{view.digest}"))

    def runs_the_newest(self) -> None:
        def want(desk: Desk) -> None:
            newest = releases.find(desk, releases.listing(desk)[-1].digest)
            desk.registry.devices.add(
                "d-0000", key="00" * 32, group="demo", hardware="generic-linux",
                state=DeviceState.ENROLLED, at_ms=1,
            )  # fmt: skip
            desk.registry.devices.want("d-0000", "motion", newest.assigned, at_ms=1)

        self.manager.ask(want)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    config = make_home(tmp_path)
    with serving(config) as manager, ManagerClient(config.socket) as client:
        yield Fleet(config, manager, client)


def tuned() -> Described:
    old = read_described(MODEL, MODEL.with_suffix(".json"))
    head = find_head(old.model)
    assert head
    weight, bias = read_head(old.model, head)
    model = with_head(old.model, head, weight + np.float32(0.01), bias)
    return Described(
        model=model,
        description=old.description,
        golden_inputs=old.golden_inputs,
        lineage=old.lineage,
    )


def described() -> Described:
    return read_described(MODEL, MODEL.with_suffix(".json"))


def test_a_delta_is_published_against_what_devices_run(fleet: Fleet):
    first = fleet.publish(described())
    fleet.runs_the_newest()
    second = fleet.publish(tuned())
    for new, old in (
        (second.variants[0].model, first.variants[0].model),
        (second.golden, first.golden),
    ):
        deltas = [s for s in new.sources if s.base == old.digest]
        assert len(deltas) == 1
        assert deltas[0].size < new.size // 5
        packed = fleet.client.get_bytes(f"/artifacts/{deltas[0].digest}")
        assert deltas[0].check_chunk(0, packed) == packed


def test_without_a_device_that_runs_it_only_compressed_full_is_published(fleet: Fleet):
    fleet.publish(described())
    sources = fleet.publish(tuned()).variants[0].model.sources
    assert [source.base for source in sources] == [None]


def test_a_release_whose_bytes_the_manager_lost_is_no_base(fleet: Fleet):
    first = fleet.publish(described())
    fleet.runs_the_newest()
    (fleet.config.artifacts / first.golden.digest).unlink()
    second = fleet.publish(tuned())
    assert {s.base for a in second.artifacts for s in a.sources} <= {None}


def test_bytes_that_are_not_those_asked_for_are_no_base(fleet: Fleet, monkeypatch):
    fleet.publish(described())
    fleet.runs_the_newest()
    monkeypatch.setattr(releases, "download", lambda *_: (5, iter([b"other"])))
    with pytest.raises(RefusedError, match="another digest"):
        fleet.publish(tuned())


def test_an_artifact_that_is_not_kept_is_refused_with_its_digest(fleet: Fleet):
    with pytest.raises(RefusedByManagerError, match="ab" * 8):
        fleet.client.get_bytes("/artifacts/" + "ab" * 32)


def test_a_source_that_was_not_uploaded_keeps_a_release_out_of_force(fleet: Fleet, monkeypatch):
    def put(path: str, content: bytes) -> None:
        if content[:4] != b"\x28\xb5\x2f\xfd":  # a zstd frame
            ManagerClient.put(fleet.client, path, content)

    monkeypatch.setattr(fleet.client, "put", put)
    with pytest.raises(RefusedByManagerError, match="was not uploaded"):
        fleet.publish(described())
    assert fleet.manager.ask(releases.listing) == []
