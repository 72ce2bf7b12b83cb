"""How often each session may call each method: `rate_hz`.

Guards the bound with one number per session and method (the virtual scheduling form of a leaky
bucket, ITU-T I.371): the time at which the session will have used up nothing. Rates are not
replicated; a failover forgives what was used.
"""

from __future__ import annotations

from connserver.errors import ClientError
from connserver.limits import METHOD_BURST_S, METHOD_RATES_KEPT


class Rates:
    """The rates of all sessions of a worker."""

    def __init__(self) -> None:
        self._used_up_to: dict[tuple[int, str], float] = {}

    def __len__(self) -> int:
        return len(self._used_up_to)

    def take(self, session: int, method: str, rate_hz: float, now: float) -> ClientError | None:
        """Count one call; the error `rate_limited` if it comes too early, which then does not count."""
        key = (session, method)
        used = self._used_up_to.get(key, 0.0)
        spacing = 1.0 / rate_hz
        # after a jump of the clock nobody waits longer than for what a burst can have used
        allowance = max(METHOD_BURST_S, spacing)
        used = min(max(used, now), now + allowance)
        wait = used + spacing - now - allowance
        if wait > 1e-9:
            self._used_up_to[key] = used
            return ClientError(
                "rate_limited",
                f"{method} may be called {rate_hz:g} times a second",
                retry_after_ms=max(1, round(wait * 1000)),
            )
        if key not in self._used_up_to and len(self._used_up_to) >= METHOD_RATES_KEPT:
            self._sweep(now)
        self._used_up_to[key] = used + spacing
        return None

    def _sweep(self, now: float) -> None:
        """Forget those who have used up nothing; if that is not enough, everybody."""
        self._used_up_to = {key: used for key, used in self._used_up_to.items() if used > now}
        if len(self._used_up_to) >= METHOD_RATES_KEPT:
            self._used_up_to.clear()
