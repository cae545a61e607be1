"""An encrypted release: nothing readable of it lies on the manager but its keys."""

import stat
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import msgspec
import numpy as np
import pytest
from nacl.signing import SigningKey

from agent.contract.belief import believe_assignment
from agent.contract.expand import expand_source
from agent.contract.manifest import Artifact, Release, decode_release
from agent.contract.messages import Assignment
from agent.contract.sealing import new_key, unwrap_key
from agent.contract.sources import SEALED, full_source
from fleet.cli.client import ManagerClient
from fleet.cli.publishing import publish_described, publish_signed, write_signed
from fleet.config import FleetConfig
from fleet.errors import ConflictError, NewerStateError, NotFoundError, RefusedError, RegistryError
from fleet.registry.content_keys import ContentKeys
from fleet.registry.devices import DeviceState
from fleet.release.build import find_head
from fleet.release.candidate import read_head, with_head
from fleet.release.delta import offer
from fleet.service import contents, releases
from fleet.service.desk import Desk, open_desk
from fleet.service.doctor import Found, examine
from fleet.service.loop import RunningManager
from fleet.service.publication import Described, describe_candidate, read_described, sign_release
from fleet.service.views import CandidateView
from fleet.service.wishes import Publication
from fleet.signing.ceremony import load_targets_keys
from tests.brokers import eventually
from tests.manager_home import MODEL, make_desk, make_home, serving

DEVICE = SigningKey(b"d" * 32)


def described() -> Described:
    return read_described(MODEL, MODEL.with_suffix(".json"))


def tuned() -> Described:
    old = described()
    head = find_head(old.model)
    assert head
    weight, bias = read_head(old.model, head)
    return Described(
        model=with_head(old.model, head, weight + np.float32(0.01), bias),
        description=old.description,
        golden_inputs=old.golden_inputs,
        lineage=old.lineage,
    )


def signed(desk: Desk) -> Publication:
    keys = load_targets_keys(desk.config.keys, "", dev=True)[:1]
    built, publication = sign_release(
        described(), releases.targets(desk), keys, version=None, encrypt=True
    )
    for content in built.artifacts.values():
        desk.artifacts.put(content)
    return publication


def artifacts(publication: Publication) -> tuple[Artifact, ...]:
    return decode_release(publication.manifest).artifacts


def name_of_key(artifact: Artifact) -> str:
    return full_source(artifact).digest


def opened(artifact: Artifact, sealed: bytes, key: bytes) -> bytes:
    kind = full_source(artifact).kind
    return b"".join(expand_source(kind, BytesIO(sealed), None, artifact.size, key))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return make_desk(tmp_path)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[tuple[FleetConfig, RunningManager, ManagerClient]]:
    config = make_home(tmp_path)
    with serving(config) as running, ManagerClient(config.socket) as client:
        yield config, running, client


def wants(desk: Desk, digest: str) -> None:
    found = releases.find(desk, digest)
    desk.registry.devices.add(
        "d-0000", key=bytes(DEVICE.verify_key).hex(), group="demo", hardware="generic-linux",
        state=DeviceState.ENROLLED, at_ms=1,
    )  # fmt: skip
    desk.registry.devices.want("d-0000", "motion", found.assigned, at_ms=1)


def test_model_and_golden_vectors_are_sealed_and_nothing_else_is_kept(desk: Desk):
    publication = signed(desk)
    releases.publish(desk, publication)
    kept = {path.name: path.read_bytes() for path in desk.config.artifacts.iterdir()}
    for artifact in artifacts(publication):
        assert artifact.encrypted
        assert artifact.digest not in kept
        sealed = kept[full_source(artifact).digest]
        assert contents.read(desk, artifact) == opened(
            artifact, sealed, publication.keys[name_of_key(artifact)]
        )
    model = described().model
    assert not any(model[:64] in content for content in kept.values())
    assert releases.listing(desk)[0].encrypted


def test_its_keys_are_for_the_managers_user_only_and_outlive_a_restart(desk: Desk):
    publication = signed(desk)
    releases.publish(desk, publication)
    folder = desk.config.content_keys
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    desk.registry.close()
    again = open_desk(desk.config, "", lambda _run, _word: None)
    for artifact in artifacts(publication):
        assert (
            contents.show_key(again, name_of_key(artifact)).key
            == publication.keys[name_of_key(artifact)]
        )


def test_a_release_without_its_keys_is_not_put_into_force(desk: Desk):
    publication = msgspec.structs.replace(signed(desk), keys={})
    with pytest.raises(RefusedError, match="without the key"):
        releases.publish(desk, publication)
    assert releases.listing(desk) == []


