"""TLS between peers: each shows a certificate, and takes those of the group's own authority. Which node it is does not matter: every
member of the group may serve and ask, and bytes are hashed."""

from __future__ import annotations

import ssl
from pathlib import Path

from cacheengine.node import NodeConfig
from lake.errors import Refused


def _context(node: NodeConfig, purpose: ssl.Purpose) -> ssl.SSLContext | None:
    if node.tls_cert is None or node.tls_key is None or node.tls_ca is None:
        return None
    try:
        context = ssl.create_default_context(purpose, cafile=_file(node.tls_ca))
        context.load_cert_chain(_file(node.tls_cert), _file(node.tls_key))
    except (OSError, ssl.SSLError) as error:
        raise Refused(
            "the certificates of peers",
            f"tls_cert, tls_key and tls_ca cannot be used: {error}",
            "correct them in [node]",
        ) from error
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _file(path: Path) -> str:
    return str(path.absolute())


def server_tls(node: NodeConfig) -> ssl.SSLContext | None:
    """None where the settings name no certificates. Raises Refused."""
    return _context(node, ssl.Purpose.CLIENT_AUTH)


def client_tls(node: NodeConfig) -> ssl.SSLContext | None:
    """As server_tls, for who asks."""
    return _context(node, ssl.Purpose.SERVER_AUTH)
