"""A worker started by itself, where the supervisor cannot fork: `python -P -m partition …`."""

from connserver.process import run_spawned
from partition.worker import main

if __name__ == "__main__":
    run_spawned(main)
