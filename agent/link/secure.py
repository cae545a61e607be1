"""TLS to a broker: whom we believe, and what we show of ourselves.

Rule 1: the authority that enrolment named is the only one believed.
Rule 2: a broker that asks is shown our certificate, if we have one; no other learns of it.
"""

import ssl

from agent.errors import LinkError
from agent.link.connection import Connection


class _TlsSocket(ssl.SSLSocket):
    """Closes itself when the handshake fails, which the MQTT library forgets."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - as inherited
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def tls_context(connection: Connection) -> ssl.SSLContext:
    """Return how a connection is secured.

    Raises:
        LinkError: The authority is not valid PEM, or our certificate does not fit its key.

    """
    try:
        context = ssl.create_default_context(cadata=connection.ca or None)
    except ssl.SSLError as why:
        raise LinkError("the broker's certificate authority is not valid PEM") from why
    context.sslsocket_class = _TlsSocket
    identity = connection.identity
    if identity is not None and identity.exists():
        try:
            context.load_cert_chain(identity)
        except (OSError, ValueError) as why:
            raise LinkError(
                f"{identity} is not this device's certificate and its key: {why}"
            ) from why
    return context
