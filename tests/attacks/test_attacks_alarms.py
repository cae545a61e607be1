"""Each refusal that a running device can meet: the manager hears its own code and sentence in
an alarm, and the model that ran before goes on answering. Against a real mosquitto.

Rows 17 to 19 are refusals of the broker, row 20 happens before a device has a manager, row 14
is accepted, and row 23 refuses nothing.
"""

import pickle
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import msgspec
import pytest

from agent.contract.keys import Ed25519Key
from agent.contract.messages import Assigned
from agent.contract.topics import ACK, ASSIGNMENT, META
from agent.daemon import reporting
from agent.disk import Disk
from agent.refusals import NoAuthorityError
from agent.update import trust
from tests.agents import command
from tests.attacks.liars import STRANGER, Files, World
from tests.attacks.test_attacks_models import HUGE, PASSWD, PLAIN, external, model, slipping
from tests.brokers import eventually
from tests.small_models import classifier

pytestmark = [pytest.mark.broker, pytest.mark.timeout(300)]

Act = Callable[[World], None]
PAST = datetime(2025, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reporting, "ALARMS_PER_MINUTE", 10**6)
        patched.setattr(reporting, "ALARM_AGAIN_SECONDS", -1.0)
        running = World(tmp_path_factory.mktemp("liars"))
        yield running
        running.close()


# how a lie begins


def metadata(lie: Callable[[World, Files], Files]) -> Act:
    def act(world: World) -> None:
        world.manager.repository.lie = lambda files: lie(world, files)  # type: ignore[attr-defined]
        world.puzzle()

    return act


def release(**changes: object) -> Act:
    """A release that fits, but for what is changed; its bytes are a model's."""

    def act(world: World) -> None:
        wish = world.publish(classifier(1), **changes)
        world.manager.assign_slots(world.device, {"motion": wish})

    return act


def hostile(content: bytes, golden: bytes = b"") -> Act:
    def act(world: World) -> None:
        wish = world.publish(content, golden)
        world.manager.assign_slots(world.device, {"motion": wish})

    return act


def assignment(*given: object, **changes: object) -> Act:
    return lambda world: world.say_assignment(*given, **changes)  # type: ignore[arg-type]


def payload(channel: object, content: bytes) -> Act:
    return lambda world: world.manager.send(channel.at(world.device), content)  # type: ignore[attr-defined]


# lies


def chunks(spoil: Callable[[bytes], bytes | None]) -> Act:
    def act(world: World) -> None:
        world.manager.chunks.spoil = spoil  # type: ignore[attr-defined]
        release()(world)

    return act


def old_repository(world: World, files: Files) -> Files:
    parts = ("timestamp.json", "snapshot.json", "targets.json")
    return {**files, **{part: world.before[part] for part in parts}}


def emptied_cache(world: World) -> None:
    room = world.agent._loop._rooms.desired._refreshing  # type: ignore[union-attr]
    room._state = msgspec.structs.replace(room._state, metadata={})
    metadata(old_repository)(world)


def raced_ahead(world: World) -> None:
    room = world.agent._loop._rooms.desired._refreshing  # type: ignore[union-attr]
    held = room._state
    world.undo = lambda: setattr(room, "_state", held)  # else a rotation of the key would do it
    metadata(lambda w, files: w.forged_timestamp(files, ahead=10**6))(world)
    eventually(lambda: room._state.marks["timestamp"].version > 10**6)
    metadata(lambda _, files: files)(world)


def root(change: Callable[..., None], *signers: int) -> Act:
    def lie(world: World, files: Files) -> Files:
        return {**files, "2.root.json": world.next_root(change, signers or (0, 1))}

    return metadata(lie)


def twin(role_holder) -> None:
    first = role_holder.keys[role_holder.roles["targets"].keyids[0]]
    role_holder.add_key(Ed25519Key("f" * 64, "ed25519", "ed25519", dict(first.keyval)), "targets")


