"""The steps shipped in the package are one line from nothing to what schema.py expects."""

from __future__ import annotations

import subprocess
import sys

from alembic.config import Config
from alembic.script import ScriptDirectory

from connserver.storage.schema import VERSION


def test_the_last_step_is_the_version_this_program_works_on() -> None:
    config = Config()
    config.set_main_option("script_location", "connserver.storage:migrations")
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_heads() == [VERSION]
    revisions = [script.revision for script in scripts.walk_revisions()]
    assert revisions == sorted(revisions, reverse=True), "schema._refuse_newer compares them as texts"
    assert all(len(revision) == len(VERSION) for revision in revisions)


def test_a_usual_start_does_not_import_the_migration_library() -> None:
    program = "import sys, connserver.storage.schema; print({'alembic', 'sqlalchemy'} & set(sys.modules))"
    shown = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    assert shown.stdout.strip() == "set()"
