"""Every way the agent can fail, named after what the operator should think.

    AgentError
    ├── ConfigError            the file on this device is wrong
    │   └── UnknownModelError      no slot has this name
    ├── PlatformError          this machine cannot run the agent at all
    ├── StoppedError           the agent of this program does not run
    ├── ContractError          the other side spoke out of turn           ┐ each single reason
    │   ├── MalformedError         bytes that do not parse, or break a stated limit
    │   └── UnsupportedError       a contract version newer than this program
    ├── TrustError             the bytes parse, but must not be believed  ┘ is in ``refusals``
    │   ├── UnsignedError          fewer good signatures than are needed
    │   ├── ExpiredError           the signer's promise has run out
    │   ├── RollbackError          older than something already accepted
    │   ├── MismatchError          signed, but not for this device, slot or hardware
    │   └── CorruptError           bytes that are not the ones that were promised
    ├── StoreError             the disk would not do what was asked
    │   ├── DiskFullError          no space is left, or a quota is used up
    │   ├── BusyError              another agent works on this state directory
    │   └── NewerStateError        state written by a newer version; left untouched
    ├── ChildDiedError         a process of the agent was killed by a signal
    ├── RuntimeMissingError    no installed runtime can run this model
    ├── ModelError             the model file or its output is not acceptable
    │   ├── InputRefusedError      what was put in: wrong shape, wrong type, or not finite
    │   ├── NotAModelError         no file of its kind
    │   │   ├── PickledModelError      a Python pickle
    │   │   └── ArchivedModelError     an archive
    │   ├── ExternalDataError      tensors in other files
    │   ├── TensorSizeError        a tensor too large, or without its bytes
    │   ├── UnknownOperatorError   operators that devices do not run
    │   ├── WrongTensorsError      other inputs or outputs than signed
    │   ├── NotServingError        the slot has no model yet
    │   ├── BrokenStateError       a recurrent model lost its state
    │   └── WorkerError            the process that runs a model died: it is started again
    │       └── DeadlineError          it did not answer in time, and was stopped
    ├── AppError               a Flower app here gave no reply; nothing else is lost
    ├── LinkError              the broker cannot be reached, or refused us
    │   ├── DisplacedError         the connection ended before the answer came: ask again
    │   ├── ProxyError             the HTTP proxy between does not let us through
    │   ├── StalledError           a transfer fell silent
    │   ├── UnavailableError       the other side has no such bytes
    │   ├── GrantSpentError        a download server wants another grant
    │   ├── BudgetSpentError       this link's bytes of the day are used up
    │   └── EndpointError          a listed endpoint does not lead to the fleet
    └── EnrolmentError         the fleet did not enrol this device
        ├── TokenExpiredError      the enrolment file has run out
        ├── EnrolmentRefusedError  the fleet does not take this device
        ├── AlreadyEnrolledError   this state directory has a device
        └── ApprovalPendingError   an operator has yet to approve

A family is added only where some caller handles it differently; below it, each reason for a
refusal has a class for the sake of its ``code``, which is stable and goes into reports.
``exit_status`` is what ``fieldfare-agent`` leaves behind.
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


class UnknownModelError(ConfigError):
    """No slot of this device has the name that was asked for."""

    code = "model-unknown"


class PlatformError(AgentError):
    """This machine cannot run the agent."""

    code = "platform"
    exit_status = 12


class StoppedError(AgentError):
    """The agent inside of this program is not running, or does not end."""

    code = "stopped"


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


class ChildDiedError(AgentError):
    """A process of the agent was killed by a signal."""

    code = "child-died"

    def __init__(self, why: str, number: int = 0) -> None:
        """``number`` is that of the signal; 0 where it is not known any more."""
        super().__init__(why)
        self.signal = number


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


class NotAModelError(ModelError):
    """The file is no model of its kind, or a damaged one."""

    code = "model-format"


class PickledModelError(NotAModelError):
    """The file is a Python pickle, which would run code: it is never opened."""

    code = "model-pickle"


class ArchivedModelError(NotAModelError):
    """The file is an archive under the name of a model: it is never unpacked."""

    code = "model-archive"


class ExternalDataError(ModelError):
    """The model wants tensors from other files of this device."""

    code = "model-external-data"


class TensorSizeError(ModelError):
    """The model claims a tensor that is too large, or has not the claimed bytes."""

    code = "model-tensor-size"


class UnknownOperatorError(ModelError):
    """The model uses operators that devices do not run."""

    code = "model-operator"


class WrongTensorsError(ModelError):
    """The model has other inputs or outputs than its manifest says."""

    code = "model-tensors"


class NotServingError(ModelError):
    """The slot has no model yet, or has just lost it."""

    code = "model-not-serving"


class WorkerError(ModelError):
    """The process that runs this model has died or does not start; it is started again."""

    code = "worker"


class DeadlineError(WorkerError):
    """The model did not answer in time; the process that ran it was stopped."""

    code = "deadline"


class BrokenStateError(ModelError):
    """The state of a recurrent model cannot be kept: its stream begins anew."""

    code = "model-state"


class AppError(AgentError):
    """A Flower app gave no reply on this device; nothing but that reply is lost."""

    code = "app"


class LinkError(AgentError):
    """The broker cannot be reached, or it refused us."""

    code = "link"
    exit_status = 8


class DisplacedError(LinkError):
    """The connection ended before the answer came; asking again may help."""

    code = "displaced"


class ProxyError(LinkError):
    """The HTTP proxy between here and there does not let us through."""

    code = "proxy"


class StalledError(LinkError):
    """A transfer fell silent; what came of it is kept."""

    code = "stalled"


class UnavailableError(LinkError):
    """The other side says that it has no such bytes."""

    code = "unavailable"


class GrantSpentError(LinkError):
    """The download server does not honour this grant: ask for another, or go on over MQTT."""

    code = "grant-spent"


class BudgetSpentError(LinkError):
    """The bytes that artifacts may cost on this link today are spent; fetching goes on later."""

    code = "budget-spent"


class EnrolmentError(AgentError):
    """The fleet did not enrol this device."""

    code = "enrolment"
    exit_status = 9


class EndpointError(LinkError):
    """A listed endpoint of the broker does not lead to the fleet; another one is used."""

    code = "endpoint"


class TokenExpiredError(EnrolmentError):
    """The enrolment file has run out: create another."""

    code = "token-expired"


class EnrolmentRefusedError(EnrolmentError):
    """The fleet does not take this device."""

    code = "enrolment-refused"


class AlreadyEnrolledError(EnrolmentError):
    """This state directory belongs to a device of a fleet already."""

    code = "already-enrolled"


class ApprovalPendingError(EnrolmentError):
    """An operator has yet to approve this device."""

    code = "approval-pending"


def error_named(code: str, why: str) -> AgentError:
    """Return the error of the tree with this code; an unknown code is a plain one.

    Errors cross from a child process as their code and sentence.
    """
    kind = _kinds().get(code)
    return kind(why) if kind else AgentError(f"{code}: {why}")


def is_error(code: str) -> bool:
    """Return whether a code is that of an error of the tree."""
    return code in _kinds()


def _kinds() -> dict[str, type[AgentError]]:
    found: dict[str, type[AgentError]] = {}
    pending: list[type[AgentError]] = [AgentError]
    while pending:
        kind = pending.pop()
        found.setdefault(kind.code, kind)
        pending.extend(kind.__subclasses__())
    return found
