"""Where the fleet answered last: the way to it that this device has seen to work.

Rule 1: it is written when another endpoint has proved itself, and then replaced whole: a power
        cut leaves the old way or the new one, each of which had led to the fleet.
Rule 2: before the first change it is what enrolment said.
"""

from msgspec.structs import replace

from agent.contract.codec import Versioned, encode
from agent.contract.endpoints import Endpoint, split_authorities
from agent.disk import Disk, read_versioned
from agent.errors import MalformedError
from agent.identity.enrol import Credentials

HOME = "endpoint.json"


class HomeFile(Versioned, frozen=True, kw_only=True):
    """``endpoint.json``: the endpoint through which a director answered last."""

    home: Endpoint


def load_home(disk: Disk, credentials: Credentials) -> Endpoint:
    """Return the endpoint that led to the fleet last.

    What enrolment said is returned also where its authority is no certificate: nobody is
    believed there, the link says so, and what runs goes on running.

    Raises:
        NewerStateError: A newer agent wrote it.
        StoreError: It cannot be read.

    """
    file = read_versioned(disk, HOME, HomeFile)
    if file is not None:
        return file.home
    try:
        cas = split_authorities(credentials.broker_ca)
    except MalformedError:
        cas = (credentials.broker_ca,)
    return Endpoint(url=credentials.broker_url, cas=cas)


def save_home(disk: Disk, home: Endpoint) -> None:
    """Keep the endpoint that led to the fleet.

    Raises:
        StoreError: It cannot be written; the one before stays.

    """
    disk.replace(HOME, encode(HomeFile(home=home)))


def at_home(disk: Disk, credentials: Credentials | None) -> Credentials | None:
    """Return credentials that name the endpoint that led to the fleet last.

    Raises:
        NewerStateError, StoreError: As for ``load_home``.

    """
    if credentials is None:
        return None
    home = load_home(disk, credentials)
    return replace(credentials, broker_url=home.url, broker_ca=home.ca)
