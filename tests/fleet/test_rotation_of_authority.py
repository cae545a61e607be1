"""The steps of changing the broker's authority: each repeatable, none that strands anybody."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.contract.endpoints import Endpoint, fingerprint, split_authorities
from fleet.config import FleetConfig
from fleet.errors import ConfigError, ConflictError, NotFoundError, RefusedError
from fleet.ingest.authority import Issued, make_authority, make_server, names_of, why_not_believed
from fleet.ingest.tls import create_dev_tls
from fleet.service import rotation
from fleet.service.endpoints import EndpointsView, EndpointView, Straggler
from fleet.service.rotation import Brought
from tests.manager_home import make_home

NOW = datetime.now(UTC)
LATE = Straggler(device="d-late", presence="offline", last_seen_ms=0, holds=0, url="")


@pytest.fixture
def config(tmp_path: Path) -> FleetConfig:
    home = make_home(tmp_path)
    create_dev_tls(home.broker_folder)
    url = "mqtts://127.0.0.1:8883"
    return replace(home, broker=replace(home.broker, kind="mosquitto", url=url, enrol_url=url))


def listed(config: FleetConfig, *endpoints: Endpoint, late: bool = False) -> EndpointsView:
    shown = endpoints or (Endpoint(url=config.broker.url, cas=split(config, "ca.pem")),)
    return EndpointsView(
        version=1,
        endpoints=tuple(
            EndpointView(url=e.url, cas=e.cas, fingerprints=e.fingerprints) for e in shown
        ),
        confirmed=3,
        stragglers=(LATE,) if late else (),
    )


def split(config: FleetConfig, name: str) -> tuple[str, ...]:
    return split_authorities((config.broker_folder / name).read_text())


def shown(config: FleetConfig) -> Issued:
    folder = config.broker_folder
    return Issued(
        chain=(folder / "server.pem").read_text(), key=(folder / "server.key").read_text()
    )


def test_beginning_shows_nothing_new_and_believes_both(config):
    before, (old,) = shown(config), split(config, "ca.pem")
    begun = rotation.begin(config, None, NOW)
    assert shown(config) == before
    assert split(config, "ca.pem") == (old, begun.new)
    assert (begun.switched, begun.stranded) == (False, "")
    assert rotation.begin(config, None, NOW) == begun


def test_the_overlap_adds_the_new_authority_where_the_old_one_is_believed(config):
    (old,) = split(config, "ca.pem")
    other = Endpoint(url="mqtts://other.example", cas=(make_authority(NOW).chain,))
    view = listed(config, Endpoint(url=config.broker.url, cas=(old,)), other)
    begun = rotation.begin(config, None, NOW)
    wanted = rotation.overlapping(view, begun)
    assert wanted == (Endpoint(url=config.broker.url, cas=(old, begun.new)), other)
    after = rotation.renewed(listed(config, *wanted), begun)
    assert after == (Endpoint(url=config.broker.url, cas=(begun.new,)), other)


def test_the_switch_waits_until_devices_are_told(config):
    (old,) = split(config, "ca.pem")
    before = listed(config, Endpoint(url=config.broker.url, cas=(old,)))
    rotation.begin(config, None, NOW)
    with pytest.raises(RefusedError, match="not told"):
        rotation.switch(config, before, force=False)
    with pytest.raises(RefusedError, match="not told"):
        rotation.switch(config, replace_version(listed(config), 0), force=True)


def replace_version(view: EndpointsView, version: int) -> EndpointsView:
    from msgspec.structs import replace as changed

    return changed(view, version=version)


def test_after_the_switch_old_and_new_believers_find_it_in_order(config):
    (old,) = split(config, "ca.pem")
    begun = rotation.begin(config, None, NOW)
    assert rotation.switch(config, listed(config, late=True), force=False).switched
    for cas in ([old], [begun.new], [old, begun.new]):
        assert why_not_believed(shown(config), "127.0.0.1", cas) == ""


def test_without_a_bridge_the_switch_waits_for_every_device(config):
    (config.broker_folder / "ca.key").unlink()
    begun = rotation.begin(config, None, NOW)
    assert begun.stranded
    with pytest.raises(RefusedError, match="d-late may"):
        rotation.switch(config, listed(config, late=True), force=False)
    assert not rotation.require_rotation(config).switched
    assert rotation.switch(config, listed(config), force=False).switched


def test_force_switches_without_a_bridge(config):
    (config.broker_folder / "ca.key").unlink()
    rotation.begin(config, None, NOW)
    assert rotation.switch(config, listed(config, late=True), force=True).switched


def test_the_old_authority_does_not_go_before_the_switch(config):
    with pytest.raises(RefusedError, match="switch' first"):
        rotation.require_switched(rotation.begin(config, None, NOW))


def test_at_the_end_the_old_authority_and_the_bridge_are_gone(config):
    (old,) = split(config, "ca.pem")
    begun = rotation.begin(config, None, NOW)
    rotation.finish(config, rotation.switch(config, listed(config), force=False))
    assert split(config, "ca.pem") == (begun.new,)
    assert len(split(config, "server.pem")) == 1
    assert why_not_believed(shown(config), "127.0.0.1", [begun.new]) == ""
    assert why_not_believed(shown(config), "127.0.0.1", [old])
    assert rotation.find_rotation(config) is None
    again = rotation.begin(config, None, NOW)
    assert again.stranded == ""
    assert fingerprint(again.new) != fingerprint(begun.new)


@pytest.mark.parametrize("gone", [1, 2, 3])
def test_an_end_that_was_cut_off_is_finished(config, gone, monkeypatch):
    begun = rotation.begin(config, None, NOW)
    switched = rotation.switch(config, listed(config), force=False)
    real, left = rotation.replace_file, [gone]

    def dies(path: Path, text: str) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        real(path, text)

    monkeypatch.setattr(rotation, "replace_file", dies)
    with pytest.raises(KeyboardInterrupt):
        rotation.finish(config, switched)
    monkeypatch.undo()
    rotation.finish(config, rotation.require_rotation(config))
    assert split(config, "ca.pem") == (begun.new,)
    assert why_not_believed(shown(config), "127.0.0.1", [begun.new]) == ""
    assert len(split(config, "server.pem")) == 1


@pytest.mark.parametrize("done", range(5))
def test_a_beginning_that_was_cut_off_is_begun_again(config, done, monkeypatch):
    real, left = rotation.replace_file, [done]

    def dies(path: Path, text: str) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        real(path, text)

    (old,) = split(config, "ca.pem")
    monkeypatch.setattr(rotation, "replace_file", dies)
    with pytest.raises(KeyboardInterrupt):
        rotation.begin(config, None, NOW)
    monkeypatch.undo()
    begun = rotation.begin(config, None, NOW)
    assert split(config, "ca.pem") == (old, begun.new)
    assert why_not_believed(begun.server, "127.0.0.1", [begun.new]) == ""


def bring(config: FleetConfig, folder: Path, authority: Issued, server: Issued) -> Brought:
    folder.mkdir()
    for name, text in (("ca", authority.chain), ("cert", server.chain), ("key", server.key)):
        (folder / name).write_text(text)
    return Brought(authority=folder / "ca", certificate=folder / "cert", key=folder / "key")


def test_an_authority_of_ones_own_is_brought_with_its_certificate(config, tmp_path):
    own = make_authority(NOW)
    server = make_server(own, names_of((config.broker_folder / "server.pem").read_text()), NOW)
    begun = rotation.begin(config, bring(config, tmp_path / "own", own, server), NOW)
    assert begun.new == own.chain
    assert begun.server == server
    assert begun.stranded  # its owner made no bridge
    with pytest.raises(ConflictError, match="under way"):
        rotation.begin(config, bring(config, tmp_path / "again", own, server), NOW)
    rotation.finish(config, rotation.switch(config, listed(config), force=False))
    assert split(config, "ca.pem") == (own.chain,)


def test_a_certificate_that_the_brought_authority_did_not_sign_is_refused(config, tmp_path):
    server = make_server(
        make_authority(NOW), names_of((config.broker_folder / "server.pem").read_text()), NOW
    )
    brought = bring(config, tmp_path / "own", make_authority(NOW), server)
    with pytest.raises(RefusedError, match="not believed by the new authority"):
        rotation.begin(config, brought, NOW)
    assert rotation.find_rotation(config) is None


def test_a_chain_is_no_authority(config, tmp_path):
    own, other = make_authority(NOW), make_authority(NOW)
    server = make_server(own, names_of((config.broker_folder / "server.pem").read_text()), NOW)
    both = Issued(chain=own.chain + other.chain, key="")
    with pytest.raises(ConfigError, match="2 certificates, not one"):
        rotation.begin(config, bring(config, tmp_path / "own", both, server), NOW)


def test_a_broker_without_tls_has_no_authority_to_change(tmp_path):
    with pytest.raises(RefusedError, match="has no TLS"):
        rotation.begin(make_home(tmp_path), None, NOW)


def test_without_a_change_there_is_nothing_to_switch(config):
    with pytest.raises(NotFoundError, match="rotate-ca begin"):
        rotation.switch(config, listed(config), force=False)


def test_before_the_switch_there_is_a_way_back(config):
    before, (old,) = shown(config), split(config, "ca.pem")
    begun = rotation.begin(config, None, NOW)
    assert rotation.without_new(listed(config), begun) == (
        Endpoint(url=config.broker.url, cas=(old,)),
    )
    rotation.require_not_switched(begun)
    rotation.abandon(config, begun)
    assert (split(config, "ca.pem"), shown(config)) == ((old,), before)
    assert rotation.find_rotation(config) is None


def test_after_the_switch_there_is_none(config):
    rotation.begin(config, None, NOW)
    switched = rotation.switch(config, listed(config), force=False)
    with pytest.raises(RefusedError, match="retire"):
        rotation.require_not_switched(switched)