def broken_root(change: Callable[[dict], None]) -> Act:
    def lie(world: World, files: Files) -> Files:
        said = msgspec.json.decode(world.next_root(lambda _: None))
        change(said["signed"])
        return {**files, "2.root.json": msgspec.json.encode(said)}

    return metadata(lie)


def no_threshold(signed: dict) -> None:
    signed["roles"]["targets"]["threshold"] = 0


def rsa(signed: dict) -> None:
    next(iter(signed["keys"].values())).update(keytype="rsa", scheme="rsassa-pss-sha256")


def many_signatures(_: World, files: Files) -> Files:
    said = msgspec.json.decode(files["timestamp.json"])
    said["signatures"] = [{"keyid": f"{n:064x}", "sig": "00" * 64} for n in range(70)]
    return {**files, "timestamp.json": msgspec.json.encode(said)}


def without(name: str) -> Act:
    return metadata(lambda _, files: {n: c for n, c in files.items() if n != name})


def unsigned_release(world: World) -> None:
    wish = Assigned(target="models/motion/v900.json", digest="9" * 64, counter=900)
    world.manager.assign_slots(world.device, {"motion": wish})


def older(world: World) -> None:
    world.manager.assign_slots(world.device, {"motion": world.publish(classifier(1), counter=3)})


def misnamed(world: World) -> None:
    wish = world.publish(classifier(1))
    wish = msgspec.structs.replace(wish, counter=wish.counter + 1)
    world.manager.assign_slots(world.device, {"motion": wish})


def other_nonce(world: World) -> None:
    world.manager.told = {"nonce": "ab" * 16}
    world.hint()


def withheld(world: World) -> None:
    world.manager.told = {"sequence": world.manager._sequence + 1, "digest": "7" * 64}
    world.hint()


def forked(world: World) -> None:
    world.say_assignment(sequence=world.manager._sequence, issued_ms=1)


def path_in_a_target(world: World) -> None:
    bad = world.wish(world.good)
    msgspec.structs.force_setattr(bad, "target", "models/../../etc/passwd")
    world.say_assignment(slots={"motion": bad})


FLIPPED = b'{"v":1,"kid":"%s","sig":"%s","body":"{}"}' % (b"0" * 16, b"0" * 128)
BOARD = {"hardware": ("another-board",)}


def for_another_board(world: World) -> None:
    variant = msgspec.structs.replace(world.good.release.variants[0], **BOARD)
    wish = world.publish(classifier(1), variants=(variant,))
    world.manager.assign_slots(world.device, {"motion": wish})


