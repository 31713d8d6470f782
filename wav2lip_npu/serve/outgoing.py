"""Connections to other machines: only to hosts that the operator lists, by https, at public addresses.

A client chooses the address, so it must not lead to services inside the operator's network (SSRF).
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPSConnection
from urllib.parse import urlsplit

from wav2lip_npu.errors import UsageError

_PORT = 443
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""IPv6 addresses that stand for IPv4 addresses, of any kind."""


@dataclass(frozen=True)
class Target:
    """A checked address."""

    host: str
    port: int
    path: str
    """Path and query."""


def allowed_target(url: str, hosts: Sequence[str], field: str, flag: str) -> Target:
    """Return the parts of an address whose host is one of `hosts`, such as example.com or example.com:8443.

    Raises:
        UsageError: It is not https, or its host is another one. `field` and `flag` are for the message.

    """
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port or _PORT
    except ValueError:
        raise UsageError(f"{field} {url!r:.200} is not an address. Pass https://HOST/PATH.") from None
    if parts.scheme != "https" or not host or parts.username is not None or not url.isascii():
        raise UsageError(f"{field} {url!r:.200} is not an https address. Pass https://HOST/PATH.")
    if any(character <= " " for character in url):
        raise UsageError(f"{field} {url!r:.200} contains blanks. Write them as %20.")
    shown = f"[{host}]" if ":" in host else host
    if not {f"{shown}:{port}", shown if port == _PORT else ""} & {name.lower() for name in hosts}:
        raise UsageError(f"{field} {url!r:.200}: the host is not allowed. Add it to {flag} of the service.")
    path = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
    return Target(host, port, path)


class Connection(HTTPSConnection):
    """A connection to a checked address, at a public IP address unless the operator listed an IP address."""

    def __init__(self, target: Target, timeout: float) -> None:
        super().__init__(target.host, target.port, timeout=timeout, context=ssl.create_default_context())
        self._tls: ssl.SSLContext = ssl.create_default_context()

    def connect(self) -> None:
        """Connect to an address that was checked, not to the answer of a second lookup. Raises `OSError`."""
        address = _public_address(self.host, self.port)
        plain = socket.create_connection((address, self.port), self.timeout)
        try:
            self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise


def _public_address(host: str, port: int) -> str:
    """Return a public IP address of a host. Raises `OSError` if it has none."""
    if _is_literal(host):
        return host
    found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for address in found:
        if _is_public(address):
            return address
    raise OSError(None, f"{host} has no public address")


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_public(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        embedded = address.ipv4_mapped or address.sixtofour or (address.teredo or (None,))[0]
        if embedded is not None or address in _TRANSLATED:
            return False
    return address.is_global and not address.is_multicast
