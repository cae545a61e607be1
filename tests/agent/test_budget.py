"""Bytes of a day and bytes per second: never more, whatever becomes of clock and power."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from agent.config import BudgetConfig, Config
from agent.config_file import parse_config
from agent.contract.frames import Piece, split_file
from agent.contract.manifest import describe_artifact
from agent.contract.messages import ChunkRequest
from agent.daemon.agenda import Agenda
from agent.daemon.status import describe, read_status
from agent.daemon.transfers import BUDGET_SECONDS, Surroundings, Transfers
from agent.disk import Disk
from agent.errors import BudgetSpentError, ConfigError, NewerStateError, StoreError
from agent.link.budget import BUDGET, DAY_MS, LOOK_SECONDS, Budget
from agent.link.fetch import Fetch, Fetched, Fetching
from agent.link.route import default_interface, read_ipv4, read_ipv6
from tests.faulty_disk import FaultyDisk, PowerCutError
from tests.power_cuts import count_cuts

FIXTURE = Path(__file__).parents[1] / "fixtures" / "budget-v1.json"
CHUNK = 65_536
MIB = 1024 * 1024
CONTENT = Random(5).randbytes(40 * CHUNK)  # 2.5 MiB
ARTIFACT = describe_artifact(CONTENT)
PIECES = split_file(bytes.fromhex(ARTIFACT.digest[:16]), CONTENT)
TODAY = 20_780
CELLULAR = {"cellular": BudgetConfig(interfaces=("wwan*",), bytes_per_day=MIB)}


class World:
    """The day, the link and what came over it; time is simulated."""

    def __init__(self) -> None:
        self.day = TODAY
        self.interface: str | None = "wwan0"
        self.now = 1000.0
        self.came: dict[int, int] = {}

    def budget(self, disk: Disk, classes: dict[str, BudgetConfig] | None = None) -> Budget:
        return Budget(
            disk,
            CELLULAR if classes is None else classes,
            interface=lambda: self.interface,
            signed_ms=lambda: self.day * DAY_MS,
        )

    def fetch(self, disk: Disk) -> Fetch:
        return Fetch(ARTIFACT, disk, now_seconds=self.now)

    def go_on(self, budget: Budget, fetch: Fetch, until: float = float("inf")) -> bool:
        """Answer what is asked until the transfer is done; False where the budget ends it."""
        while self.now < until:
            try:
                requests, wait_seconds = budget.requests(fetch, self.now)
            except BudgetSpentError:
                return False
            for piece in answers(requests):
                budget.came(len(piece.content))
                self.came[self.day] = self.came.get(self.day, 0) + len(piece.content)
                if isinstance(fetch.take(piece, self.now), Fetched):
                    return True
            self.now += max(wait_seconds, 0.01) if not requests else 0.05
        return False


def answers(requests: tuple[ChunkRequest, ...]) -> list[Piece]:
    return [
        PIECES[i] for r in requests for first, count in r.r for i in range(first, first + count)
    ]


def test_an_artifact_larger_than_a_days_budget_comes_over_some_days(tmp_path: Path):
    world, disk = World(), Disk(tmp_path)
    budget, fetch = world.budget(disk), world.fetch(disk)
    assert not world.go_on(budget, fetch)
    assert not world.go_on(budget, fetch)
    world.day += 1
    assert not world.go_on(budget, fetch)
    world.day += 1
    assert world.go_on(budget, fetch)
    assert world.came == {TODAY: MIB, TODAY + 1: MIB, TODAY + 2: MIB // 2}
    assert disk.read(f"store/{ARTIFACT.digest}") == CONTENT


def test_a_transfer_that_waits_for_its_budget_does_not_stall(tmp_path: Path):
    world, disk = World(), Disk(tmp_path)
    budget, fetch = world.budget(disk), world.fetch(disk)
    world.go_on(budget, fetch)
    for _ in range(100):
        world.now += BUDGET_SECONDS
        assert not world.go_on(budget, fetch)
    world.day += 3
    assert not world.go_on(budget, fetch)
    assert world.came[TODAY + 3] == MIB


def test_a_restart_renews_nothing(tmp_path: Path):
    world, disk = World(), Disk(tmp_path)
    world.go_on(world.budget(disk), world.fetch(disk))
    assert not world.go_on(world.budget(disk), world.fetch(disk))
    assert world.came == {TODAY: MIB}


def test_a_clock_that_goes_back_renews_nothing(tmp_path: Path):
    world, disk = World(), Disk(tmp_path)
    world.go_on(world.budget(disk), world.fetch(disk))
    world.day = 0
    assert not world.go_on(world.budget(disk), world.fetch(disk))
    world.day = TODAY
    assert not world.go_on(world.budget(disk), world.fetch(disk))
    assert world.came == {TODAY: MIB}


def test_another_link_has_a_budget_of_its_own(tmp_path: Path):
    world, disk = World(), Disk(tmp_path)
    budget, fetch = world.budget(disk), world.fetch(disk)
    assert not world.go_on(budget, fetch)
    world.interface = "eth0"
    world.now += LOOK_SECONDS
    assert world.go_on(budget, fetch)


def test_what_came_twice_or_unasked_is_counted(tmp_path: Path):
    world, disk = World(), Disk(tmp_path)
    budget, fetch = world.budget(disk), world.fetch(disk)
    requests, _ = budget.requests(fetch, world.now)
    for piece in (*answers(requests), *PIECES[20:26]):
        budget.came(len(piece.content))
        budget.came(len(piece.content))
        world.came[TODAY] = world.came.get(TODAY, 0) + 2 * len(piece.content)
        fetch.take(piece, world.now)
    world.go_on(budget, fetch)
    assert world.came == {TODAY: MIB}


def test_what_is_on_its_way_is_counted_before_it_comes(tmp_path: Path):
    world, disk = World(), Disk(tmp_path)
    budget, fetch = world.budget(disk), world.fetch(disk)
    outstanding: list[Piece] = []
    for _ in range(40):
        with suppress(BudgetSpentError):
            outstanding += answers(budget.requests(fetch, world.now)[0])
        if len(outstanding) > 1:  # the last one is always late
            budget.came(CHUNK)
            fetch.take(outstanding.pop(0), world.now)
        world.now += 0.01
    came = fetch.progress(world.now)
    assert isinstance(came, Fetching)
    assert came.chunks + len(outstanding) == MIB // CHUNK


def test_the_refusal_says_what_is_spent_where_and_until_when(tmp_path: Path):
    world, disk = World(), Disk(tmp_path)
    budget, fetch = world.budget(disk), world.fetch(disk)
    world.go_on(budget, fetch)
    with pytest.raises(BudgetSpentError) as why:
        budget.requests(fetch, world.now)
    assert str(why.value) == (
        "1048576 of 1048576 bytes that [budget.cellular] allows in a day are spent on wwan0: "
        "fetching goes on after 00:00 UTC, or over another link"
    )


def test_bytes_per_second_are_kept_to(tmp_path: Path):
    slow = {"cellular": BudgetConfig(interfaces=("wwan*",), bytes_per_second=200_000)}
    world, disk = World(), Disk(tmp_path)
    budget, fetch = world.budget(disk, slow), world.fetch(disk)
    begun = world.now
    assert not world.go_on(budget, fetch, until=begun + 8.0)
    assert 8.0 * 200_000 * 0.9 <= world.came[TODAY] <= 9.0 * 200_000 + 2 * CHUNK
    assert budget.paced
    assert world.go_on(budget, fetch)


def test_a_link_slower_than_the_patience_does_not_stall(tmp_path: Path):
    crawling = {"satellite": BudgetConfig(interfaces=("wwan*",), bytes_per_second=1024)}
    world, disk = World(), Disk(tmp_path)
    budget, fetch = world.budget(disk, crawling), world.fetch(disk)
    assert world.go_on(budget, fetch)


def test_where_nothing_is_limited_nothing_is_written(tmp_path: Path):
    world, disk = World(), Disk(tmp_path)
    assert world.go_on(world.budget(disk, {}), world.fetch(disk))
    world.interface = None
    assert disk.read(BUDGET) is None


@pytest.mark.parametrize("limit", [MIB, 2 * MIB])
def test_a_power_cut_at_any_moment_forgets_no_byte(
    tmp_path: Path, limit: int, record_property: Callable[[str, object], None]
):
    classes = {"cellular": BudgetConfig(interfaces=("wwan*",), bytes_per_day=limit)}

    def live(root: Path, good: int) -> FaultyDisk:
        """Two lives of a device: power fails in the first, on the same day."""
        world, disk = World(), FaultyDisk(root, good)
        root.mkdir()
        try:
            world.go_on(world.budget(disk, classes), world.fetch(disk))
        except PowerCutError:
            world.now += 100
            whole = Disk(root)
            world.go_on(world.budget(whole, classes), world.fetch(whole))
            wasted = limit // 16 + 2 * MIB  # a block, and what was on its way
            assert limit - wasted <= world.came.get(TODAY, 0) or world.came[TODAY] >= len(CONTENT)
        assert world.came.get(TODAY, 0) <= limit
        return disk

    healthy = live(tmp_path / "healthy", 10**9)
    for cut in range(healthy.used):
        live(tmp_path / f"cut-{cut}", cut)
    count_cuts(record_property, healthy.log)
    record_property("measured", f"power cut: budget, at each of {healthy.used} durable operations")


def test_a_file_of_version_1_is_read_for_ever(tmp_path: Path):
    world, disk = World(), Disk(tmp_path)
    disk.write(BUDGET, FIXTURE.read_bytes())
    classes = {"cellular": BudgetConfig(interfaces=("wwan*",), bytes_per_day=4 * MIB)}
    assert not world.go_on(world.budget(disk, classes), world.fetch(disk))
    assert world.came == {TODAY: MIB}


def test_a_file_of_a_newer_version_is_left_untouched(tmp_path: Path):
    disk = Disk(tmp_path)
    disk.write(BUDGET, b'{"v":2}')
    with pytest.raises(NewerStateError):
        World().budget(disk)
    assert disk.read(BUDGET) == b'{"v":2}'


def test_a_file_that_does_not_parse_counts_as_spent_until_the_next_day(tmp_path: Path):
    world, disk = World(), Disk(tmp_path)
    disk.write(BUDGET, b"\0\0\0")
    budget, fetch = world.budget(disk), world.fetch(disk)
    assert not world.go_on(budget, fetch)
    assert world.came == {}
    world.day += 1
    assert not world.go_on(budget, fetch)
    assert world.came == {TODAY + 1: MIB}


def test_what_cannot_be_noted_is_not_asked_for(tmp_path: Path):
    class Full(Disk):
        def replace(self, name: str, content: bytes) -> None:
            raise StoreError(f"no space left for {len(content)} bytes of {name}")

    world = World()
    budget, fetch = world.budget(Full(tmp_path)), world.fetch(Disk(tmp_path))
    with pytest.raises(StoreError):
        budget.requests(fetch, world.now)
    assert fetch.requests(world.now) == ()  # it is on its way, as far as the window knows


def test_a_waiting_transfer_is_told_once_and_goes_on_by_itself(tmp_path: Path):
    world, agenda = World(), Agenda()
    told: list[str] = []
    done: list[str] = []
    asked: list[ChunkRequest] = []
    transfers = Transfers(
        Disk(tmp_path),
        agenda,
        Surroundings(
            ask=lambda request: bool(asked.append(request) or True),
            done=lambda slot, _: done.append(slot),
            failed=lambda *_: pytest.fail("it must wait"),
            waits=lambda slot, why: told.append(f"{slot}: {why.code}"),
            monotonic=lambda: world.now,
        ),
        stall_seconds=60.0,
        budget=world.budget(Disk(tmp_path)),
    )
    transfers.begin("motion", "ab" * 32, (ARTIFACT,))
    nights = 0
    while not done:
        for action in agenda.due(world.now):
            action()
        for piece in answers(tuple(asked)):
            asked.clear()
            assert transfers.take(piece)
        if not asked:
            world.now += agenda.wait_seconds(world.now, 60.0) + 0.001
        if len(told) > nights and world.now > 1000.0 + 20 * BUDGET_SECONDS * len(told):
            nights += 1
            world.day += 1
    assert told == ["motion: budget-spent"] * 2


def test_what_was_spent_is_shown_by_the_status(tmp_path: Path):
    disk = Disk(tmp_path)
    disk.write(BUDGET, FIXTURE.read_bytes())
    said = describe(read_status(tmp_path)).splitlines()
    assert "budget     cellular: 3145728 of 4194304 bytes on 2026-11-23" in said
    disk.write(BUDGET, b"\0\0")
    assert "budget" not in describe(read_status(tmp_path))


@pytest.mark.parametrize(
    ("toml", "named"),
    [
        ('[budget.cellular]\ninterfaces = ["wwan*"]', "bytes_per_day"),
        ("[budget.cellular]\nbytes_per_day = 2000000", "interfaces"),
        ("[budget.cellular]\ninterfaces = []\nbytes_per_day = 2000000", "interfaces"),
        ('[budget.cellular]\ninterfaces = ["a"]\nbytes_per_day = 5', "bytes_per_day"),
        ('[budget.Cellular]\ninterfaces = ["a"]\nbytes_per_second = 5000', "Cellular"),
        ('[budget.cellular]\ninterfaces = ["a"]\nbytes_per_hour = 5', "bytes_per_hour"),
    ],
)
def test_a_budget_that_cannot_be_is_refused_by_name(tmp_path: Path, toml: str, named: str):
    with pytest.raises(ConfigError, match=named):
        parse_config(toml, folder=tmp_path)


def test_the_first_class_whose_pattern_fits_is_taken(tmp_path: Path):
    config: Config = parse_config(
        '[budget.cellular]\ninterfaces = ["wwan*", "ppp*"]\nbytes_per_second = 1024\n'
        '[budget.rest]\ninterfaces = ["*"]\nbytes_per_day = 1048576\n',
        folder=tmp_path,
    )
    world = World()
    world.interface = "eth0"
    budget = world.budget(Disk(tmp_path), config.budget)
    world.go_on(budget, world.fetch(Disk(tmp_path)))
    assert world.came == {TODAY: MIB}
    assert not budget.paced


ROUTES = (
    "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
    "wwan0\t00000000\t0100000A\t0003\t0\t0\t700\t00000000\t0\t0\t0\n"
    "wlan0\t00000000\t0100A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n"
    "eth0\t00000000\t0100A8C0\t0002\t0\t0\t100\t00000000\t0\t0\t0\n"
    "eth0\t0000A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n"
)


def test_the_link_is_that_of_the_default_route_with_the_lowest_metric(tmp_path: Path):
    ipv4, ipv6 = tmp_path / "route", tmp_path / "ipv6_route"
    none = "0" * 32
    ipv6.write_text(f"{none} 00 {none} 00 {none} 00000400 00000001 00000000 00000003 wlan1\n")
    ipv4.write_text(ROUTES)
    assert default_interface(ipv4, ipv6) == "wlan0"
    ipv4.write_text(ROUTES.splitlines()[0])
    assert default_interface(ipv4, ipv6) == "wlan1"
    ipv4.write_text("Iface\neth0 x y z 0 0 0 0\n")
    assert default_interface(ipv4, ipv6) == "wlan1"
    ipv6.unlink()
    assert default_interface(ipv4, ipv6) is None


@pytest.mark.parametrize("table", ["", "\n\n", "a b\n", "x\ny z 1 2\n"])
def test_a_table_without_a_default_route_names_no_link(table: str):
    assert read_ipv4(table) is None
    assert read_ipv6(table) is None
