"""Apps as the API takes and shows them."""

from typing import Annotated

from msgspec import Meta, Struct

from agent.contract.app_bundle import AppTarget
from agent.contract.limits import MAX_MANIFEST_BYTES
from agent.contract.manifest import Digest, Name, Text


class AppPublication(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A signed app on its way in.

    Attributes:
        bundle: The app.
        target: Its name among the signed targets.
        roles: New metadata by role: that of the app, and of ``targets`` where it delegates
            the app for the first time.

    """

    bundle: Annotated[bytes, Meta(max_length=MAX_MANIFEST_BYTES)]
    target: AppTarget
    roles: Annotated[dict[Text, bytes], Meta(max_length=2)]


class AppView(Struct, frozen=True, kw_only=True):
    """An app in force; ``size`` is that of its files, in bytes."""

    name: Name
    number: int
    version: Text
    target: AppTarget
    digest: Digest
    client: Text
    server: Text | None
    dependencies: tuple[str, ...]
    files: tuple[str, ...]
    size: int