def test_a_release_with_a_wrong_key_is_not_put_into_force(desk: Desk):
    publication = signed(desk)
    wrong = dict.fromkeys(publication.keys, new_key())
    with pytest.raises(RefusedError, match="is wrong"):
        releases.publish(desk, msgspec.structs.replace(publication, keys=wrong))
    assert releases.listing(desk) == []
    assert not list(desk.config.content_keys.glob("*"))
    releases.publish(desk, publication)


def test_the_same_model_may_be_sealed_again_with_another_key(desk: Desk):
    first = signed(desk)
    releases.publish(desk, first)
    second = signed(desk)
    assert releases.publish(desk, second).name == "motion v2"
    (old, _), (new, _) = artifacts(first), artifacts(second)
    assert old.digest == new.digest
    assert contents.read(desk, old) == contents.read(desk, new)
    assert first.keys.keys().isdisjoint(second.keys.keys())


def test_a_key_of_nothing_that_the_release_names_is_refused(desk: Desk):
    publication = signed(desk)
    keys = {**publication.keys, "ab" * 32: new_key()}
    with pytest.raises(RefusedError, match="names no encrypted stream abab"):
        releases.publish(desk, msgspec.structs.replace(publication, keys=keys))


def test_a_release_whose_stream_was_not_uploaded_is_not_put_into_force(desk: Desk):
    publication = signed(desk)
    lost = full_source(artifacts(publication)[0])
    (desk.config.artifacts / lost.digest).unlink()
    with pytest.raises(RefusedError, match="was not uploaded"):
        releases.publish(desk, publication)


def test_a_key_is_never_replaced_by_another(tmp_path: Path):
    keys = ContentKeys(tmp_path / "content-keys")
    keys.keep("ab" * 32, b"1" * 32)
    keys.keep("ab" * 32, b"1" * 32)
    with pytest.raises(ConflictError):
        keys.keep("ab" * 32, b"2" * 32)
    with pytest.raises(RefusedError):
        keys.keep("../../etc/passwd", b"1" * 32)
    with pytest.raises(RefusedError):
        keys.keep("cd" * 32, b"short")
    with pytest.raises(NotFoundError):
        keys.find("cd" * 32)


def test_a_damaged_key_and_one_of_a_newer_version_are_named(tmp_path: Path):
    keys, name = ContentKeys(tmp_path), "ab" * 32
    (tmp_path / name).write_text("{}")
    with pytest.raises(RegistryError, match="backup"):
        keys.find(name)
    (tmp_path / name).write_text(f'{{"v":2,"stream":"{name}","key":"{"0" * 64}"}}')
    with pytest.raises(NewerStateError):
        keys.find(name)
    (tmp_path / name).write_text(f'{{"v":1,"stream":"{"cd" * 32}","key":"{"0" * 64}"}}')
    with pytest.raises(RegistryError, match="is the key of cdcd"):
        keys.find(name)


def test_an_assignment_carries_keys_that_only_its_device_opens(manager):
    config, running, client = manager
    view = publish_described(config, client, described(), None, encrypt=True)
    running.ask(lambda desk: wants(desk, view.digest))
    eventually(lambda: running.ask(lambda d: d.registry.devices.assignment("d-0000")) is not None)
    kept = running.ask(lambda d: d.registry.devices.assignment("d-0000"))
    believed = believe_assignment(
        kept.payload,
        authority=running.ask(lambda d: d.repository.authority()),
        fleet="demo",
        device="d-0000",
        accepted=None,
        now_ms=None,
    )
    release = decode_release(client.get_bytes(f"/artifacts/{view.digest}"))
    assert believed.assignment.keys.keys() == {name_of_key(a) for a in release.artifacts}
    for digest, box in believed.assignment.keys.items():
        key = running.ask(lambda d, digest=digest: contents.show_key(d, digest)).key
        assert unwrap_key(box, DEVICE) == key
        assert key not in kept.payload


def test_a_lost_key_is_left_out_and_the_rest_is_assigned_all_the_same(desk: Desk, caplog):
    publication = signed(desk)
    view = releases.publish(desk, publication)
    lost, kept = (name_of_key(artifact) for artifact in artifacts(publication))
    (desk.config.content_keys / lost).unlink()
    wants(desk, view.digest)
    plain = Assignment(
        device="d-0000", fleet="demo", director_epoch=1, sequence=1,
        slots=desk.registry.devices.desired("d-0000"), issued_ms=1, expires_ms=2,
    )  # fmt: skip
    assert contents.with_keys(desk, plain).keys.keys() == {kept}
    assert lost[:16] in caplog.text


