"""A process of the cluster that does nothing but live: ready at once, gone when asked.

A file `<name>.dies` in the folder of the cluster.toml makes the process of that name end at its
start; `<name>.anew` makes it ask for a new start, as often as the file has bytes; `<name>.deaf` makes
it ignore SIGTERM.
"""

from __future__ import annotations

import asyncio
import signal

from connserver.process import START_ANEW, Lifeline, ProcessOptions, run_spawned


def main(options: ProcessOptions) -> int:
    folder = options.config.file.parent
    if (folder / f"{options.name}.dies").exists():
        print(f"{options.name} was told to die")
        return 3
    anew = folder / f"{options.name}.anew"
    if anew.exists() and (left := anew.read_bytes()):
        anew.write_bytes(left[1:])
        return START_ANEW
    loop = asyncio.new_event_loop()
    stopped = loop.create_future()
    lifeline = Lifeline(loop, options, stopped.set_result)
    if (folder / f"{options.name}.deaf").exists():
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    loop.call_soon(lifeline.ready, options.listen or f"ipc://{options.name}")
    print(options.name, "stops:", loop.run_until_complete(stopped))
    lifeline.close()
    loop.close()
    return 0


if __name__ == "__main__":
    run_spawned(main)
