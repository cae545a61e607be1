"""Every way the agent can fail, named after what the operator should think.

    AgentError
    ├── ConfigError            the file on this device is wrong
    ├── PlatformError          this machine cannot run the agent at all
    ├── ContractError          the other side spoke out of turn
    │   ├── MalformedError         bytes that do not parse, or break a stated limit
    │   └── UnsupportedError       a contract version newer than this program
    ├── TrustError             the bytes parse, but must not be believed
    │   ├── UnsignedError          fewer good signatures than are needed
    │   ├── ExpiredError           the signer's promise has run out
    │   ├── RollbackError          older than something already accepted
    │   ├── MismatchError          signed, but not for this device, slot or hardware
    │   └── CorruptError           bytes that are not the ones that were promised
    ├── StoreError             the disk would not do what was asked
    │   ├── DiskFullError          no space is left, or a quota is used up
    │   ├── BusyError              another agent works on this state directory
    │   └── NewerStateError        state written by a newer version; left untouched
    ├── RuntimeMissingError    no installed runtime can run this model
    ├── ModelError             the model file or its output is not acceptable
    │   └── InputRefusedError      what was put in: wrong shape, wrong type, or not finite
    ├── LinkError              the broker cannot be reached, or refused us
    │   └── DisplacedError         the connection ended before the answer came: ask again
    └── EnrolmentError         the fleet did not enrol this device

A class is added only where some caller handles it differently. ``code`` is stable
and goes into reports; ``exit_status`` is what ``fieldfare-agent`` leaves behind.
"""

from typing import ClassVar


class AgentError(Exception):
    """Something the agent can name; anything else is a bug and crashes."""

    code: ClassVar[str] = "agent"
    exit_status: ClassVar[int] = 1


class ConfigError(AgentError):
    """The configuration on this device is wrong."""

    code = "config"
    exit_status = 3


class PlatformError(AgentError):
    """This machine cannot run the agent."""

    code = "platform"
    exit_status = 12


class ContractError(AgentError):
    """The other side sent something outside the contract."""

    code = "contract"
    exit_status = 4


class MalformedError(ContractError):
    """The bytes do not parse, or break a stated limit."""

    code = "malformed"


class UnsupportedError(ContractError):
    """The other side speaks a version that this program does not know."""

    code = "unsupported"


class TrustError(AgentError):
    """The bytes parse but must not be believed."""

    code = "trust"
    exit_status = 5


class UnsignedError(TrustError):
    """There are fewer good signatures than are needed."""

    code = "unsigned"


class ExpiredError(TrustError):
    """The signer's promise has run out."""

    code = "expired"


class RollbackError(TrustError):
    """This is older than something already accepted."""

    code = "rollback"


class MismatchError(TrustError):
    """This is signed, but not for this device, slot or hardware."""

    code = "mismatch"


class CorruptError(TrustError):
    """These are not the bytes that were promised."""

    code = "corrupt"


class StoreError(AgentError):
    """The disk would not do what was asked."""

    code = "store"
    exit_status = 6


class DiskFullError(StoreError):
    """No space is left on the disk, or a quota is used up."""

    code = "disk-full"


class BusyError(StoreError):
    """Another agent works on this state directory."""

    code = "busy"
    exit_status = 10


class NewerStateError(StoreError):
    """This state was written by a newer version and is left untouched."""

    code = "newer-state"
    exit_status = 11


class RuntimeMissingError(AgentError):
    """No installed runtime can run this model."""

    code = "runtime-missing"
    exit_status = 7


class ModelError(AgentError):
    """The model file or its output is not acceptable."""

    code = "model"
    exit_status = 7


class InputRefusedError(ModelError):
    """The input has the wrong shape or type, or is not finite; the model is not to blame."""

    code = "input-refused"


class LinkError(AgentError):
    """The broker cannot be reached, or it refused us."""

    code = "link"
    exit_status = 8


class DisplacedError(LinkError):
    """The connection ended before the answer came; asking again may help."""

    code = "displaced"


class EnrolmentError(AgentError):
    """The fleet did not enrol this device."""

    code = "enrolment"
    exit_status = 9