def test_a_device_whose_key_takes_no_box_is_assigned_without_and_stops_nobody(desk: Desk, caplog):
    view = releases.publish(desk, signed(desk))
    published = releases.find(desk, view.digest)
    desk.registry.devices.add(
        "d-0001", key="02" * 32, group="demo", hardware="generic-linux",
        state=DeviceState.ENROLLED, at_ms=1,
    )  # fmt: skip
    plain = Assignment(
        device="d-0001", fleet="demo", director_epoch=1, sequence=1,
        slots={"motion": published.assigned}, issued_ms=1, expires_ms=2,
    )  # fmt: skip
    assert contents.with_keys(desk, plain).keys == {}
    assert "keyless device=d-0001" in caplog.text


def test_the_next_release_of_the_slot_is_encrypted_too_and_its_delta_is_sealed(manager):
    config, running, client = manager
    view = publish_described(config, client, described(), None, encrypt=True)
    running.ask(lambda desk: wants(desk, view.digest))
    first = decode_release(client.get_bytes(f"/artifacts/{view.digest}"))
    after = publish_described(config, client, tuned(), None)
    second: Release = decode_release(client.get_bytes(f"/artifacts/{after.digest}"))
    assert after.encrypted
    new, old = second.variants[0].model, first.variants[0].model
    deltas = [source for source in new.sources if source.base == old.digest]
    assert [source.kind.startswith(SEALED) for source in new.sources] == [True, True]
    assert len(deltas) == 1
    assert deltas[0].size < full_source(new).size // 5
    plain = publish_described(config, client, described(), None, encrypt=False)
    assert not plain.encrypted


def test_a_release_signed_elsewhere_brings_its_keys_in_a_folder_for_its_owner(tmp_path, manager):
    config, running, client = manager
    keys = load_targets_keys(config.keys, "", dev=True)[:1]
    held = running.ask(releases.targets)
    built, publication = sign_release(described(), held, keys, version=None, encrypt=True)
    write_signed(tmp_path / "signed", built, publication)
    folder = tmp_path / "signed"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "publication.json").stat().st_mode) == 0o600
    view = publish_signed(client, tmp_path / "signed")
    assert view.encrypted
    for digest in publication.keys:
        assert running.ask(lambda d, digest=digest: contents.show_key(d, digest)).key


def test_the_candidate_of_a_run_upon_an_encrypted_release_is_encrypted(desk: Desk):
    view = releases.publish(desk, signed(desk))
    found = releases.find(desk, view.digest)
    model = contents.read(desk, found.release.variants[0].model)
    candidate = CandidateView(
        run="run-1", slot="motion", family="motion", parent=found.digest,
        parent_manifest=found.manifest, parent_golden=contents.read(desk, found.release.golden),
        model=model, rounds=1, cohort=(), receivers=(), judged=(),
    )  # fmt: skip
    keys = load_targets_keys(desk.config.keys, "", dev=True)[:1]
    built, publication = sign_release(
        describe_candidate(candidate), releases.targets(desk), keys, version=None
    )
    assert all(artifact.encrypted for artifact in built.release.artifacts)
    assert publication.keys.keys() == {name_of_key(a) for a in built.release.artifacts}


def test_a_content_that_does_not_compress_is_sealed_as_it_is():
    content = np.random.default_rng(1).bytes(5000)
    offered = offer(content, (), encrypt=True)
    assert offered.key is not None
    assert [source.kind for source in offered.artifact.sources] == ["sealed-full"]
    (sealed,) = offered.files.values()
    assert content[:100] not in sealed
    assert opened(offered.artifact, sealed, offered.key) == content


def test_the_doctor_names_a_lost_key_and_a_lost_stream(desk: Desk):
    publication = signed(desk)
    releases.publish(desk, publication)
    desk.registry.close()

    def artifacts_say() -> str:
        place = {"home": desk.config.home, "running": False, "status": None, "environment": {}}
        checkup = examine(Found(config=desk.config, now_ms=desk.now_ms(), **place))
        return next(check.why for check in checkup.checks if check.name == "artifacts")

    assert "everything behind" in artifacts_say()
    name = name_of_key(artifacts(publication)[0])
    for folder in ("artifacts", "content-keys"):
        path = desk.config.home / folder / name
        path.rename(desk.config.home / "aside")
        assert f"{folder}/{name}" in artifacts_say()
        (desk.config.home / "aside").rename(path)
