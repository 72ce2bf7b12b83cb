"""A gateway started by itself, where the supervisor cannot fork: `python -P -m gateway …`."""

from connserver.process import run_spawned
from gateway.server import main

if __name__ == "__main__":
    run_spawned(main)
