"""What a run's conductor is given: the registry's journal, the director's offers, the head."""

from agent.contract.manifest import Head, Release
from agent.contract.rounds import Task
from fleet.errors import NotFoundError, RefusedError
from fleet.registry.models import Published
from fleet.registry.runs import RunRow
from fleet.release.candidate import read_head
from fleet.rounds.conduct import Conductor, Doors, HeadArrays
from fleet.rounds.engine import RunPlan
from fleet.service import client_apps, contents, round_traffic
from fleet.service.desk import Desk


def row_of(desk: Desk, run: str) -> RunRow:
    """Return a run's row.

    Raises:
        NotFoundError: There is none with this id.

    """
    row = desk.registry.runs.find(run)
    if row is None:
        known = ", ".join(r.id for r in desk.registry.runs.listing())
        raise NotFoundError(f"there is no run {run!r}; known are: {known or 'none'}")
    return row


def conductor_of(desk: Desk, plan: RunPlan, history: list[bytes]) -> Conductor:
    """Return a conductor of this run that stands where its journal ends."""
    runs = desk.registry.runs

    def journal(event: bytes) -> None:
        runs.advance(
            plan.run,
            events=[event],
            state=b"{}",
            status="training",
            active=True,
            at_ms=desk.now_ms(),
        )

    def offer(task: Task, attachment: bytes) -> None:
        dressed = client_apps.dressed(plan, task)
        round_traffic.offer(desk, dressed, attachment, updates_asked=plan.updates)

    doors = Doors(
        journal=journal,
        keep=lambda name, content: _keep(desk, plan.run, name, content),
        read=lambda name: runs.blob(plan.run, name),
        offer=offer,
        put=lambda word: desk.heard(plan.run, word),
        may_offer=lambda now_ms: desk.offering.lets("rounds", now_ms),
    )
    parent = desk.registry.models.require(plan.backbone)
    model = contents.read(desk, parent.release.variants[0].model)
    weight, bias = read_head(model, head_of(parent))
    return Conductor(plan, HeadArrays(weight=weight, bias=bias), doors, history)


def head_of(published: Published) -> Head:
    """Return where a release's trainable head lies.

    Raises:
        RefusedError: It has none.

    """
    release: Release = published.release
    if release.head is None:
        raise RefusedError(
            f"{release.family} {release.version} has no trainable head: its model needs an output "
            "'embedding' and initialisers 'head.weight' and 'head.bias'"
        )
    return release.head


def _keep(desk: Desk, run: str, name: str, content: bytes) -> None:
    desk.registry.runs.blob_keep(run, name, content, at_ms=desk.now_ms())
