"""Why FFmpeg cannot open or read a source, in one sentence with what to do, and without passwords."""

from __future__ import annotations

import socket
from typing import Any
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443, "rtmp": 1935, "rtsp": 554, "rtsps": 322}
# By the name of PyAV's error class.
_ADVICE = {
    "HTTPUnauthorizedError": "the user name or password is missing or wrong; put USER:PASSWORD@ before the "
    "name of the host, with @ : / ? # % in them as %40 %3A %2F %3F %23 %25",
    "HTTPForbiddenError": "this user may not see the stream; check the rights of the account on the camera",
    "HTTPNotFoundError": "check the path in the address; the manual of the camera lists its streams",
    "HTTPServerError": "the camera or server has a problem of its own; look at its log, or restart it",
    "HTTPTooManyRequestsError": "the camera allows fewer connections; close other viewers",
    "ConnectionRefusedError": "nothing listens at this port; check the port in the address, and that the camera's "
    "stream is switched on",
    "ProtocolNotFoundError": "this FFmpeg does not know the kind of address; use rtsp://, http:// or https://",
    "PermissionError": "this user may not read it; change its permissions",
}
_NO_VIDEO_FILE = "it is damaged, or no video that FFmpeg knows; check it with: ffprobe"
_NO_VIDEO_URL = "what the server sends is no video that FFmpeg knows; open the address in a player to check it"
_UNESCAPED = (
    "the address cannot be read; if the password contains one of @ : / ? # %, write %40 %3A %2F %3F %23 %25 instead"
)


def why_not_opened(error: Any, location: str, waited_s: float, timeout_s: float) -> str:
    """Returns why a file or URL cannot be opened, and what to do.

    FFmpeg's own text repeats the URL with its password, so only the kind of its error is used.

    Args:
        error: The error of PyAV.
        location: The file or URL.
        waited_s: How long opening took, in seconds.
        timeout_s: The time-out in seconds.
    """
    said = error.strerror or "unknown error"
    names = [kind.__name__ for kind in type(error).__mro__]
    advice = next((_ADVICE[name] for name in names if name in _ADVICE), None)
    if advice is not None:
        return f"{said}; {advice}"
    if "://" not in location:
        advice = f"{_NO_VIDEO_FILE} '{location}'" if "InvalidDataError" in names else "check that it can be read"
        return f"{said}; {advice}"
    if waited_s >= 0.9 * timeout_s:
        return f"no answer within {timeout_s:g} s; check the address, and that the camera is switched on"
    return _why_not_reached(location, timeout_s) or (
        _UNESCAPED if "ArgumentError" in names else f"{said}; {_NO_VIDEO_URL}"
    )


def why_lost(error: Any, is_url: bool, timeout_s: float) -> str:
    """Returns why the next packet cannot be read."""
    if not is_url:
        return f"cannot be read to its end: {error.strerror or 'unknown error'}"
    if type(error).__name__ == "ExitError":  # FFmpeg was told to return, after the time-out.
        return f"connection lost: nothing was received for {timeout_s:g} s"
    return f"connection lost: {error.strerror or 'unknown error'}"


def _why_not_reached(url: str, timeout_s: float) -> str | None:
    """Returns why no connection to the host of a URL is possible: FFmpeg calls that an input/output error."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return _UNESCAPED
    if not host or port is None or parts.scheme not in _PORTS:  # Others, such as srt and udp, do not use TCP.
        return None
    try:
        socket.create_connection((host, port), timeout_s).close()
    except (socket.gaierror, UnicodeError):
        return "no host of this name is known; check the name in the address, or use the IP address"
    except OSError as error:
        return f"{error.strerror or error}; check the address, and that the camera is switched on"
    return None
