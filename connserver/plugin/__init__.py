"""What plugins are written with: kinds of objects, callbacks, and the context of a call.

Plugins import `connserver` and nothing else of this project. The words here are the contract; how
callbacks are executed is `partition`'s business.
"""

from connserver.plugin.context import Bot, Context, Log, Objects, Room, Timer
from connserver.plugin.declare import Plugin
from connserver.plugin.objects import Object, transient
from connserver.plugin.references import Ref
from connserver.plugin.results import Login, Reply, Result

__all__ = [
    "Bot",
    "Context",
    "Log",
    "Login",
    "Object",
    "Objects",
    "Plugin",
    "Ref",
    "Reply",
    "Result",
    "Room",
    "Timer",
    "transient",
]
