"""Each single reason for which what came is not believed, with a code of its own.

``errors`` says whose move it is; here is what an operator reads in an alarm. A class of this
module differs from its parent by its code and sentence only: who has to act differently on
it catches the parent, or is the reason for a new class there.

Rule 1: one reason has one class and one stable code; a code is never used for another.
Rule 2: the code of the family (malformed, unsigned, expired, rollback, mismatch, corrupt) is
        the word of the published test vectors, so that a finer reason changes nothing for
        agents in other languages.
"""

from agent.errors import (
    AppError,
    ConfigError,
    ContractError,
    CorruptError,
    ExpiredError,
    MalformedError,
    MismatchError,
    RollbackError,
    UnsignedError,
)


class OversizedError(MalformedError):
    """More bytes than the stated limit; they were not parsed."""

    code = "oversized"


class TooManyRequestsError(ContractError):
    """Somebody asks for more predictions than this device answers; ask again later."""

    code = "too-many-requests"


class BadPieceError(MalformedError):
    """A piece of a file is not one: its frame or its numbers cannot be."""

    code = "bad-piece"


class BadParcelError(MalformedError):
    """A document with an attachment is not framed as one."""

    code = "bad-parcel"


class BadMetadataError(MalformedError):
    """Trust metadata does not parse, or breaks a rule of TUF."""

    code = "metadata-malformed"


class KeyTypeError(BadMetadataError):
    """Trust metadata names a key of a type that devices do not know."""

    code = "key-type"


class ArchivePathError(MalformedError):
    """An archive names a member outside of itself; nothing of it was read."""

    code = "archive-path"


class PickledArrayError(MalformedError):
    """An array holds Python objects, which are never loaded."""

    code = "array-pickled"


class ArraySizeError(MalformedError):
    """An array claims another size than its bytes have."""

    code = "array-size"


class ForgedDocumentError(UnsignedError):
    """A document is not signed, for this device and topic, by a key of the director."""

    code = "forged-document"


class ForgedReportError(UnsignedError):
    """A report is not signed by its device, or was changed on its way."""

    code = "forged-report"


class StrippedStampError(UnsignedError):
    """A report came without its signature: a broker or bridge has stripped it."""

    code = "stamp-stripped"


class NotSealedError(UnsignedError):
    """The enrolment reply is not sealed to this device."""

    code = "not-sealed"


class UnsignedMetadataError(UnsignedError):
    """Trust metadata has fewer good signatures than its role needs."""

    code = "metadata-unsigned"


class SharedKeyError(UnsignedError):
    """A role counts one key more than once, or names a key that is not there."""

    code = "shared-key"


class NoAuthorityError(UnsignedError):
    """No verified metadata says who may direct this device, so nobody may."""

    code = "no-authority"


class AssignmentExpiredError(ExpiredError):
    """The assignment has run out: nothing is updated until a newer one comes."""

    code = "assignment-expired"


class MetadataExpiredError(ExpiredError):
    """Trust metadata has run out: nothing new is installed until it is refreshed."""

    code = "metadata-expired"


class LateAnswerError(ExpiredError):
    """Signed time came too long after it was asked for."""

    code = "late-answer"


class OldAssignmentError(RollbackError):
    """The assignment is older than the accepted one."""

    code = "old-assignment"


class ForkedAssignmentError(RollbackError):
    """Two assignments bear one number: the manager contradicts itself, or its key is used twice."""

    code = "forked-assignment"


class PastEpochError(RollbackError):
    """A document is of a director that the offline keys have replaced."""

    code = "past-epoch"


class WrongNonceError(RollbackError):
    """Signed time answers another question than the open one."""

    code = "wrong-nonce"


class SpentNonceError(RollbackError):
    """Signed time answers a question that is closed: it is believed once."""

    code = "spent-nonce"


class OldReleaseError(RollbackError):
    """The release is older than one that ran here, and nothing permits the way back."""

    code = "old-release"


class OldMetadataError(RollbackError):
    """Trust metadata is older than what the same repository said before."""

    code = "metadata-rollback"


class OldMarkError(OldMetadataError):
    """Trust metadata is older than a version that this device has marked as accepted."""

    code = "mark-rollback"


class WithheldAssignmentError(RollbackError):
    """The fleet has a newer assignment than came here: somebody keeps it back."""

    code = "assignment-withheld"


class WrongDeviceError(MismatchError):
    """A document is for another device."""

    code = "wrong-device"


class WrongFleetError(MismatchError):
    """A document is of another fleet."""

    code = "wrong-fleet"


class UnknownEpochError(MismatchError):
    """A document is of a director that no verified metadata names yet."""

    code = "unknown-epoch"


class WrongRunError(MismatchError):
    """A task came for another run than its own."""

    code = "wrong-run"


class MisassignedError(MismatchError):
    """The assignment says something else about a release than its manifest."""

    code = "misassigned"


