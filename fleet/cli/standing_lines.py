"""How a device stands in learning, as text."""

from fleet.cli.output import tell
from fleet.service.standing_views import StandingView


def print_standing(view: StandingView) -> None:
    """Print what became of a device's updates, and that it is left out if it is."""
    refused = f", {view.refused:.1f} refused" if view.refused else ""
    tell(f"{'learning':<12}{view.accepted:.1f} updates of late accepted{refused}")
    if view.refusal:
        tell(f"{'':<12}last refused because {view.refusal}")
    if view.left_out_why is not None:
        tell(f"{'':<12}LEFT OUT: {view.left_out_why}; see 'fieldfare device forgive'")
