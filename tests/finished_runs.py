"""A development manager in whose registry a federated run has just finished."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from securesystemslib.signer import Signer

from agent.contract.codec import encode
from agent.contract.envelope import Boot
from agent.contract.messages import Quality, SlotReport
from agent.contract.tensors import ArrayRecord, FlowerMessage, Metadata, encode_message
from fleet.registry.devices import DeviceState
from fleet.release.candidate import read_head
from fleet.rounds.engine import FINAL, RunPlan
from fleet.rounds.events import (
    Answered,
    ChildFinished,
    Evaluated,
    Posted,
    Pushed,
    encode_event,
)
from fleet.rounds.heads import HeadArrays
from fleet.service import contents, publication, releases
from fleet.service.desk import Desk
from fleet.service.views import ReleaseView
from fleet.signing.ceremony import load_targets_keys
from tests.manager_home import MODEL
from tests.small_fleet import a_reported, an_inventory

BOOT = Boot(1, "00ff00ff00ff00ff")
WINDOWS = 40


@dataclass(frozen=True)
class Member:
    """A device: its group, whether it trained, and how many decide windows were right."""

    group: str
    trains: bool
    before: int
    after: int


FLEET = {
    "d-left": Member("left", trains=True, before=30, after=37),
    "d-right": Member("right", trains=True, before=30, after=36),
    "d-guard": Member("right", trains=False, before=30, after=31),
}


def publish_motion(desk: Desk, signers: Sequence[Signer] = ()) -> ReleaseView:
    """Put the motion model into force; a development fleet's own targets key signs it."""
    built, made = publication.sign_release(
        publication.read_described(MODEL, MODEL.with_suffix(".json")),
        releases.targets(desk),
        signers or load_targets_keys(desk.config.keys, "", dev=True)[:1],
        version=None,
    )
    for content in built.artifacts.values():
        desk.artifacts.put(content)
    return releases.publish(desk, made)


def add_members(desk: Desk, release: str, members: Mapping[str, Member]) -> None:
    """Let devices be online and run a release."""
    devices, now = desk.registry.devices, desk.now_ms()
    for number, (name, member) in enumerate(members.items()):
        devices.add(
            name, key=f"{number:064x}", group=member.group, hardware="generic-linux",
            state=DeviceState.ENROLLED, at_ms=now,
        )  # fmt: skip
        devices.presence(name, BOOT, 1, "online", at_ms=now)
        told = an_inventory(slots=("motion",), trains=member.trains, evaluates=True)
        devices.inventory(name, BOOT, told, at_ms=now)
        devices.reported(name, BOOT, a_reported(motion=SlotReport(current=release)), at_ms=now)


def running_head(desk: Desk, release: str) -> HeadArrays:
    """Return the head of a release that is published."""
    parent = desk.registry.models.require(release).release
    weight, bias = read_head(contents.read(desk, parent.variants[0].model), parent.head)
    return HeadArrays(weight=weight, bias=bias)


def final_weights(head: HeadArrays) -> bytes:
    """Return a head as a run spools it at its end."""
    record = ArrayRecord({"weight": head.weight, "bias": head.bias})
    metadata = Metadata(
        run_id=1, message_id="end", src_node_id=1, dst_node_id=1, message_type="train"
    )
    return encode_message(FlowerMessage(metadata=metadata, content={"arrays": record}))


def finish_run(
    desk: Desk,
    members: Mapping[str, Member] = FLEET,
    signers: Sequence[Signer] = (),
    **asked: object,
) -> ReleaseView:
    """Publish a model, let devices run it, and record a run that finished on them."""
    parent = publish_motion(desk, signers)
    add_members(desk, parent.digest, members)
    record_run(desk, parent.digest, members, **asked)
    return parent


def record_run(
    desk: Desk, parent: str, members: Mapping[str, Member], run: str = "run-1", **asked: object
) -> None:
    """Record a run as its conductor would have; its head differs a little from the running one."""
    now, trained = desk.now_ms(), tuple(d for d, m in members.items() if m.trains)
    plan = RunPlan(
        run=run, slot="motion", backbone=parent, rounds=1, seed=7, started_ms=now,
        minimum_replies=1, participants=trained, evaluators=tuple(members), **asked,
    )  # fmt: skip
    head = running_head(desk, parent)
    final = final_weights(
        HeadArrays(weight=head.weight * np.float32(1.01), bias=head.bias + np.float32(0.01))
    )
    tasks = tuple(Posted(task=f"t-{d}", device=d, kind="train", digest="ab" * 32) for d in trained)
    steps = [
        Pushed(ordinal=1, tasks=tasks, at_ms=now),
        *(Answered(task=task.task, outcome="done", at_ms=now) for task in tasks),
        ChildFinished(digest="cd" * 32, at_ms=now),
        *(_judged(device, member, now) for device, member in members.items()),
    ]
    kept = desk.registry.runs
    kept.create(run, plan=encode(plan), state=b"{}", status="training", at_ms=now)
    kept.blob_keep(run, FINAL, final, at_ms=now)
    kept.advance(
        run, events=[encode_event(step) for step in steps], state=b"{}", status="finished",
        active=False, at_ms=now,
    )  # fmt: skip


def _judged(device: str, member: Member, now: int) -> Evaluated:
    before, after = (Quality(right=n, windows=WINDOWS) for n in (member.before, member.after))
    return Evaluated(
        device=device, decide=after, withheld=after, decide_running=before,
        withheld_running=before, at_ms=now,
    )  # fmt: skip
