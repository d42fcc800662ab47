"""Where a server listens, and which requests it answers."""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import os
import re
import secrets
import socket
import struct
import sys
from dataclasses import dataclass

from retinasdk.live.web.request import Request

DEFAULT = "127.0.0.1:8080"
# Addresses that listen on all of a machine's. For each: the family, an address elsewhere, which is reserved for
# documentation (RFC 5737, RFC 3849), and the machine's own.
_UNSPECIFIED = {
    "0.0.0.0": (socket.AF_INET, "192.0.2.1", "127.0.0.1"),  # used only if the user asks for it  # nosec B104
    "::": (socket.AF_INET6, "2001:db8::1", "::1"),
}
_SIOCGIFADDR = 0x8915  # Of Linux: the IPv4 address of an interface.
_FORM = re.compile(r"(?:(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]*):)?(\d{1,5})")


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
            text: "HOST:PORT", "[IPv6]:PORT", or "PORT" or ":PORT", which are on 127.0.0.1.

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
                if os.name == "posix":  # On Windows, it would let another program take the port over.
                    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(place)
                bound = listener.getsockname()[0]
                if self.is_loopback and not ipaddress.ip_address(bound.partition("%")[0]).is_loopback:
                    raise OSError(f"on this machine the name stands for {bound}, which others can reach")
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

    def urls(self, port: int, token: str | None) -> list[str]:
        """Returns the URLs for a browser, the one that other machines can open first.

        An address that stands for all of this machine, such as 0.0.0.0, cannot be opened. For it these are the URLs of
        the machine's address in its network, and of the loopback address. The token is in the fragment, which browsers
        send to nobody.

        Args:
            port: The TCP port.
            token: The access token, or None if none is needed.
        """
        names = _own_addresses(self.host) if self.host in _UNSPECIFIED else [self.host]
        hosts = [f"[{name}]" if ":" in name else name for name in names]
        return [f"http://{host}:{port}/" + (f"#token={token}" if token else "") for host in hosts]


def _own_addresses(unspecified: str) -> list[str]:
    """Returns the address of this machine in its network, if there is one, and its loopback address."""
    family, elsewhere, loopback = _UNSPECIFIED[unspecified]
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((elsewhere, 9))  # chooses a route; a datagram socket sends nothing when it connects
        return [str(probe.getsockname()[0]), loopback]
    # A network without a way out, as in many factories, has no route to elsewhere.
    return [*(_interface_addresses() if family == socket.AF_INET else []), loopback]


def _interface_addresses() -> list[str]:
    """Returns the IPv4 addresses of the network interfaces, without loopback. Only on Linux."""
    if sys.platform != "linux":
        return []
    import fcntl

    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # The interface has no address.
                entry = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()))
                found.append(socket.inet_ntoa(entry[20:24]))
    return [address for address in found if not ipaddress.ip_address(address).is_loopback]


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

    def refusal(self, request: Request) -> tuple[int, str] | None:
        """Returns why a request is rejected.

        Args:
            request: The request.

        Returns:
            (HTTP status, reason), or None if the request may be answered.
        """
        if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return 403, "other web pages may not read this"
        if self.token is None:
            return None if Address(request.host, 0).is_loopback else (403, "open the address that retinasdk printed")
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self.token.encode()):
            return None
        return 401, (
            "a token is needed: open the complete address that retinasdk printed, including the part after #, or send "
            "the header Authorization: Bearer TOKEN"
        )
