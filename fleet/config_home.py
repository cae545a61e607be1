"""What the operator may choose about Home Assistant, for the fleet that the manager shows it."""

import re
from dataclasses import dataclass
from typing import Final

from agent.contract.broker_url import BrokerUrl
from agent.errors import MalformedError
from fleet.errors import ConfigError

PASSWORD_FILE: Final = "home-assistant-password"  # noqa: S105 - a name of a file
_TOPIC: Final = re.compile(r"[^+#$/\s]+(/[^+#$/\s]+)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeAssistantConfig:
    """``[home_assistant]``: devices are shown in Home Assistant; nothing is without ``url``.

    The password of ``username`` lies in ``broker/home-assistant-password``.

    Attributes:
        url: ``mqtt://host:port`` or ``mqtts://host:port`` of Home Assistant's broker.
        username: Of an account there; empty is none.
        ca: PEM file of the only authority believed; empty is the system's.
        prefix: States go to ``{prefix}/{device}/…``. Not that of a device's own
            ``[local_broker]`` at the same broker.
        discovery: The discovery prefix that Home Assistant is set to.
        devices: Which ones, as for rollouts: ``all``, ``group=home``.
        every_seconds: How often what has changed is looked for, and a prediction that stays
            the same is told again.

    """

    url: str = ""
    username: str = ""
    ca: str = ""
    prefix: str = "fieldfare-fleet"
    discovery: str = "homeassistant"
    devices: str = "all"
    every_seconds: float = 10.0

    def __post_init__(self) -> None:
        if self.url:
            try:
                BrokerUrl.parse(self.url)
            except MalformedError as why:
                raise ConfigError(f"home_assistant.url: {why}") from why
        for name in ("prefix", "discovery"):
            if not _TOPIC.fullmatch(getattr(self, name)):
                raise ConfigError(
                    f"home_assistant.{name} {getattr(self, name)!r} is no topic: words with / "
                    "between, without + # $ and blanks"
                )
        if self.every_seconds < 1:
            raise ConfigError(f"home_assistant.every_seconds {self.every_seconds} is below 1")
