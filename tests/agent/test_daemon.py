"""The agent as a process, against a real mosquitto and a manager of the fleet's own parts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.release.build import build_release
from tests.agents import RunningAgent, command, read_status
from tests.benches import LABELLED, PIPELINE, Bench, placement
from tests.brokers import Mosquitto
from tests.small_manager import SmallManager
from tests.small_models import CLASSES, classifier

pytestmark = pytest.mark.broker


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    running = Mosquitto(tmp_path / "broker").start()
    yield running
    running.stop()


@pytest.fixture
def manager(tmp_path: Path, broker: Mosquitto) -> Iterator[SmallManager]:
    with SmallManager(tmp_path / "home", broker) as running:
        yield running
    assert running.problems == []


def test_an_assigned_release_is_fetched_proven_served_and_reported(tmp_path, manager):
    bench = Bench(tmp_path, manager, PIPELINE + "publish_predictions = true\n" + LABELLED)
    built = manager.publish(classifier(0), placement(1))
    with bench.run() as agent:
        bench.install(agent, built)
        bench.until(agent, lambda: bench.heard.outcome_of(built.digest) == ["succeeded"])
        bench.until(agent, lambda: len(bench.heard.telemetry()) >= 3)
        bench.until(agent, lambda: len(bench.heard.events("evaluation")) == 1)
        bench.until(agent, lambda: len(bench.heard.predictions) > 20)
        bench.until(agent, lambda: read_status(bench.folder).outbox.acknowledged >= 5)
        assert agent.stop() == 0
    heard = bench.heard
    windows = [w for t in heard.telemetry() for w in t.windows]
    assert {w.release for w in windows} == {built.digest}
    assert sum(w.inferences for w in windows) > 50
    assert [w.number for w in windows] == list(range(len(windows)))
    assert {p.label for p in heard.predictions} <= set(CLASSES)
    evaluation = heard.events("evaluation")[0]
    assert evaluation.withheld is not None
    assert evaluation.withheld.accuracy == pytest.approx(1.0)
    assert evaluation.withheld.windows == 40
    assert heard.inventory[-1].labelled_windows == 120
    assert heard.inventory[-1].slots == ("motion",)
    assert heard.inventory[-1].runtimes[0].library == "onnxruntime"
    assert heard.presence[0].s == "online"
    assert heard.presence[-1].s == "offline"
    assert heard.presence[-1].why == "shutdown"
    assert heard.repeated == 0
    assert not heard.events("alarm")
    status = read_status(bench.folder)
    assert status.outbox.pending == status.outbox.dropped == 0
    assert status.outbox.appended == len(heard.reports)
    assert status.accepted is not None
    assert status.accepted.sequence == 1
    assert status.slots["motion"].current == built.digest


def test_the_agent_works_as_the_unit_starts_it(tmp_path, manager):
    unit = Path(__file__).parents[2] / "firmware-configs/generic-linux/fieldfare-agent.service"
    (line,) = (s for s in unit.read_text().splitlines() if s.startswith("ExecStart="))
    flags = line.replace("/opt/fieldfare", str(tmp_path)).split(" -m agent ")[0].split()[1:]
    assert "-OO" in flags
    bench = Bench(tmp_path, manager)
    built = manager.publish(classifier(0), placement(1))
    with RunningAgent(bench.folder, flags=flags) as agent:
        bench.install(agent, built)
        bench.until(agent, lambda: bench.heard.outcome_of(built.digest) == ["succeeded"])
        assert agent.stop() == 0
    assert not bench.heard.events("alarm")


def test_a_release_that_behaves_worse_is_rolled_back_and_never_tried_again(tmp_path, manager):
    bench = Bench(tmp_path, manager, PIPELINE + LABELLED)
    good = manager.publish(classifier(0), placement(1))
    bad = manager.publish(classifier(99), placement(2))
    with bench.run() as agent:
        bench.install(agent, good)
        manager.assign(bench.device, bad)
        bench.until(agent, lambda: bench.heard.outcome_of(bad.digest) == ["failed_rolled_back"])
        bench.until(agent, lambda: bad.digest in bench.heard.reported[-1].slots["motion"].denied)
        assert bench.current() == good.digest
        why = next(e for e in bench.heard.events("update") if e.release == bad.digest).why
        assert "labelled windows right" in why
        agent.stop()
    assert read_status(bench.folder).slots["motion"].current == good.digest


def test_what_ran_before_a_power_cut_runs_again_and_reports_are_neither_lost_nor_renumbered(
    tmp_path, manager
):
    bench = Bench(tmp_path, manager)
    built = manager.publish(classifier(0), placement(1))
    manager.acknowledges = False
    with bench.run() as agent:
        bench.install(agent, built)
        bench.until(agent, lambda: sum(len(t.windows) for t in bench.heard.telemetry()) >= 2)
        agent.kill()
    before = dict(bench.heard.reports)
    manager.acknowledges = True
    with bench.run() as agent:
        bench.until(agent, lambda: len(bench.heard.telemetry()) >= 6)
        bench.until(agent, lambda: len({boot for boot, _ in bench.heard.reports}) == 2)
        bench.until(agent, lambda: read_status(bench.folder).outbox.acknowledged > len(before))
        agent.stop()
    assert {key: bench.heard.reports[key] for key in before} == before
    assert bench.heard.outcome_of(built.digest) == ["succeeded"]
    status = read_status(bench.folder)
    assert status.boots == 2
    assert status.outbox.appended == len(bench.heard.reports)


def test_an_outage_of_the_broker_loses_no_report(tmp_path, broker, manager):
    bench = Bench(tmp_path, manager)
    built = manager.publish(classifier(0), placement(1))
    with bench.run() as agent:
        bench.install(agent, built)
        broker.kill()
        made = read_status(bench.folder).outbox.appended
        bench.until(agent, lambda: read_status(bench.folder).outbox.appended >= made + 3)
        broker.start()
        bench.until(agent, lambda: read_status(bench.folder).outbox.acknowledged >= made + 3)
        agent.stop()
    status = read_status(bench.folder)
    assert status.outbox.dropped == 0
    assert status.outbox.appended == len(bench.heard.reports)


def test_a_manager_that_starts_again_gets_all_state_anew(tmp_path, manager):
    bench = Bench(tmp_path, manager)
    with bench.run() as agent:
        bench.until(agent, lambda: len(bench.heard.inventory) == 1)
        manager.stop()
        manager.heard.clear()
        manager.start()
        bench.until(agent, lambda: len(bench.heard.inventory) >= 2)
        agent.stop()


def test_a_second_agent_on_the_same_state_is_refused(tmp_path, manager):
    bench = Bench(tmp_path, manager)
    with bench.run() as agent:
        bench.until(agent, lambda: bool(bench.heard.presence))
        ended = command("run", "--config", bench.config)
        assert ended.returncode == 10
        assert "another agent works on" in ended.stderr
        assert read_status(bench.folder).running
        assert agent.stop() == 0


def test_an_assignment_to_a_slot_without_a_pipeline_is_an_alarm(tmp_path, manager):
    bench = Bench(tmp_path, manager)
    built = manager.publish(classifier(0), placement(1))
    with bench.run() as agent:
        manager.assign(bench.device, built, slot="sound")
        bench.until(agent, lambda: any(e.code == "slot" for e in bench.heard.events("alarm")))
        agent.stop()


def test_a_release_that_the_offline_keys_did_not_sign_is_not_run(tmp_path, manager):
    bench = Bench(tmp_path, manager)
    signed = manager.publish(classifier(0), placement(1))
    with bench.run() as agent:
        bench.install(agent, signed)
        # a stolen manager: it serves and assigns a release that is not among the targets
        stray = build_release(classifier(5), placement(2), golden_inputs=None, metrics={}, now_ms=1)
        for content in stray.artifacts.values():
            manager.artifacts.put(content)
        manager.assign(bench.device, stray)
        bench.until(agent, lambda: bool(bench.heard.outcome_of(stray.digest)))
        assert bench.heard.outcome_of(stray.digest)[0] in {"rejected", "failed_no_change"}
        assert bench.current() == signed.digest
        agent.stop()


def test_the_release_before_comes_back_when_the_running_one_permits_it(tmp_path, manager):
    bench = Bench(tmp_path, manager)
    old = manager.publish(classifier(0), placement(1))
    new = manager.publish(classifier(0, scale=1.01), placement(2, rollback_to=(old.digest,)))
    with bench.run() as agent:
        bench.install(agent, old)
        bench.install(agent, new)
        bench.install(agent, old)
        agent.stop()
    assert read_status(bench.folder).slots["motion"].current == old.digest
