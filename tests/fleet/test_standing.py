"""Devices whose updates are refused again and again are left out of learning, until forgiven."""

from hashlib import sha256
from pathlib import Path

import msgspec
import pytest

from agent.contract.codec import encode
from fleet.cli.standing_lines import print_standing
from fleet.errors import ConflictError, NotFoundError, RefusedError
from fleet.registry.standings import Standing
from fleet.rounds import engine
from fleet.rounds.engine import RunState, task_name
from fleet.rounds.events import Answered, Posted, Pushed
from fleet.rounds.reputation import Reputation, after
from fleet.rounds.strategies import Strategy
from fleet.service import membership, runs, standing
from fleet.service.run_eligibility import eligible
from fleet.service.wishes import RunWish
from tests.finished_runs import Member, add_members, publish_motion
from tests.manager_home import make_desk
from tests.small_rounds import SmallDevice, World, conductor, plan

DEVICES = tuple(f"d-{n}" for n in range(5))
FLEET = {d: Member("left", trains=True, before=1, after=1) for d in DEVICES}


def history(pattern):
    """The reputation after updates: ``+`` counted, ``-`` was refused."""
    told = Reputation()
    for number, each in enumerate(pattern):
        told = after(told, None if each == "+" else f"refusal {number}")
    return told


@pytest.mark.parametrize(
    ("pattern", "lost"),
    [
        ("", False),
        ("--", False),
        ("---", True),
        ("-+-+-+-+-+-+-+-+-+", False),
        ("+" * 100 + "-" * 8, False),
        ("+" * 100 + "-" * 9, True),
        ("---" + "+" * 9, False),
    ],
)
def test_a_device_is_judged_by_its_last_updates(pattern, lost):
    assert history(pattern).is_lost == lost


def test_the_last_refusal_is_remembered_over_later_good_updates():
    assert history("-+-++").why == "refusal 2"


def closed(rounds, bad=(), outlying=()):
    """A run's state after rounds in which some devices were refused."""
    asked = plan(participants=DEVICES, max_norm=5.0, minimum_replies=1, rounds=rounds)
    state = RunState()
    for ordinal in range(1, rounds + 1):
        posted = tuple(
            Posted(task=task_name(asked.run, ordinal, d), device=d, kind="train", digest="ab" * 32)
            for d in DEVICES
        )
        state, _ = engine.step(asked, state, Pushed(ordinal=ordinal, tasks=posted, at_ms=1))
        for each in posted:
            refused = each.device in bad
            answer = Answered(
                task=each.task,
                outcome="refused" if refused else "done",
                why="array 'bias' is float64" if refused else "",
                norm=None if refused else 90.0 if each.device in outlying else 1.0,
                at_ms=2,
            )
            state, _ = engine.step(asked, state, answer)
    return asked, state


@pytest.fixture
def desk(tmp_path: Path):
    desk = make_desk(tmp_path)
    add_members(desk, publish_motion(desk).digest, FLEET)
    desk.registry.runs.create("run-1", plan=encode(plan()), state=b"{}", status="training", at_ms=1)
    yield desk
    runs.put_down(desk)
    desk.registry.close()


def test_three_refused_updates_leave_a_device_out_and_a_round_counts_once(desk):
    for rounds in (1, 2, 2, 3, 3):
        asked, state = closed(rounds, bad=("d-1",), outlying=("d-3",))
        lost = standing.count_rounds(desk, asked, state)
        assert sorted(lost) == (["d-1", "d-3"] if rounds == 3 else [])
        if lost:
            break
    assert lost["d-1"] == (
        "too many of its updates were refused, the last one because array 'bias' is float64"
    )
    assert "over 5 times the round's median" in lost["d-3"]
    assert standing.count_rounds(desk, asked, state) == {}
    good = desk.registry.standings.find("d-0")
    assert (good.accepted, good.refused) == (pytest.approx(2.71), 0)


