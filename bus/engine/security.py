"""Which addresses the bus may use: this machine only, until peers have keys."""

import ipaddress
import os

from bus.errors import AddressRefused

MAX_SOCKET_PATH_BYTES = 107  # sockaddr_un.sun_path less its closing zero (unix(7))


def check_address(address: str) -> None:
    """Check that *address* stays on this machine.

    Raises:
        AddressRefused: Not ``ipc://PATH`` or ``tcp://LOOPBACK:PORT``, or a path that no socket may have.
    """
    scheme, separator, rest = address.partition("://")
    if not separator or scheme not in ("ipc", "tcp"):
        raise AddressRefused(f"expected ipc://PATH or tcp://127.0.0.1:PORT, got {address!r}")
    if scheme == "ipc":
        _check_path(rest)
    else:
        _check_loopback(rest)


def _check_path(path: str) -> None:
    if not path or path[0] in "*@":
        # An abstract name (@) has no owner and no mode: anybody on the machine could connect.
        raise AddressRefused(f"expected ipc:// and the path of a socket file, got {path!r}")
    length = len(os.fsencode(path))
    if length > MAX_SOCKET_PATH_BYTES:
        raise AddressRefused(
            f"expected a socket path of at most {MAX_SOCKET_PATH_BYTES} bytes, got {length}: {path!r}; "
            f"use a shorter folder, or PALAVER_BUS=ipc:///PATH for another place"
        )


def _check_loopback(place: str) -> None:
    host, _, port = place.rpartition(":")
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise AddressRefused(f"expected tcp://127.0.0.1:PORT with a port from 1 to 65535, got {port!r}")
    try:
        # Numbers only: what a name like localhost means is up to files and servers.
        is_loopback = ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise AddressRefused(
            f"expected a loopback address, got {host!r}: without keys anybody there could speak for any agent; "
            f"use tcp://127.0.0.1:{port} or ipc://PATH"
        )
