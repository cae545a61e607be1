"""Whether devices can be shown in Home Assistant.

Rule 1: devices and manager go on without it: nothing here is worse than a warning, except what
        keeps the manager from starting.
"""

from collections.abc import Iterator

from agent.contract.checkup import Check, doubt, ill, well
from fleet.config import FleetConfig
from fleet.errors import FleetError
from fleet.service.home_views import open_bridge
from fleet.service.views import StatusView


def check_home_assistant(
    config: FleetConfig, status: StatusView | FleetError | None
) -> Iterator[Check]:
    """Judge the bridge; nothing where none is configured."""
    url = config.home_assistant.url
    if not url:
        return
    try:
        open_bridge(config)
    except FleetError as why:
        yield ill("home-assistant", f"the manager will not start: {why}")
        return
    match status:
        case StatusView(home_assistant="connected"):
            yield well("home-assistant", f"the bridge is connected to {url}")
        case StatusView(home_assistant=""):
            yield doubt(
                "home-assistant", "the manager runs without the bridge: start it again to have it"
            )
        case StatusView(home_assistant=state):
            yield doubt(
                "home-assistant",
                f"the bridge is not connected to {url} ({state}): is that broker there, and is the "
                "account right? Devices are not affected",
            )
        case _:
            yield well("home-assistant", f"{url} is connected to once the manager runs")
