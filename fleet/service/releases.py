"""From a signed publication to a release that can be rolled out.

Rule 1: the manager holds no offline key: it takes what a release engineer signed, checks
        it against root, and puts it into force with its online keys.
Rule 2: artifacts first, metadata last: what devices can see is complete.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256

from agent.contract.manifest import decode_release
from fleet.errors import NotFoundError, RefusedError
from fleet.registry.artifacts import Artifacts
from fleet.registry.models import Published
from fleet.service import contents, promoting
from fleet.service.desk import Desk
from fleet.service.views import ReleaseView, TargetsView, VariantView
from fleet.service.wishes import Publication

PIECE_BYTES = 256 * 1024


def targets(desk: Desk) -> TargetsView:
    """Return what a release engineer signs upon."""
    models, devices = desk.registry.models, desk.registry.devices
    in_use: dict[str, set[str]] = {}
    for device in devices.listing():
        for slot, assigned in devices.desired(device.id).items():
            in_use.setdefault(slot, set()).add(assigned.digest)
    slots = {p.release.slot for p in models.listing()}
    held = desk.repository.published()
    return TargetsView(
        fleet=desk.config.fleet,
        root=held.root_bytes,
        targets=held.targets_bytes,
        delegated=dict(held.delegated_bytes),
        versions={name.removesuffix(".json"): m.version for name, m in held.snapshot.meta.items()},
        next_counters={slot: models.next_counter(slot) for slot in slots},
        in_use={slot: tuple(sorted(found)) for slot, found in in_use.items()},
        encrypted=tuple(sorted(s for s in slots if _is_encrypted(models.newest(s)))),
    )


def download(artifacts: Artifacts, digest: str) -> tuple[int, Iterator[bytes]]:
    """Return size and pieces of an artifact or a manifest, which was read and checked before.

    Any thread but the manager's calls this.

    Raises:
        NotFoundError: They are not kept here.
        RegistryError: The file is damaged.

    """
    artifacts.check(digest)
    file = artifacts.open(digest)

    def pieces() -> Iterator[bytes]:
        with file:
            while piece := file.read(PIECE_BYTES):
                yield piece

    return artifacts.size(digest), pieces()


def publish(desk: Desk, publication: Publication) -> ReleaseView:
    """Put a signed release into force.

    Raises:
        RefusedError: An artifact was not uploaded.
        SigningError: The new targets metadata is not acceptable.
        ContractError: The manifest does not parse.
        ConflictError: The release exists, or its counter does not grow.

    """
    release = decode_release(publication.manifest)
    digest = sha256(publication.manifest).hexdigest()
    missing = [a.digest for a in release.files if not desk.artifacts.has(a.digest)]
    if missing:
        raise RefusedError(f"artifact {missing[0]} of {release.target} was not uploaded")
    if release.of_rounds and publication.role != "targets":
        promoting.require_of_a_run(desk, release)
    contents.take_in(desk, release, publication)
    desk.artifacts.put(publication.manifest)
    now = datetime.fromtimestamp(desk.now_ms() / 1000, UTC)
    files = {release.target: publication.manifest}
    with desk.registry.transaction():
        published = desk.registry.models.add(
            publication.manifest, release, digest, at_ms=desk.now_ms()
        )
        # Last, so that a refusal leaves no row; a crash after it leaves a target that the
        # same command publishes again.
        if desk.repository.target(release.target) != publication.manifest:
            desk.repository.publish_roles({publication.role: publication.targets}, files, now)
    return view(desk, published)


def listing(desk: Desk) -> list[ReleaseView]:
    """Return every release, oldest first."""
    return [view(desk, p) for p in desk.registry.models.listing()]


def show(desk: Desk, name: str) -> ReleaseView:
    """Return one release by ``family/version``, ``family version``, target or digest."""
    return view(desk, find(desk, name))


def find(desk: Desk, name: str) -> Published:
    """Return a release by any of its names.

    Raises:
        NotFoundError: There is none.

    """
    models = desk.registry.models
    plain = name.strip().removeprefix("models/").removesuffix(".json").replace(" ", "/")
    family, _, version = plain.partition("/")
    found = models.by_version(family, version) if version else models.find(plain)
    if found is None:
        known = ", ".join(f"{p.release.family}/{p.release.version}" for p in models.listing())
        raise NotFoundError(f"there is no release {name!r}; published are: {known or 'none'}")
    return found


def view(desk: Desk, published: Published) -> ReleaseView:
    """Return what people see of a release."""
    release = published.release
    return ReleaseView(
        name=f"{release.family} {release.version}",
        target=release.target,
        digest=published.digest,
        family=release.family,
        version=release.version,
        slot=release.slot,
        counter=release.counter,
        created_ms=release.created_ms,
        size=sum(a.size for a in release.artifacts),
        runs_on=tuple(
            d.id
            for d in desk.registry.devices.listing()
            if d.reported and any(s.current == published.digest for s in d.reported.slots.values())
        ),
        parents=release.lineage.parents,
        run=release.lineage.run,
        rounds=release.lineage.rounds,
        metrics=release.metrics,
        withdrawn=desk.repository.target(release.target) is None,
        encrypted=_is_encrypted(published),
        variants=tuple(
            VariantView(
                name=v.name,
                runtime=v.runtime,
                size=v.model.size,
                providers=v.providers,
                hardware=v.hardware,
            )
            for v in release.variants
        ),
        in_the_field=desk.registry.reports.labels.of_release(published.digest),
    )


def _is_encrypted(published: Published | None) -> bool:
    return published is not None and any(a.encrypted for a in published.release.artifacts)
