import pytest

from bus.engine.security import MAX_SOCKET_PATH_BYTES, check_address
from bus.errors import AddressRefused


@pytest.mark.parametrize(
    "address",
    [
        "ipc:///run/palaver/bus.sock",
        "ipc://relative.sock",
        "ipc:///" + "x" * (MAX_SOCKET_PATH_BYTES - 1),
        "tcp://127.0.0.1:5555",
        "tcp://127.9.9.9:1",
        "tcp://[::1]:65535",
    ],
)
def test_an_address_on_this_machine_is_taken(address: str) -> None:
    check_address(address)


@pytest.mark.parametrize(
    ("address", "advice"),
    [
        ("tcp://0.0.0.0:5555", "loopback"),
        ("tcp://*:5555", "loopback"),
        ("tcp://192.168.1.7:5555", "tcp://127.0.0.1:5555"),
        ("tcp://[2001:db8::1]:5555", "loopback"),
        ("tcp://localhost:5555", "loopback"),
        ("tcp://127.0.0.1.example.org:5555", "loopback"),
        ("tcp://127.0.0.1:", "port"),
        ("tcp://127.0.0.1:0", "port"),
        ("tcp://127.0.0.1:65536", "port"),
        ("tcp://127.0.0.1:٣", "port"),
        ("tcp://127.0.0.1", "port"),
        ("ipc://", "path"),
        ("ipc://*", "path"),
        ("ipc://@abstract", "path"),
        ("ipc:///" + "x" * MAX_SOCKET_PATH_BYTES, "shorter folder"),
        ("ipc:///" + "ü" * (MAX_SOCKET_PATH_BYTES // 2 + 1), "bytes"),
        ("inproc://bus", "ipc://PATH"),
        ("/run/palaver/bus.sock", "ipc://PATH"),
    ],
)
def test_any_other_address_is_refused_with_what_to_use(address: str, advice: str) -> None:
    with pytest.raises(AddressRefused, match=r"^expected") as caught:
        check_address(address)

    assert advice in str(caught.value)