class WrongSlotError(MismatchError):
    """The release is for another slot."""

    code = "wrong-slot"


class WrongHardwareError(MismatchError):
    """No variant of the release is for this hardware."""

    code = "wrong-hardware"


class BeyondRoundsError(MismatchError):
    """The manager's key for federated rounds signed what is not a next version of what runs."""

    code = "beyond-rounds"


class UnpublishedError(MismatchError):
    """The offline keys list no such target: it was never published, or is withdrawn."""

    code = "unpublished"


class WrongChunkError(CorruptError):
    """A chunk does not have the hash that is signed for it."""

    code = "chunk-corrupt"


class WrongArtifactError(CorruptError):
    """Every chunk is the signed one, and the whole is not."""

    code = "artifact-corrupt"


class WrongManifestError(CorruptError):
    """A manifest does not have the assigned digest."""

    code = "manifest-corrupt"


class WrongAttachmentError(CorruptError):
    """An attachment does not have the digest that its document names."""

    code = "attachment-corrupt"


class WrongTargetError(CorruptError):
    """A target does not have the length and hash that the offline keys signed."""

    code = "target-corrupt"


class MissingTargetError(CorruptError):
    """The metadata lists a target whose bytes did not come."""

    code = "target-missing"


class MixedMetadataError(CorruptError):
    """Parts of trust metadata do not belong together."""

    code = "metadata-mixed"


class MissingMetadataError(CorruptError):
    """A part of trust metadata did not come."""

    code = "metadata-missing"


class WrongRootError(CorruptError):
    """The root is not the one that the enrolment file pins."""

    code = "wrong-root"


class RottenError(CorruptError):
    """Bytes in the store are no longer what they were: the medium may be failing."""

    code = "rotten"


class NoContentKeyError(MismatchError):
    """The release is encrypted, and the assignment has no key for this device."""

    code = "key-missing"


class WrongContentKeyError(MismatchError):
    """The key that came with the assignment does not open the encrypted artifact."""

    code = "key-wrong"


class BadStreamError(MalformedError):
    """An encrypted artifact is not framed as one."""

    code = "stream-malformed"


class TruncatedStreamError(CorruptError):
    """An encrypted artifact ends before its end."""

    code = "stream-truncated"


class DisorderedStreamError(CorruptError):
    """A part of an encrypted artifact was changed, or stands in another place."""

    code = "stream-disordered"


class UnfinishedStreamError(CorruptError):
    """The last part of an encrypted artifact is not marked as its last."""

    code = "stream-unfinished"


class BadBundleError(MalformedError):
    """The file is no update bundle, or is not written as one."""

    code = "bundle-malformed"


class TruncatedBundleError(CorruptError):
    """The update bundle ends before its end: copy it again."""

    code = "bundle-truncated"


class AlteredBundleError(CorruptError):
    """The update bundle was changed since it was written: copy it again."""

    code = "bundle-altered"


class ForeignBundleError(MismatchError):
    """The update bundle holds nothing for this device."""

    code = "bundle-foreign"


class NoFeedbackError(ConfigError):
    """Nothing is remembered that a label could be attached to: ``[feedback]`` is not set."""

    code = "feedback-off"


class LabelRefusedError(MalformedError):
    """What was said of a prediction is none of its classes, or not said as labels are."""

    code = "label-refused"


class UnknownPredictionError(ContractError):
    """No prediction with this id is remembered: it is too old, or never was."""

    code = "prediction-unknown"


class LabelConflictError(ContractError):
    """The prediction bears another label already, which stays."""

    code = "label-conflict"


class BadAppError(MalformedError):
    """What was signed as an app is none, or breaks a stated limit."""

    code = "app-malformed"


class AppDependencyError(AppError):
    """No Python of this device has what the app declares; nothing is ever installed for it."""

    code = "app-dependency"


class AppNotApartError(AppError):
    """This machine cannot set an app apart, so that it was not loaded."""

    code = "app-not-apart"


class AppLoadError(AppError):
    """The app could not be imported, or has no such ClientApp."""

    code = "app-load"


class AppRaisedError(AppError):
    """The app raised an exception."""

    code = "app-raised"


class AppReplyError(AppError):
    """What the app returned is no reply that can be sent."""

    code = "app-reply"


class AppTimeError(AppError):
    """The app did not answer in time, and was stopped."""

    code = "app-time"


class AppProcessorError(AppError):
    """The app used up its processor time, and was stopped."""

    code = "app-cpu"


class AppMemoryError(AppError):
    """The app wanted more memory than it may have."""

    code = "app-memory"


class AppProcessError(AppError):
    """The app tried to start a process, which no app may."""

    code = "app-process"


class AppNetworkError(AppError):
    """The app tried to open a socket, which no app may."""

    code = "app-network"


class AppDiedError(AppError):
    """The app's process ended without a reply."""

    code = "app-died"
