"""``fieldfare rollout``: bring a release to devices, in waves that must prove themselves."""

import click

from fleet.cli.client import ManagerClient, path_of
from fleet.cli.output import ago, share_right, show, table, tell, with_manager
from fleet.cli.watching import show_or_watch, watch_option
from fleet.service.views import RolloutView
from fleet.service.wishes import RolloutWish


@click.group()
def rollout() -> None:
    """Rollouts: create, list, show, pause, resume, abort, keep."""


@rollout.command()
@click.argument("release")
@click.option(
    "--select",
    default="all",
    show_default=True,
    help="Which devices: all, group=demo, hardware=raspberry-pi-5|jetson,trains=yes, …",
)
@click.option(
    "--device", "devices", multiple=True, help="A device id; repeatable; instead of --select."
)
@click.option("--canary", default="1", show_default=True, help="Size of the first wave: 3 or 5%.")
@click.option(
    "--wave", "waves", multiple=True, help="Size that a further wave reaches: 25%; repeatable."
)
@click.option(
    "--soak",
    "soak_seconds",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    help="Seconds between waves.",
)
@click.option(
    "--failed-percent",
    type=click.FloatRange(0, 100),
    default=5.0,
    show_default=True,
    help="More failures than this, of finished devices, stop it and take everybody back.",
)
@click.option(
    "--min-completed",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Answers that a verdict needs.",
)
@click.option(
    "--silence",
    "silence_seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=3600.0,
    show_default=True,
    help="Seconds after which a device without an answer counts as silent.",
)
@click.option("--one-way", is_flag=True, help="Also ask devices that could not be taken back.")
@with_manager
def create(
    client: ManagerClient, output: str, release: str, devices: tuple[str, ...], **wish: object
) -> None:
    """Roll RELEASE (family/version) out: a canary, then waves, each behind a gate."""
    asked = RolloutWish(release=release, devices=devices, **wish)  # type: ignore[arg-type]  # click has checked them
    view = client.post("/rollouts", asked, RolloutView)
    show(view, output, lambda: _print(view))


@rollout.command("list")
@watch_option
@with_manager
def list_rollouts(client: ManagerClient, output: str, watch: bool) -> None:
    """Show every rollout."""
    show_or_watch(
        lambda: client.get("/rollouts", list[RolloutView]),
        watched=watch,
        output=output,
        ended=lambda views: all(v.ended_ms is not None for v in views),
        draw=_print_all,
    )


@rollout.command("show")
@click.argument("rollout_id")
@watch_option
@with_manager
def show_rollout(client: ManagerClient, output: str, rollout_id: str, watch: bool) -> None:
    """Show one rollout, device by device."""
    path = path_of("rollouts", rollout_id)
    show_or_watch(
        lambda: client.get(path, RolloutView),
        watched=watch,
        output=output,
        ended=lambda view: view.ended_ms is not None,
        draw=_print,
    )


def _command(word: str, about: str) -> None:
    @rollout.command(word, help=about)
    @click.argument("rollout_id")
    @with_manager
    def run(client: ManagerClient, output: str, rollout_id: str) -> None:
        view = client.post(path_of("rollouts", rollout_id, word), None, RolloutView)
        show(view, output, lambda: _print(view))


_command("pause", "Ask nobody more until it is resumed.")
_command("resume", "Go on after a pause.")
_command("abort", "Stop it for good and take everybody back.")
_command("keep", "Stop it for good and leave everybody where they are.")


def _print_all(views: list[RolloutView]) -> None:
    rows = [
        (v.id, v.release, v.status, f"{v.wave}/{v.waves}", ago(v.started_ms), v.why) for v in views
    ]
    headings = ("ROLLOUT", "RELEASE", "STATUS", "WAVE", "STARTED", "WHY")
    table(headings, rows, "no rollouts: 'fieldfare rollout create'")


def _print(view: RolloutView) -> None:
    tell(f"{view.id}: {view.release}, {view.status}, wave {view.wave} of {view.waves}")
    tell(f"  {view.why}")
    rows = [
        (d.device, d.wave or "-", d.state, share_right(d.in_the_field), d.why) for d in view.devices
    ]
    table(("DEVICE", "WAVE", "STATE", "LABELLED RIGHT", "WHY"), rows, "no devices")
