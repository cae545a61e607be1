"""Finding the fleet: proofs count for their own connection, and a power cut strands nobody."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.contract.codec import encode
from agent.contract.endpoints import ENDPOINTS_TARGET, Endpoint, Endpoints, split_authorities
from agent.daemon.agenda import Agenda
from agent.daemon.finding import TRY, Finding, Patience, Surroundings
from agent.disk import Disk
from agent.errors import NewerStateError, StoreError
from agent.identity.enrol import Credentials, save_credentials
from agent.identity.home import HOME, HomeFile, at_home, load_home, save_home
from agent.link.inbox import Connected, Refused
from agent.update import trust
from tests.certificates import make_certificates
from tests.faulty_disk import FaultyDisk, PowerCutError
from tests.signed_fleet import SignedFleet, advance, pinned

FIXTURE = Path(__file__).parents[1] / "fixtures" / "endpoint-v1.json"
OLD, NEW = (Endpoint(url=f"mqtts://{name}.example:8883") for name in ("old", "new"))
CREDENTIALS = Credentials(device="d-aaaaaaaaaaaaaaaa", fleet="demo", broker_url=OLD.url)


def a_list(*endpoints: Endpoint, version: int = 1, fleet: str = "demo") -> bytes:
    return encode(Endpoints(fleet=fleet, version=version, endpoints=endpoints))


@dataclass
class Device:
    """The room, its link and its clock."""

    disk: Disk
    credentials: Credentials = CREDENTIALS
    now: float = 0.0
    went: list[tuple[str | bool, ...]] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    places: int = 0

    def __post_init__(self) -> None:
        self.boot()

    def boot(self) -> None:
        self.agenda = Agenda()
        self.places = 0
        self.room = Finding(
            self.disk,
            self.agenda,
            Surroundings(
                redirect=self._redirect,
                changed=lambda: None,
                alarm=lambda code, why: self.alarms.append(f"{code}: {why}"),
                monotonic=lambda: self.now,
            ),
            fleet="demo",
            home=load_home(self.disk, self.credentials),
            patience=Patience(proof=120.0, again=3600.0, jitter=5.0),
        )

    def _redirect(self, to: Endpoint, place: int, *urgent: bool) -> None:
        self.went.append((to.url, *urgent))
        self.places = place

    def connects(self, *, answered: bool = True) -> None:
        self.room.connected(Connected(session_present=False, epoch=1, place=self.places))
        if answered:
            self.room.answered()

    def wait(self, seconds: float) -> None:
        self.now += seconds
        for action in self.agenda.due(self.now):
            action()


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(Disk(tmp_path))


def test_a_listed_endpoint_is_tried_and_kept_when_a_director_answers_there(device):
    device.connects()
    device.room.listed(a_list(NEW, OLD))
    device.wait(5.0)
    device.connects()
    assert device.went == [(NEW.url, True)]
    assert load_home(device.disk, CREDENTIALS) == NEW
    report = device.room.report()
    assert (report.version, report.url, report.listed) == (1, NEW.url, True)
    assert device.alarms == []


def test_an_endpoint_that_cannot_be_reached_is_an_alarm_and_home_again(device):
    device.connects()
    device.room.listed(a_list(NEW, OLD))
    device.wait(5.0)
    device.room.refused(Refused(reason="no route", code=None, retry_seconds=1.0, place=1))
    assert device.went == [(NEW.url, True), (OLD.url, True)]
    assert device.alarms == [f"endpoint: {NEW.url} is not used, it is back to {OLD.url}: no route"]
    assert load_home(device.disk, CREDENTIALS) == OLD
    device.connects()
    device.wait(2600.0)
    assert len(device.went) == 2
    device.wait(2000.0)
    assert device.went[2:] == [(NEW.url, True)]


def test_an_endpoint_where_no_director_answers_is_left_in_bounded_time(device):
    device.connects()
    device.room.listed(a_list(NEW, OLD))
    device.wait(5.0)
    device.connects(answered=False)
    device.wait(119.0)
    assert len(device.went) == 1
    device.wait(1.0)
    assert device.went[1:] == [(OLD.url, True)]
    assert "no director answered through it in 120 s" in device.alarms[0]


def test_an_answer_that_came_through_the_old_connection_proves_nothing_of_the_new_one(device):
    device.connects()
    device.room.listed(a_list(NEW, OLD))
    device.wait(5.0)
    device.room.answered()
    assert load_home(device.disk, CREDENTIALS) == OLD


def test_a_refusal_of_an_earlier_address_says_nothing_of_this_one(device):
    device.connects()
    device.room.listed(a_list(NEW, OLD))
    device.wait(5.0)
    device.room.refused(Refused(reason="no route", code=None, retry_seconds=1.0, place=0))
    assert device.went == [(NEW.url, True)]


def test_an_authority_more_at_the_same_address_is_another_endpoint(tmp_path, device):
    ca = split_authorities(make_certificates(tmp_path / "tls"))
    both = Endpoint(url=OLD.url, cas=ca)
    device.connects()
    device.room.listed(a_list(both))
    assert not device.room.report().listed
    device.wait(5.0)
    device.connects()
    assert load_home(device.disk, CREDENTIALS) == both
    assert device.room.report().cas == both.fingerprints


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"{", id="not a document"),
        pytest.param(a_list(NEW, fleet="other"), id="of another fleet"),
        pytest.param(a_list(Endpoint(url="gopher://new.example")), id="of an unknown form"),
        pytest.param(
            a_list(Endpoint(url=NEW.url, cas=("-----BEGIN CERTIFICATE-----",))), id="a broken CA"
        ),
    ],
)
def test_a_list_that_cannot_be_used_moves_nobody(device, content):
    device.connects()
    device.room.listed(content)
    device.wait(10_000.0)
    device.connects()
    assert device.went == []


def test_what_of_a_list_can_be_used_is_used(device):
    device.connects()
    device.room.listed(a_list(Endpoint(url="gopher://new.example"), NEW))
    device.wait(5.0)
    assert device.went == [(NEW.url, True)]


def test_a_new_home_that_cannot_be_written_is_an_alarm_and_is_used_all_the_same(tmp_path, device):
    (tmp_path / f"{HOME}.new").mkdir()
    device.connects()
    device.room.listed(a_list(NEW))
    device.wait(5.0)
    device.connects()
    assert [alarm.partition(":")[0] for alarm in device.alarms] == ["store"]
    assert device.room.report().url == NEW.url


def test_the_endpoint_of_version_1_is_read_for_ever(device):
    device.disk.write(HOME, FIXTURE.read_bytes())
    home = load_home(device.disk, CREDENTIALS)
    assert home.url == "mqtts://broker.example:8883"
    assert len(home.fingerprints) == 2
    assert encode(HomeFile(home=home)) + b"\n" == FIXTURE.read_bytes()
    named = at_home(device.disk, CREDENTIALS)
    assert named is not None
    assert (named.broker_url, named.broker_ca) == (home.url, home.ca)


def test_an_endpoint_of_a_newer_version_is_left_untouched(device):
    device.disk.write(HOME, b'{"v":2}')
    with pytest.raises(NewerStateError, match=HOME.replace(".", r"\.")):
        load_home(device.disk, CREDENTIALS)


def test_an_emptied_endpoint_is_not_taken_for_none(device):
    device.disk.write(HOME, b"")
    with pytest.raises(StoreError, match=HOME.replace(".", r"\.")):
        load_home(device.disk, CREDENTIALS)


def test_a_second_refusal_before_the_time_is_not_tried(device):
    device.connects()
    device.room.listed(a_list(NEW, OLD))
    assert device.agenda.holds(TRY)
    device.room.listed(a_list(OLD, NEW, version=2))
    device.wait(5.0)
    assert device.went == []


@pytest.mark.parametrize("ca", ["nonsense", "-----BEGIN CERTIFICATE-----\nx"])
def test_an_enrolment_with_a_broken_authority_believes_nobody_and_starts_all_the_same(tmp_path, ca):
    broken = replace(CREDENTIALS, broker_ca=ca)
    home = load_home(Disk(tmp_path), broken)
    assert (home.url, home.ca) == (OLD.url, ca)
    device = Device(Disk(tmp_path), broken)
    assert device.room.report().cas == ()
    device.room.listed(a_list(NEW))
    device.room.refused(Refused(reason="not PEM", code=None, retry_seconds=1.0, place=0))
    assert device.went == [(NEW.url, False)]


class Life:
    """One device that learns of a list, by a real verified refresh, and follows it."""

    def __init__(self, fleet: SignedFleet, disk: Disk) -> None:
        self.fleet = fleet
        self.device = Device(disk)

    def live(self) -> None:
        device, disk = self.device, self.device.disk
        held = trust.load(disk) or pinned(self.fleet)
        device.room.listed(held.endpoints)
        device.connects()
        state = advance(held, self.fleet.repository.bundle(0, (ENDPOINTS_TARGET,))).state
        trust.save(disk, state)
        device.room.listed(state.endpoints)
        device.wait(5.0)
        device.connects()


def test_a_power_cut_at_each_durable_step_of_a_change_leaves_a_way_that_led_to_the_fleet(
    tmp_path: Path, record_property
):
    fleet = SignedFleet(tmp_path / "fleet")
    fleet.publish({ENDPOINTS_TARGET: a_list(NEW)})
    healthy = FaultyDisk(tmp_path / "healthy")
    Life(fleet, healthy).live()
    assert load_home(healthy, CREDENTIALS) == NEW
    steps = [line for line in healthy.log if HOME in line or trust.TRUST in line]
    assert steps == healthy.log
    for good in range(healthy.used):
        folder = tmp_path / f"cut-{good}"
        folder.mkdir()
        save_credentials(Disk(folder), CREDENTIALS)
        with pytest.raises(PowerCutError):
            Life(fleet, FaultyDisk(folder, good)).live()
        assert load_home(Disk(folder), CREDENTIALS) in {OLD, NEW}
        Life(fleet, Disk(folder)).live()
        assert load_home(Disk(folder), CREDENTIALS) == NEW
    record_property(
        "measured", f"power cut: change of endpoint, at each of {len(steps)} operations"
    )
    assert len(steps) >= 4


def test_a_home_written_in_place_would_be_found(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(FaultyDisk, "replace", FaultyDisk.write)
    disk = FaultyDisk(tmp_path, good=0)
    with pytest.raises(PowerCutError):
        save_home(disk, NEW)
    with pytest.raises(StoreError):
        load_home(Disk(tmp_path), CREDENTIALS)
