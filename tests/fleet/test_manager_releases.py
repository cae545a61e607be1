"""Publishing as the CLI does it: built and signed by an engineer, handed in at the manager."""

import json
from pathlib import Path

import msgspec
import pytest

from agent.contract.manifest import decode_release
from agent.errors import MalformedError
from fleet.errors import ConflictError, NotFoundError, RefusedError, SigningError
from fleet.registry.devices import DeviceState
from fleet.service import publication, releases
from fleet.service.desk import Desk
from fleet.service.views import ReleaseView
from fleet.service.wishes import Publication
from fleet.signing.ceremony import load_targets_keys
from tests.manager_home import MODEL, make_desk

DESCRIPTION = MODEL.with_suffix(".json")


@pytest.fixture
def desk(tmp_path: Path):
    desk = make_desk(tmp_path)
    yield desk
    desk.registry.close()


def signed(desk: Desk, version: str | None = None):
    return publication.sign_release(
        publication.read_described(MODEL, DESCRIPTION),
        releases.targets(desk),
        load_targets_keys(desk.config.keys, "", dev=True)[:1],
        version=version,
    )


def hand_in(desk: Desk, digest: str, content: bytes) -> None:
    with desk.artifacts.receive(digest) as upload:
        upload.write(content)


def publish(desk: Desk, version: str | None = None) -> ReleaseView:
    built, made = signed(desk, version)
    for digest, content in built.artifacts.items():
        hand_in(desk, digest, content)
    return releases.publish(desk, made)


def test_a_published_release_is_found_by_each_of_its_names(desk: Desk):
    view = publish(desk)
    assert (view.name, view.counter) == ("motion v1", 1)
    for name in ("motion/v1", "motion v1", "models/motion/v1.json", view.digest):
        assert releases.find(desk, name).digest == view.digest
    assert desk.repository.target("models/motion/v1.json") is not None


def test_each_release_of_a_slot_counts_up_and_is_named_after_it(desk: Desk):
    assert [publish(desk).name for _ in range(3)] == ["motion v1", "motion v2", "motion v3"]


def test_a_release_lists_what_devices_may_go_back_to(desk: Desk):
    first = publish(desk)
    desk.registry.devices.add(
        "d-0000", key="00" * 32, group="demo", hardware="generic-linux",
        state=DeviceState.ENROLLED, at_ms=1,
    )  # fmt: skip
    assigned = releases.find(desk, first.digest).assigned
    desk.registry.devices.want("d-0000", "motion", assigned, at_ms=1)
    second = publish(desk)
    assert releases.find(desk, second.digest).release.rollback_to == (first.digest,)


def test_a_release_whose_artifacts_are_missing_is_refused_and_leaves_nothing(desk: Desk):
    _, made = signed(desk)
    before = desk.repository.targets_metadata()
    with pytest.raises(RefusedError, match="was not uploaded"):
        releases.publish(desk, made)
    assert releases.listing(desk) == []
    assert desk.repository.targets_metadata() == before


def test_metadata_that_the_targets_key_did_not_sign_is_refused_and_leaves_nothing(desk: Desk):
    built, made = signed(desk)
    for digest, content in built.artifacts.items():
        hand_in(desk, digest, content)
    metadata = json.loads(made.targets)
    metadata["signed"]["expires"] = "2099-01-01T00:00:00Z"
    forged = json.dumps(metadata).encode()
    with pytest.raises(SigningError):
        releases.publish(desk, Publication(targets=forged, manifest=made.manifest))
    assert releases.listing(desk) == []


def test_a_taken_version_is_refused(desk: Desk):
    publish(desk, "v1")
    with pytest.raises(ConflictError):
        publish(desk, "v1")
    assert len(releases.listing(desk)) == 1


def test_an_upload_must_be_what_its_digest_says(desk: Desk):
    with pytest.raises(RefusedError, match="have digest"):
        hand_in(desk, "00" * 32, b"something else")


def test_a_manifest_that_does_not_parse_is_refused(desk: Desk):
    with pytest.raises(MalformedError):
        releases.publish(desk, Publication(targets=b"{}", manifest=b"{}"))


def test_an_unknown_release_says_which_there_are(desk: Desk):
    publish(desk)
    with pytest.raises(NotFoundError, match="motion/v1"):
        releases.find(desk, "motion/v9")


def test_the_manifest_carries_the_description(desk: Desk):
    view = publish(desk)
    release = decode_release(releases.find(desk, view.digest).manifest)
    assert release.classes[0] == "PEN"
    assert release.head is not None
    assert release.windowing is not None


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        pytest.param('{"family": "motion", "colour": 1}', "colour", id="unknown member"),
        pytest.param('{"family": "No Name"}', "family", id="a name with a space"),
        pytest.param("{", "does not describe", id="not JSON"),
        pytest.param(
            '{"family": "motion", "golden_inputs": "none.npz"}', "none.npz", id="no golden"
        ),
    ],
)
def test_a_wrong_description_is_one_sentence(tmp_path: Path, content: str, sentence: str):
    path = tmp_path / "motion.json"
    path.write_text(content)
    with pytest.raises(RefusedError, match=sentence):
        publication.read_described(MODEL, path)


def test_a_model_without_a_description_says_what_is_missing(tmp_path: Path):
    model = tmp_path / "model.onnx"
    model.write_bytes(b"x")
    with pytest.raises(RefusedError, match=r"model\.toml is missing"):
        publication.read_described(model)


def test_a_view_survives_the_wire(desk: Desk):
    view = publish(desk)
    assert msgspec.json.decode(msgspec.json.encode(view), type=ReleaseView) == view
