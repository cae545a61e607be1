"""What the operator may choose for a manager, with every default in one place.

Rule 1: ``fleet.toml`` in the manager's home is read once; an unknown key is an error.
Rule 2: secrets are never in it; they lie in files of their own, readable by the owner.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from agent.contract.broker_url import BrokerUrl
from agent.contract.grants import check_base, is_loopback
from agent.contract.limits import NAME, PROTOCOL
from agent.contract.proxy import NEVER, Proxies, Proxy
from agent.errors import MalformedError
from fleet.config_home import HomeAssistantConfig
from fleet.config_promotion import PromotionConfig
from fleet.errors import ConfigError, NewerStateError
from fleet.settings_file import section, settings, toml_text

DEFAULT_HOME = Path("fieldfare-home")
SCHEMA_VERSION = 1
_DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """Which broker serves the fleet, and how it is reached.

    Attributes:
        kind: ``mosquitto`` (credentials and permissions by its dynamic security plugin) or
            ``embedded`` (iotcore: loopback, development, no isolation between devices).
        url: ``mqtt://``, ``mqtts://`` or ``wss://`` address of the device listener.
        enrol_url: The same of the enrolment listener.
        wss_url: ``wss://host:port/path`` of a listener for devices behind firewalls that let
            out HTTPS only; empty is none. ``fieldfare broker setup`` makes it.
        proxy: HTTP proxy between manager and broker, without a password; ``none`` goes
            straight. Empty, HTTPS_PROXY and NO_PROXY of the environment hold.
        username: The manager's own user; its password lies in ``broker/manager-password``.

    """

    kind: str = "mosquitto"
    url: str = "mqtts://127.0.0.1:8883"
    enrol_url: str = "mqtts://127.0.0.1:8884"
    username: str = "fieldfare-manager"
    wss_url: str = ""
    proxy: str = ""

    def __post_init__(self) -> None:
        if self.kind not in {"mosquitto", "embedded"}:
            raise ConfigError(f"broker.kind {self.kind!r} is neither 'mosquitto' nor 'embedded'")
        for name in ("url", "enrol_url", *(("wss_url",) if self.wss_url else ())):
            try:
                BrokerUrl.parse(getattr(self, name))
            except MalformedError as why:
                raise ConfigError(f"broker.{name}: {why}") from why
        if self.wss_url and not self.wss_url.startswith("wss://"):
            raise ConfigError(f"broker.wss_url {self.wss_url!r} is not wss://host:port/path")
        if self.proxy and self.proxy not in NEVER:
            try:
                found = Proxy.parse(self.proxy)
            except MalformedError as why:
                raise ConfigError(f"broker.proxy: {why}; or none") from why
            if found.username is not None:
                raise ConfigError(
                    "broker.proxy: secrets do not belong into fleet.toml; leave the user and "
                    "password out and set HTTPS_PROXY in the manager's environment instead"
                )

    def proxies(self, environment: Mapping[str, str]) -> Proxies:
        """Return what may be between the manager and the broker."""
        return Proxies(self.proxy or None, environment)


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadsConfig:
    """``[downloads]``: artifacts over HTTP(S) beside MQTT; nothing is served without ``url``.

    Attributes:
        url: Address that devices are told, ``https://host:port``; ``http://`` on loopback only.
        bind: Address to listen on; empty is loopback for a loopback ``url``, else all.
        port: TCP port to listen on; 0 is that of ``url``.
        plain: No TLS here, because a proxy in front of the manager ends it.
        certificate, key: PEM files; empty are the broker's, ``broker/server.pem`` and ``.key``.
        grant_seconds: How long a device may fetch before it has to ask again.
        device_bytes_per_second: Budget of one device.
        total_bytes_per_second: Budget of all together.
        responses: How many answers may be on their way at once.
        device_responses: How many of them to one device.

    """

    url: str = ""
    bind: str = ""
    port: int = 0
    plain: bool = False
    certificate: str = ""
    key: str = ""
    grant_seconds: int = 900
    device_bytes_per_second: float = 256e6
    total_bytes_per_second: float = 256e6
    responses: int = 64
    device_responses: int = 2

    def __post_init__(self) -> None:
        if self.url:
            try:
                check_base(self.url)
            except MalformedError as why:
                raise ConfigError(f"downloads.url: {why}") from why
        if not 0 <= self.port < 65_536:  # noqa: PLR2004 - as TCP has it
            raise ConfigError(f"downloads.port {self.port} is no TCP port")
        if not 30 <= self.grant_seconds <= 3600:  # noqa: PLR2004 - short-lived is the promise
            raise ConfigError(f"downloads.grant_seconds {self.grant_seconds} is not 30 to 3600")
        if bool(self.certificate) != bool(self.key):
            raise ConfigError("downloads.certificate and downloads.key belong together")
        rates = (self.device_bytes_per_second, self.total_bytes_per_second)
        if min(*rates, self.responses, self.device_responses) < 1:
            raise ConfigError("downloads: budgets and numbers of responses must be positive")

    @property
    def address(self) -> tuple[str, int]:
        """Where to listen."""
        parts = urlsplit(self.url)
        standard = 443 if parts.scheme == "https" else 80
        everywhere = not is_loopback(parts.hostname or "")
        bind = self.bind or ("0.0.0.0" if everywhere else "127.0.0.1")  # noqa: S104 - devices are elsewhere
        return bind, self.port or parts.port or standard

    @property
    def encrypted(self) -> bool:
        """Whether this process ends TLS."""
        return self.url.startswith("https://") and not self.plain


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionConfig:
    """``[retention]``: how long the manager keeps what only grows; 0 keeps it for ever.

    Attributes:
        events_days: Entries of the event log move to files in ``archive/`` after this.
        runs_days: The weights of a run that has ended can be published for so long.
        artifacts_days: Files that nobody needs are removed when they are older than this.
        reserve_mb: Uploads, backups and archives leave so much of the disk free.

    """

    events_days: int = 365
    runs_days: int = 90
    artifacts_days: int = 7
    reserve_mb: int = 256

    def __post_init__(self) -> None:
        for f in fields(self):
            if getattr(self, f.name) < 0:
                raise ConfigError(f"retention.{f.name} {getattr(self, f.name)} is below 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetConfig:
    """One manager's settings.

    Attributes:
        home: Folder of everything the manager owns.
        fleet: Name of the fleet, part of every topic.
        prefix: Topic prefix.
        manager: This manager's name in the topic tree.
        dev: A development fleet: its keys have no passphrase and all lie here.
        broker: See ``BrokerConfig``.
        downloads: See ``DownloadsConfig``.
        retention: See ``RetentionConfig``.
        home_assistant: See ``config_home``.
        promotion: See ``config_promotion``.
        assignment_seconds: How long a signed assignment is valid (7 days).
        tick_seconds: How often rollouts and runs look at the clock.
        task_seconds: How long devices may work on one task of a round.
        app_seconds: How long an operator's Flower app may work between two sends of a run.
        minimum_replies: Fewer usable replies than this fail a round.
        offers_per_second: How fast tasks of rounds are offered to devices, over all runs.
        retention_days: Telemetry windows and alarms older than this are removed; 0 keeps all.

    """

    home: Path
    fleet: str
    prefix: str = PROTOCOL
    manager: str = "manager-1"
    dev: bool = False
    broker: BrokerConfig
    downloads: DownloadsConfig = DownloadsConfig()
    retention: RetentionConfig = RetentionConfig()
    home_assistant: HomeAssistantConfig = field(default_factory=HomeAssistantConfig)
    promotion: PromotionConfig = field(default_factory=PromotionConfig)
    assignment_seconds: int = 7 * _DAY_SECONDS
    tick_seconds: float = 1.0
    task_seconds: int = 120
    app_seconds: int = 3600
    minimum_replies: int = 2
    offers_per_second: int = 200
    retention_days: int = 30

    def __post_init__(self) -> None:
        for name in ("fleet", "manager"):
            if not NAME.fullmatch(getattr(self, name)):
                raise ConfigError(
                    f"{name} {getattr(self, name)!r} is not 2 to 63 lower-case letters, digits "
                    "and hyphens"
                )
        if self.tick_seconds <= 0 or self.task_seconds < 1 or self.assignment_seconds < 1:
            raise ConfigError("tick_seconds, task_seconds and assignment_seconds must be positive")
        if self.task_seconds > _DAY_SECONDS:
            raise ConfigError(f"task_seconds {self.task_seconds} is more than a day")
        if not 1 <= self.app_seconds <= _DAY_SECONDS:
            raise ConfigError(f"app_seconds {self.app_seconds} is not within 1 s and a day")
        if self.offers_per_second < 1:
            raise ConfigError(f"offers_per_second {self.offers_per_second} is below 1")
        if self.retention_days < 0:
            raise ConfigError(f"retention_days {self.retention_days} is below 0")

    @property
    def socket(self) -> Path:
        """Where the running manager answers the CLI."""
        return self.home / "fieldfare.sock"

    @property
    def keys(self) -> Path:
        """The online keys; in dev mode the offline ones as well."""
        return self.home / "keys"

    @property
    def repository(self) -> Path:
        """The signed metadata and targets."""
        return self.home / "repository"

    @property
    def artifacts(self) -> Path:
        """Bytes behind releases, by digest."""
        return self.home / "artifacts"

    @property
    def rounds(self) -> Path:
        """Large arrays of federated rounds, while they are on their way."""
        return self.home / "rounds"

    @property
    def archive(self) -> Path:
        """Entries of the event log that the database no longer holds."""
        return self.home / "archive"

    @property
    def content_keys(self) -> Path:
        """The keys of encrypted artifacts."""
        return self.home / "content-keys"

    @property
    def registry(self) -> Path:
        """The database."""
        return self.home / "registry.db"

    @property
    def broker_folder(self) -> Path:
        """The broker's configuration, certificates and the manager's password."""
        return self.home / "broker"

    def secret(self, name: str) -> str | None:
        """Return a password kept in the broker's folder; None where there is none.

        Raises:
            ConfigError: The file cannot be read.

        """
        path = self.broker_folder / name
        try:
            return path.read_text().strip()
        except FileNotFoundError:
            return None
        except OSError as why:
            raise ConfigError(f"{path} cannot be read: {why.strerror}") from why

    def broker_ca(self) -> str:
        """Return the PEM text of the authority that signed the broker's certificate."""
        path = self.broker_folder / "ca.pem"
        return path.read_text() if path.exists() else ""

    @classmethod
    def load(cls, home: Path) -> Self:
        """Read ``fleet.toml``.

        Raises:
            ConfigError: Missing, not TOML, or an unknown or badly typed key.
            NewerStateError: Written by a newer version; left untouched.

        """
        path = home / "fleet.toml"
        try:
            table = tomllib.loads(path.read_text())
        except FileNotFoundError as why:
            raise ConfigError(
                f"{path} does not exist: run 'fieldfare init --dev --home {home}' first"
            ) from why
        except (OSError, tomllib.TOMLDecodeError) as why:
            raise ConfigError(f"{path} cannot be read: {why}") from why
        version = table.pop("v", SCHEMA_VERSION)
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise NewerStateError(
                f"{path} has version {version}, this program knows up to {SCHEMA_VERSION}: use the "
                "newer program"
            )
        if version != SCHEMA_VERSION:
            raise ConfigError(f"{path} has version {version}; this program knows {SCHEMA_VERSION}")
        try:
            return cls(
                home=home.resolve(),
                broker=section(BrokerConfig, table, "broker", path),
                downloads=section(DownloadsConfig, table, "downloads", path),
                retention=section(RetentionConfig, table, "retention", path),
                home_assistant=section(HomeAssistantConfig, table, "home_assistant", path),
                promotion=section(PromotionConfig, table, "promotion", path),
                **settings(cls, table, "", path),
            )
        except TypeError as why:
            raise ConfigError(f"{path}: {why}") from why

    def render(self) -> str:
        """Return the TOML text that ``load`` reads back."""
        lines = [f"v = {SCHEMA_VERSION}"]
        defaults = {f.name: f.default for f in fields(self)}
        for name in ("fleet", "prefix", "manager", "dev", *_NUMBERS):
            value = getattr(self, name)
            if name in {"fleet", "manager"} or value != defaults[name]:
                lines.append(f"{name} = {toml_text(value)}")
        lines += ["", "[broker]"]
        for f in fields(BrokerConfig):
            value = getattr(self.broker, f.name)
            if value != "":
                lines.append(f"{f.name} = {toml_text(value)}")
        for table in ("downloads", "retention", "home_assistant", "promotion"):
            held = getattr(self, table)
            chosen = [f for f in fields(held) if getattr(held, f.name) != f.default]
            if chosen:
                lines += ["", f"[{table}]"]
                lines += [f"{f.name} = {toml_text(getattr(held, f.name))}" for f in chosen]
        return "\n".join(lines) + "\n"


_NUMBERS = (
    "assignment_seconds",
    "tick_seconds",
    "task_seconds",
    "app_seconds",
    "minimum_replies",
    "offers_per_second",
    "retention_days",
)


def default_home() -> Path:
    """Return ``FIELDFARE_HOME`` or ``./fieldfare-home``: the one environment look-up."""
    return Path(os.environ.get("FIELDFARE_HOME", DEFAULT_HOME))
