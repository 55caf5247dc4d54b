"""One answer of the OpenAI face while it is written: what the bus brings is handed over to a route. Knows no bus."""

import asyncio
from collections.abc import AsyncIterator

from training_service.openai_shapes import ApiError, Said


class Writing:
    """One text that is being written; see ``openai_routes.Text``."""

    def __init__(self) -> None:
        self.reason, self.n_prompt, self.n_tokens = "stop", 0, 0
        self.stopped = asyncio.Event()
        self._said: asyncio.Queue[Said | ApiError | None] = asyncio.Queue()
        self._first: Said | ApiError | None = None

    def put(self, piece: Said | ApiError | None) -> None:
        """Hand the next piece over, an error, or None at the end."""
        self._said.put_nowait(piece)

    async def begin(self) -> None:
        """Wait for the first piece, so that a refusal still has a status of its own."""
        self._first = await self._said.get()
        if isinstance(self._first, ApiError):
            raise self._first

    async def pieces(self) -> AsyncIterator[Said]:
        """Give the text as it comes.

        Raises:
            ApiError: It broke off.
        """
        piece = self._first
        while piece is not None:
            if isinstance(piece, ApiError):
                raise piece
            yield piece
            piece = await self._said.get()

    def stop(self) -> None:
        """Nobody reads any more; nothing happens where it is over."""
        self.stopped.set()
