"""ConnServer: the backbone of shared worlds.

What a plugin author imports is here, and loaded at first use: `import connserver` itself stays a
matter of microseconds, since every process of the cluster begins with it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from connserver.errors import ClientError, Refused, WrongPartition
    from connserver.plugin import Context, Login, Object, Plugin, Ref, Reply, Result, transient

__version__ = "0.1.0"

__all__ = [
    "ClientError",
    "Context",
    "Login",
    "Object",
    "Plugin",
    "Ref",
    "Refused",
    "Reply",
    "Result",
    "WrongPartition",
    "transient",
]

_FROM_ERRORS = frozenset({"ClientError", "Refused", "WrongPartition"})


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'connserver' has no attribute {name!r}")
    if name in _FROM_ERRORS:
        import connserver.errors as source
    else:
        import connserver.plugin as source  # type: ignore[no-redef]
    value = globals()[name] = getattr(source, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
