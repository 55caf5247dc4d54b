"""Which addresses the bus may use: this machine only, until peers have keys."""

import ipaddress
from pathlib import Path

from bus.errors import PalaverError

MAX_SOCKET_PATH_BYTES = 107  # sockaddr_un.sun_path less its closing zero (unix(7))


class AddressRefused(PalaverError):
    """Raised when an address is not one that the bus may use; the text says which are."""

    code = "address"


def check_address(address: str) -> None:
    """Check that *address* stays on this machine.

    Raises:
        AddressRefused: Not ``ipc://PATH`` or ``tcp://LOOPBACK:PORT``, or a path too long for a socket.
    """
    scheme, separator, rest = address.partition("://")
    if not separator or scheme not in ("ipc", "tcp"):
        raise AddressRefused(f"expected ipc://PATH or tcp://127.0.0.1:PORT, got {address!r}")
    if scheme == "ipc":
        length = len(str(Path(rest)).encode())
        if not rest or length > MAX_SOCKET_PATH_BYTES:
            raise AddressRefused(
                f"expected a socket path of 1 to {MAX_SOCKET_PATH_BYTES} bytes, got {length}: {rest!r}; "
                f"use a shorter folder or PALAVER_BUS=ipc:///tmp/NAME.sock"
            )
        return
    host, _, port = rest.rpartition(":")
    if not port.isdigit() or not 1 <= int(port) <= 65535:
        raise AddressRefused(f"expected a port from 1 to 65535, got {port!r} in {address!r}")
    if not _is_loopback(host.strip("[]")):
        raise AddressRefused(
            f"expected a loopback address, got {host!r}: without keys anybody there could speak for any agent; "
            f"use tcp://127.0.0.1:{port} or ipc://"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