CASES = [
    pytest.param(chunks(lambda p: p[:-1] + bytes([p[-1] ^ 1])), "chunk-corrupt", id="attack_01"),
    pytest.param(metadata(old_repository), "metadata-rollback", id="attack_02"),
    pytest.param(
        metadata(lambda w, files: w.forged_timestamp(files, expires=PAST)),
        "metadata-expired",
        id="attack_03",
    ),
    pytest.param(
        metadata(lambda w, files: {**files, "targets.json": w.before["targets.json"]}),
        "metadata-mixed",
        id="attack_04",
    ),
    pytest.param(emptied_cache, "mark-rollback", id="attack_05"),
    pytest.param(
        metadata(lambda w, files: w.forged_targets(files, w.manager.keys.snapshot)),
        "metadata-unsigned",
        id="attack_07",
    ),
    pytest.param(root(lambda _: None, 0), "metadata-unsigned", id="attack_08"),
    pytest.param(assignment(STRANGER), "forged-document", id="attack_09 a director that is gone"),
    pytest.param(broken_root(no_threshold), "metadata-malformed", id="attack_10 no threshold"),
    pytest.param(root(twin), "shared-key", id="attack_10 one key under two ids"),
    pytest.param(broken_root(rsa), "key-type", id="attack_10 an RSA key"),
    pytest.param(without("snapshot.json"), "metadata-missing", id="attack_11 parts are missing"),
    pytest.param(path_in_a_target, "malformed", id="attack_12"),
    pytest.param(unsigned_release, "unpublished", id="attack_13 unsigned"),
    pytest.param(older, "old-release", id="attack_13 older"),
    pytest.param(for_another_board, "wrong-hardware", id="attack_13 for other hardware"),
    pytest.param(release(slot="sound"), "wrong-slot", id="attack_13 for another slot"),
    pytest.param(misnamed, "misassigned", id="attack_13 of another counter"),
    pytest.param(assignment(of="d-" + "a" * 16), "forged-document", id="attack_15 another topic"),
    pytest.param(assignment(device="d-" + "a" * 16), "wrong-device", id="attack_15 another's"),
    pytest.param(assignment(fleet="other"), "wrong-fleet", id="attack_15 another fleet's"),
    pytest.param(assignment(sequence=1), "old-assignment", id="attack_15 replayed"),
    pytest.param(forked, "forked-assignment", id="attack_15 the same number"),
    pytest.param(assignment(director_epoch=0), "past-epoch", id="attack_15 of an older epoch"),
    pytest.param(assignment(director_epoch=99), "unknown-epoch", id="attack_15 of no epoch"),
    pytest.param(assignment(expires_ms=1), "assignment-expired", id="attack_15 stale"),
    pytest.param(withheld, "assignment-withheld", id="attack_15 kept back"),
    pytest.param(payload(ACK, FLIPPED), "forged-document", id="attack_16 a flipped bit"),
    pytest.param(payload(META, b"FFP"), "bad-piece", id="attack_16 half a piece"),
    pytest.param(payload(ASSIGNMENT, b" " * 70_000), "oversized", id="attack_16 too large"),
    pytest.param(
        assignment(STRANGER, sequence=900), "forged-document", id="attack_21 of a former life"
    ),
    pytest.param(other_nonce, "wrong-nonce", id="attack_22 time for another question"),
    pytest.param(metadata(many_signatures), "metadata-unsigned", id="attack_25"),
    pytest.param(chunks(lambda _: None), "stalled", id="attack_26"),
    pytest.param(hostile(pickle.dumps({"w": 1})), "model-pickle", id="attack_27 a pickle"),
    pytest.param(hostile(slipping()), "model-archive", id="attack_27 an archive"),
    pytest.param(
        hostile(model(external(PASSWD))), "model-external-data", id="attack_27 external data"
    ),
    pytest.param(hostile(model(HUGE)), "model-tensor-size", id="attack_27 a tensor of 16 GB"),
    pytest.param(
        hostile(model(PLAIN, "evil.example")), "model-operator", id="attack_27 unknown operators"
    ),
    pytest.param(hostile(model(PLAIN)), "model-tensors", id="attack_27 other tensors than signed"),
    pytest.param(hostile(classifier(1), slipping()), "archive-path", id="attack_27 zip-slip"),
    pytest.param(raced_ahead, "metadata-rollback", id="attack_06"),
]


@pytest.mark.parametrize(("act", "code"), CASES)
def test_a_refusal_reaches_the_manager_as_an_alarm_and_inference_goes_on(
    world: World, act: Act, code: str
) -> None:
    before = len(world.alarms(code))
    act(world)
    try:
        eventually(lambda: len(world.alarms(code)) > before, 30)
        assert len(world.alarms(code)[-1].why) > 20
        world.require_inference()
    finally:
        world.manager.told = {}
        world.manager.chunks.spoil = lambda piece: piece  # type: ignore[attr-defined]
        world.undo()
        world.repair()
        world.manager.assign(world.device, world.good)


def test_attack_24_without_trust_a_device_says_so_and_does_not_start(world, tmp_path):
    disk = Disk(tmp_path)
    for name in ("identity.json", "enrolled.json"):
        disk.replace(name, (world.agent.config.agent.state_dir / name).read_bytes())
    file = tmp_path / "agent.toml"
    file.write_text(f'[agent]\nstate_dir = "{tmp_path}"\n')
    ended = command("run", "--config", file)
    assert ended.returncode == NoAuthorityError.exit_status
    assert "no pinned root" in ended.stderr
    assert trust.load(disk) is None
