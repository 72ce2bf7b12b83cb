"""Clients on the stock asyncio loop, where uvloop is not installed."""

from __future__ import annotations

import asyncio

from gateway.client import Client


class BufferedClient(Client, asyncio.BufferedProtocol):
    """For the stock asyncio loop, which is three times as fast when it reads into a given buffer."""

    __slots__ = ()

    def get_buffer(self, sizehint: int) -> bytearray:
        """One buffer for all: it is read and emptied within one callback."""
        return self._gateway.read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes of it are this client's."""
        self.data_received(bytes(memoryview(self._gateway.read_buffer)[:nbytes]))
