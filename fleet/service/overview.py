"""How the fleet is doing, at one glance."""

from collections import Counter

from agent.contract.messages import Event
from fleet.registry.reports import DeviceEvent
from fleet.service.desk import Desk
from fleet.service.views import AlarmView, EvaluationView, FieldView, StatusView, UpdateView

_DAY_MS = 86_400_000


def status(desk: Desk) -> StatusView:
    """Return the fleet's counts."""
    registry = desk.registry
    devices = registry.devices.listing()
    totals = registry.reports.totals()
    return StatusView(
        fleet=desk.config.fleet,
        dev_mode=desk.config.dev,
        broker=desk.config.broker.kind,
        broker_connected=desk.connected,
        devices=dict(Counter(str(d.state) for d in devices)),
        online=sum(d.presence == "online" for d in devices),
        releases=len(registry.models.listing()),
        rollouts_active=len(registry.rollouts.listing(active=True)),
        runs_active=len(registry.runs.listing(active=True)),
        reports_accepted=totals.accepted,
        reports_duplicates_ignored=totals.duplicates_ignored,
        reports_skipped=totals.skipped,
        windows=totals.by_kind.get("tele", 0),
        alarms=len(registry.reports.alarms()),
        metadata_expires_ms=int(min(desk.repository.expires().values()).timestamp() * 1000),
        home_assistant=desk.bridge(),
    )


def alarms(desk: Desk, device: str | None = None, limit: int = 1000) -> list[AlarmView]:
    """Return the newest alarms of one device, or of all, oldest first."""
    return [
        AlarmView(device=e.device, code=e.event.code or "", why=e.event.why, at_ms=e.at_ms)
        for e in desk.registry.reports.alarms(device, limit)
    ]


def updates(desk: Desk, device: str | None = None, limit: int = 1000) -> list[UpdateView]:
    """Return how the newest updates of one device, or of all, ended, oldest first."""
    return [
        UpdateView(
            device=e.device,
            release=name_of(desk, e.event.release),
            outcome=e.event.outcome or "",
            why=sentence(e.event),
            at_ms=e.at_ms,
            findings=e.event.findings,
        )
        for e in desk.registry.reports.updates(device, limit=limit)
    ]


def in_the_field(desk: Desk, device: str) -> tuple[FieldView, ...]:
    """Return how right releases were on one device by people's labels, oldest release first."""
    found = desk.registry.reports.labels.of_device(device)
    return tuple(FieldView(release=name_of(desk, d), quality=q) for d, q in found.items())


def evaluations(desk: Desk) -> list[EvaluationView]:
    """Return what releases are worth on the devices' own labelled windows, oldest first."""
    return [_evaluation(desk, e) for e in desk.registry.reports.evaluations()]


def _evaluation(desk: Desk, e: DeviceEvent) -> EvaluationView:
    return EvaluationView(
        device=e.device,
        release=name_of(desk, e.event.release),
        decide=e.event.decide,
        withheld=e.event.withheld,
        at_ms=e.at_ms,
    )


def forget_old(desk: Desk) -> None:
    """Remove some of the windows and alarms that are older than the operator wants."""
    if desk.config.retention_days:
        before_ms = desk.now_ms() - desk.config.retention_days * _DAY_MS
        desk.registry.reports.forget(before_ms)


def name_of(desk: Desk, digest: str | None) -> str:
    """Return ``family version`` of a release, or the head of an unknown digest."""
    if digest is None:
        return ""
    found = desk.registry.models.find(digest)
    return f"{found.release.family} {found.release.version}" if found else digest[:12]


def sentence(event: Event) -> str:
    """Return why an update ended as it did: its own words, or the checks that failed."""
    failed = "; ".join(f.why for f in event.findings if not f.held)
    return event.why or failed
