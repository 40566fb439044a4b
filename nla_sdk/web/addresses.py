"""The address of a server, as people give it."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from ..errors import InputError


def host_of(url: str, *, expected: str, secret: str) -> str:
    """The host of `http://HOST:PORT`, `https://HOST` or one of these with a path.

    Args:
        expected: what the address is of and how it is written, for the message.
        secret: where a key or a secret is said in place of in the address, for the message.
    Raises:
        InputError: the address is none, or holds a password, a query or a fragment, which logs would keep.
    """
    parts = urlsplit(url if isinstance(url, str) else "")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(f"The address of {expected}.")
    if parts.username is not None or parts.query or parts.fragment:
        raise InputError(
            f"The address of the server on {parts.hostname} holds more than host, port and path; {secret}."
        )
    return parts.hostname


def is_local(host: str) -> bool:
    """Whether only this machine reaches a host.

    Example:
        >>> is_local("localhost"), is_local("127.0.0.2"), is_local("::1"), is_local("example.org")
        (True, True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
