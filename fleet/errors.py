"""Every way the fleet manager can fail, named after whose move it is.

    FleetError
    ├── ConfigError        the manager's own files are wrong: edit them
    ├── RefusedError       the request breaks a rule: change the request
    │   ├── NotFoundError      it names something that does not exist
    │   ├── ConflictError      it contradicts what already exists or runs
    │   └── AdmissionError     the model file cannot become a release
    ├── SigningError       a key or the repository is not in order
    ├── RegistryError      the database would not do what was asked
    │   ├── NewerStateError    written by a newer version; left untouched
    │   └── DiskFullError      there is no room left on the manager's disk
    └── UnreachableError   the manager or the broker does not answer

Bytes from devices raise the errors of ``agent.errors``. ``code`` is stable and is
what the API returns; ``exit_status`` is what ``fieldfare`` leaves behind.
"""

from typing import ClassVar


class FleetError(Exception):
    """Something the manager can name; anything else is a bug and crashes."""

    code: ClassVar[str] = "fleet"
    exit_status: ClassVar[int] = 1


class ConfigError(FleetError):
    """The manager's own files are wrong."""

    code = "config"
    exit_status = 3


class RefusedError(FleetError):
    """The request breaks a rule."""

    code = "refused"
    exit_status = 4


class NotFoundError(RefusedError):
    """The request names something that does not exist."""

    code = "not-found"


class ConflictError(RefusedError):
    """The request contradicts what already exists or runs."""

    code = "conflict"


class AdmissionError(RefusedError):
    """The model file cannot become a release."""

    code = "admission"
    exit_status = 7


class SigningError(FleetError):
    """A key or the repository is not in order."""

    code = "signing"
    exit_status = 5


class RegistryError(FleetError):
    """The database would not do what was asked."""

    code = "registry"
    exit_status = 6


class NewerStateError(RegistryError):
    """The database was written by a newer version and is left untouched."""

    code = "newer-state"
    exit_status = 11


class DiskFullError(RegistryError):
    """There is no room left on the manager's disk."""

    code = "disk-full"


class UnreachableError(FleetError):
    """The manager or the broker does not answer."""

    code = "unreachable"
    exit_status = 8
