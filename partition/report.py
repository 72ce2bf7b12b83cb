"""What a worker reports once a second: positions, storage and plugins, whatever it is now."""

from __future__ import annotations

from typing import Any

from connserver.messages import Role, WorkerReport
from partition.holding import Holding
from partition.promotion import Tenure


def report(
    group: int, role: Role, plugins: list[dict[str, Any]], holding: Holding, tenure: Tenure | None
) -> WorkerReport:
    """The report; the holding's trouble is shown as the storage's unless the archiver has one of its own."""
    backup, archiver, trouble = holding.backup, holding.archiver, holding.trouble
    details: dict[str, Any] = {"plugins": plugins, "state": "loading" if backup is None else "ready"}
    if backup is None or archiver is None:
        return WorkerReport(group, role.grant, 0, 0, "down" if trouble else "standby", trouble, details)
    status = archiver.status()
    grant, commit = 0, backup.applied
    details["objects"] = len(backup.store)
    if tenure is not None:
        serving = tenure.serving
        grant, commit = tenure.grant, serving.queue.commit
        details |= {
            "sessions": len(serving.group.sessions),
            "rooms": len(serving.group.rooms),
            "parked_calls": serving.group.calls.parked,
            "held_timers": len(serving.group.timers.held),
            "quarantined": tenure.quarantine.describe(),
        }
    error = status.error or trouble
    storage = "down" if trouble and not status.error else status.state
    return WorkerReport(group, grant, commit, status.archived_op, storage, error, details)
