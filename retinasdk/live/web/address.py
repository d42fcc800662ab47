"""Where the preview listens, and which requests it answers."""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import re
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

DEFAULT = "127.0.0.1:8080"
# Addresses that listen on all of a machine's. For each: the family, an address elsewhere, which is reserved for
# documentation (RFC 5737, RFC 3849), and the machine's own.
_UNSPECIFIED = {
    "0.0.0.0": (socket.AF_INET, "192.0.2.1", "127.0.0.1"),  # used only if the user asks for it  # nosec B104
    "::": (socket.AF_INET6, "2001:db8::1", "::1"),
}
_FORM = re.compile(r"(?:(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):)?(\d{1,5})")


@dataclass(frozen=True)
class Address:
    """An address to listen on.

    Attributes:
        host: A host name or an IP address, IPv6 without brackets.
        port: The TCP port. 0 means any free port.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Returns the address that a text stands for.

        Args:
            text: "HOST:PORT", "[IPv6]:PORT", or "PORT", which is on 127.0.0.1.

        Raises:
            ValueError: If the text is none of these.
        """
        found = _FORM.fullmatch(text)
        if found is None or int(found[2]) > 65535:
            raise ValueError(f"{text!r} is no address; use HOST:PORT such as {DEFAULT}, or a port from 0 to 65535")
        return cls((found[1] or "127.0.0.1").strip("[]"), int(found[2]))

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine can reach the address."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def bind(self) -> socket.socket:
        """Returns a socket that listens on the address.

        Raises:
            OSError: If that is not possible. The text names the address and what to do.
        """
        try:
            family, kind, protocol, _, place = socket.getaddrinfo(
                self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listener = socket.socket(family, kind, protocol)
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(place)
                listener.listen(64)
            except OSError:
                listener.close()
                raise
        except OSError as error:
            raise OSError(
                f"cannot listen on {self.host} port {self.port}: {error.strerror or error}; choose an address of this "
                "machine and a free port"
            ) from error
        return listener

    def url(self, port: int, token: str | None) -> str:
        """Returns the URL for a browser. The token is in the fragment, which browsers send to nobody.

        An address that stands for all of this machine, such as 0.0.0.0, cannot be opened: the URL names the one by
        which other machines reach it.
        """
        name = _own_address(self.host) if self.host in _UNSPECIFIED else self.host
        host = f"[{name}]" if ":" in name else name
        return f"http://{host}:{port}/" + (f"#token={token}" if token else "")


def _own_address(unspecified: str) -> str:
    """Returns the address of this machine in its network, or that of the machine itself if there is no network."""
    family, elsewhere, loopback = _UNSPECIFIED[unspecified]
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((elsewhere, 9))  # chooses a route; a datagram socket sends nothing when it connects
        return str(probe.getsockname()[0])
    return loopback


class Gate:
    """Decides which requests for data are answered: those with the token.

    On a loopback address no token is needed. There, requests have to address this machine by a loopback name, which
    stops web pages whose host name was changed to resolve to 127.0.0.1 (DNS rebinding).

    Attributes:
        token: The access token, or None if none is needed.
    """

    def __init__(self, address: Address, token: str | None) -> None:
        if token is not None and not re.fullmatch(r"[A-Za-z0-9_-]{16,256}", token):
            raise ValueError("a token must be 16 to 256 letters, digits, - or _; omit it to have one generated")
        self.token = token if token is not None or address.is_loopback else secrets.token_urlsafe(24)

    def refusal(self, headers: Mapping[str, str]) -> tuple[int, str] | None:
        """Returns why a request is rejected.

        Args:
            headers: The HTTP headers by lower-case name.

        Returns:
            (HTTP status, reason), or None if the request may be answered.
        """
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return 403, "other web pages may not read the preview"
        if self.token is None:
            name = urlsplit(f"//{headers.get('host', '')}").hostname or ""
            return None if Address(name, 0).is_loopback else (403, "open the address that retinasdk printed")
        given = headers.get("authorization", "").removeprefix("Bearer ")
        if hmac.compare_digest(given.encode(), self.token.encode()):
            return None
        return 401, "a token is needed: open the complete address that retinasdk printed, including the part after #"
