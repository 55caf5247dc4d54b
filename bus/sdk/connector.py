"""The way to a broker at an address, over ZeroMQ."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from bus.engine.security import check_address
from bus.engine.zeromq import HeartbeatThread, ZmqPeer, process_context


class BusConnector:
    """Connects to the broker at *address*.

    Raises:
        AddressRefused: The address may not be used.
    """

    def __init__(self, address: str) -> None:
        check_address(address)
        self.address = address
        self._context = process_context()

    def connect(self, on_frame: Callable[[bytes], None]) -> ZmqPeer:
        """Open a connection whose frames come to *on_frame* on the running loop."""
        return ZmqPeer(self.address, on_frame, context=self._context)

    def beat(self, token: bytes, interval: float, lease: float, on_silence: Callable[[], None]) -> HeartbeatThread:
        """Prove life in a thread of its own; *on_silence* is called on the running loop."""
        loop = asyncio.get_running_loop()

        def tell() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(on_silence)

        return HeartbeatThread(
            self.address, token, interval=interval, lease=lease, on_silence=tell, context=self._context
        )
