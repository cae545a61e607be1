"""Whether an assigned release may be put into a slot, and what of it is still to be fetched.

Rule 1: a manifest is believed anew, from its bytes in the store, each time it is wanted.
Rule 2: only what this device will run is needed: one variant's model and the golden file.
Rule 3: bytes that rotted on the medium are removed, so that they are fetched again.
"""

from agent.contract.belief import believe_release
from agent.contract.manifest import Artifact, Release
from agent.contract.messages import Assigned, Hosted
from agent.daemon.host import event, log
from agent.errors import AgentError, CorruptError, DiskFullError
from agent.infer.external import engines
from agent.infer.variants import choose
from agent.update.slot import State
from agent.update.store import Store, require_room


class Admitting:
    """The last look at a release before the first byte of an artifact is asked for.

    Attributes:
        installed: The runtimes that the probe found.

    """

    def __init__(
        self, store: Store, *, hardware: str, reserve_bytes: int, quota_bytes: int | None = None
    ) -> None:
        self._store = store
        self._hardware = hardware
        self._reserve_bytes = reserve_bytes
        self._quota_bytes = quota_bytes
        self.installed: tuple[Hosted, ...] = ()

    def admit(
        self, slot: str, wanted: Assigned, state: State, *, permitted: bool
    ) -> tuple[Artifact, ...]:
        """Return what is missing of a release whose manifest is in the store.

        Args:
            slot: Where it is to go.
            wanted: What the director wants.
            state: Of the slot.
            permitted: An offline-signed permit lets this device go back to it.

        Raises:
            CorruptError: The manifest rotted in the store.
            TrustError, ContractError: It must not be put into this slot.
            RuntimeMissingError: No installed runtime can run it.
            StoreError: There is no room for it, or the store cannot be read.

        """
        running = state.current
        release = believe_release(
            self._store.read(wanted.digest),
            wanted,
            slot=slot,
            hardware=self._hardware,
            running=self._read_running(slot, running) if running else None,
            running_digest=running.digest if running else None,
            floor=state.floor,
            permitted=permitted,
        )
        missing = self._store.missing(self.needed(release))
        self._require_quota(missing)
        require_room(self._store.disk, sum(map(_room_for, missing)), self._reserve_bytes)
        return missing

    def _require_quota(self, missing: tuple[Artifact, ...]) -> None:
        need = sum(map(_room_for, missing))
        if self._quota_bytes is None or not need:
            return
        on_the_way = {f.digest for a in missing for f in (a, *a.sources)}
        used = self._store.used_bytes(besides=on_the_way) + engines.used_bytes(self._store.disk)
        if used + need > self._quota_bytes:
            raise DiskFullError(
                f"{need} bytes are needed beside {used} in the store, and store.quota_bytes is "
                f"{self._quota_bytes}: raise it, or assign a smaller release"
            )

    def needed(self, release: Release) -> tuple[Artifact, ...]:
        """Return what this device needs of a release.

        Raises:
            MismatchError: No variant is for this hardware.
            RuntimeMissingError: No installed runtime can run it.

        """
        return (choose(release, self._hardware, self.installed).model, release.golden)

    def discard_rotten(self, digest: str, why: AgentError) -> None:
        """Remove what of a release rotted, if that is ``why`` it failed."""
        if isinstance(why, CorruptError):
            for name in self._store.discard_rotten(digest):
                log.warning(event("rotten", file=name[:16], release=digest[:16], why=why))

    def _read_running(self, slot: str, running: Assigned) -> Release | None:
        """Return what runs; a manifest that rotted since permits no way back."""
        try:
            return self._store.read_manifest(running.digest)
        except AgentError as why:
            log.warning(event("running-unreadable", slot=slot, code=why.code, why=why))
            return None


def _room_for(artifact: Artifact) -> int:
    """Return what an artifact takes until it is made: an encrypted one lies there twice."""
    sealed = max((s.size for s in artifact.sources), default=0) if artifact.encrypted else 0
    return artifact.size + sealed
