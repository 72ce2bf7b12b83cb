"""scripts/bench/load.py with an operation that has to be committed in place of `ping`."""

from __future__ import annotations

import argparse
from typing import Any

import load
import uvloop

refused = 0


class Client(load.Client):
    """Counts refusals too: they are answers, but nothing was done."""

    def data_received(self, data: bytes) -> None:
        global refused
        if self.load.counting:
            refused += data.count(b'"status":1')
        super().data_received(data)


class Load(load.Load):
    """The same clients, other requests."""

    async def measure(self, seconds: float) -> dict[str, Any]:
        """As the other, with refusals."""
        found = await super().measure(seconds)
        return {**found, "refused": refused}

    def request(self, number: int) -> bytes:
        """An addition under an id, so that its reply is kept as well."""
        return b'{"msg":"count.add","id":%d}\0' % (number + 1)


if __name__ == "__main__":
    load.Load, load.Client = Load, Client  # type: ignore[misc]
    parser = argparse.ArgumentParser()
    parser.add_argument("scenario", choices=["echo"])
    parser.add_argument("endpoint")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warm-up", type=float, default=1.0)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--window", type=int, default=8)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--tag", default="a")
    parser.set_defaults(plain=False)
    uvloop.run(load.main(parser.parse_args()))
