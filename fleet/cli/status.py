"""``fieldfare fleet``: how the fleet is doing."""

from typing import Any

import click

from fleet.cli.client import ManagerClient
from fleet.cli.output import ago, moment, share_right, show, table, tell, with_manager
from fleet.service.views import AlarmView, EvaluationView, StatusView, UpdateView


@click.group()
def fleet() -> None:
    """How the fleet is doing."""


@fleet.command()
@with_manager
def status(client: ManagerClient, output: str) -> None:
    """Counts of devices, releases, rollouts, runs and reports."""
    view = client.get("/status", StatusView)

    def text() -> None:
        states = ", ".join(f"{n} {state}" for state, n in sorted(view.devices.items()))
        lines = [
            (
                "fleet",
                view.fleet
                + (" (development: every key lies in one place)" if view.dev_mode else ""),
            ),
            (
                "broker",
                f"{view.broker}, {'connected' if view.broker_connected else 'NOT connected'}",
            ),
            ("devices", f"{states or 'none'}; {view.online} online"),
            ("releases", view.releases),
            ("rollouts", f"{view.rollouts_active} active"),
            ("runs", f"{view.runs_active} active"),
            (
                "reports",
                (
                    f"{view.reports_accepted} recorded, {view.reports_duplicates_ignored} resends "
                    f"ignored, {view.reports_skipped} dropped by devices for lack of room"
                ),
            ),
            ("alarms", view.alarms),
            ("metadata", f"signed until {moment(view.metadata_expires_ms)}"),
        ]
        if view.home_assistant:
            lines.insert(2, ("home", f"Home Assistant: {view.home_assistant}"))
        for name, value in lines:
            tell(f"{name:<10}{value}")

    show(view, output, text)


@fleet.command()
@with_manager
def alarms(client: ManagerClient, output: str) -> None:
    """What devices refused or could not do."""
    views = client.get("/alarms", list[AlarmView])
    rows = [(ago(v.at_ms), v.device, v.code, v.why) for v in views]
    _print(views, output, ("WHEN", "DEVICE", "CODE", "WHY"), rows, "no alarms")


@fleet.command()
@with_manager
def updates(client: ManagerClient, output: str) -> None:
    """How every update of every device ended, and why."""
    views = client.get("/updates", list[UpdateView])
    rows = [(ago(v.at_ms), v.device, v.release, v.outcome, v.why) for v in views]
    _print(views, output, ("WHEN", "DEVICE", "RELEASE", "OUTCOME", "WHY"), rows, "no updates yet")


@fleet.command()
@with_manager
def evaluations(client: ManagerClient, output: str) -> None:
    """Accuracy of releases on the devices' own labelled windows."""
    views = client.get("/evaluations", list[EvaluationView])
    rows = [
        (
            ago(v.at_ms),
            v.device,
            v.release,
            share_right(v.decide),
            share_right(v.withheld),
        )
        for v in views
    ]
    _print(views, output, ("WHEN", "DEVICE", "RELEASE", "DECIDE", "WITHHELD"), rows, "none yet")


def _print(
    views: Any, output: str, headings: tuple[str, ...], rows: list[tuple[Any, ...]], empty: str
) -> None:
    show(views, output, lambda: table(headings, rows, empty))