def test_a_round_that_is_open_is_not_counted(desk):
    asked, state = closed(1, bad=("d-1",))
    tasks = tuple(
        Posted(task=task_name(asked.run, 2, d), device=d, kind="train", digest="ab" * 32)
        for d in DEVICES
    )
    state, _ = engine.step(asked, state, Pushed(ordinal=2, tasks=tasks, at_ms=1))
    standing.count_rounds(desk, asked, state)
    assert desk.registry.standings.counted("run-1") == 1


def test_who_declines_or_fails_loses_nothing():
    asked, state = closed(1)
    send = state.sends[0]
    told = [
        Answered(task=t.task, outcome=how, why="it is hot", at_ms=2)
        for t, how in zip(send.tasks, ("declined", "failed"), strict=False)
    ]
    open_again, _ = engine.step(asked, RunState(), Pushed(ordinal=1, tasks=send.tasks, at_ms=1))
    for answer in told:
        open_again, _ = engine.step(asked, open_again, answer)
    assert standing.verdicts(open_again.sends[0]) == {}


def leave_out(desk, *devices: str):
    bad = Standing(refused=2.71, refusal="NaN", left_out_why="too many were refused")
    desk.registry.standings.count("run-1", 1, dict.fromkeys(devices, bad), at_ms=1)


def test_who_is_left_out_is_in_no_run_until_forgiven_and_still_gets_releases(desk):
    leave_out(desk, "d-1")
    found = eligible(desk, RunWish(slot="motion"))
    assert "d-1" not in found.trainers
    assert "d-1" not in found.judges
    view = membership.device(desk, "d-1")
    assert view.learning.left_out_why == "too many were refused"
    assert view.quarantined_why is None  # rollouts do not pass it over

    standing.forgive(desk, "d-1")

    assert "d-1" in eligible(desk, RunWish(slot="motion")).trainers
    assert membership.device(desk, "d-1").learning is None
    kinds = [e.kind for e in desk.registry.events.read(subject="d-1")]
    assert kinds[-2:] == ["device.left_out", "device.forgiven"]


def test_where_all_are_left_out_the_refusal_says_so(desk):
    leave_out(desk, *DEVICES)
    with pytest.raises(RefusedError, match="all 5 selected devices are left out of learning"):
        eligible(desk, RunWish(slot="motion"))


def test_who_is_not_left_out_or_not_known_cannot_be_forgiven(desk):
    with pytest.raises(ConflictError, match="d-2 is not left out of learning"):
        standing.forgive(desk, "d-2")
    with pytest.raises(NotFoundError, match="no device d-9"):
        standing.forgive(desk, "d-9")


def test_the_device_tells_why_it_is_left_out_and_what_to_do(desk, capsys):
    leave_out(desk, "d-1")
    print_standing(standing.standing_of(desk, "d-1"))
    told = capsys.readouterr().out
    assert "2.7 refused" in told
    assert "last refused because NaN" in told
    assert "LEFT OUT: too many were refused; see 'fieldfare device forgive'" in told


def test_a_device_that_sends_garbage_is_left_out_in_the_middle_of_its_run(desk):
    world = World()
    asked = plan(participants=DEVICES, evaluators=(), rounds=4, strategy=Strategy())
    run = desk.conductors["run-1"] = conductor(world, asked)
    devices = {name: SmallDevice(number % 3) for number, name in enumerate(DEVICES)}
    run.begin(1)
    try:
        while run.state.active:
            if world.offers:
                task, content = world.offers.popleft()
                said, reply = devices[task.device].answer(task, content)
                if task.device == "d-1":
                    said, reply = msgspec.structs.replace(said, digest=sha256(b"").hexdigest()), b""
                runs.answered(desk, task.device, said, reply)
            else:
                runs.heard(desk, "run-1", world.words.get(timeout=30))
    finally:
        run.close()
    assert (run.state.status, run.state.replies) == ("finished", 16)
    last = run.state.sends[-1].answers[task_name("run-1", 4, "d-1")]
    assert last.outcome == "declined"
    assert last.why.startswith("it is left out of learning: too many of its updates were refused")
    assert list(desk.registry.standings.left_out()) == ["d-1"]
