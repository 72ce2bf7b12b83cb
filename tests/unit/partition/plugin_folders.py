"""Plugins' folders for tests: a few lines that become a plugin.toml and a main.py."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

HEAD = "from connserver import Context, Object, Plugin, Ref, Refused, Reply, Result, transient\n"


def plugin_folder(place: Path, name: str, code: str, version: str = "1.0", needs: str = "") -> Path:
    """Write a plugin into `place`, which may hold an earlier one."""
    place.mkdir(parents=True, exist_ok=True)
    needed = f'needs = ["{needs}"]\n' if needs else ""
    (place / "plugin.toml").write_text(
        f'name = "{name}"\nversion = "{version}"\nlanguage = "python"\nentry = "main.py"\n{needed}'
    )
    head = f'{HEAD}plugin = Plugin("{name}", version="{version}")\n'
    (place / "main.py").write_text(head + dedent(code))
    return place


def pets(schema: int, more: str = "") -> str:
    """A plugin with one kind; its method says which version ran."""
    field = "loud: bool = True" if schema > 1 else "noise: int = 1"
    code = f"""
    @plugin.kind("pet", schema={schema})
    class Pet(Object):
        name: str = "rex"
        {field}
    @plugin.method("pet.version")
    def version(ctx: Context, me: Object) -> str:
        return plugin.version
    @plugin.method("pet.get")
    def get(ctx: Context, me: Object) -> str:
        return ctx.objects.create(Pet, near=me).ref
    """
    return dedent(code) + dedent(more)


UP = """
    @plugin.migrate("pet", to=2)
    def louder(fields):
        return {"name": fields["name"], "loud": fields["noise"] > 0}
"""
DOWN = """
    @plugin.migrate("pet", to=1, down=True)
    def quieter(fields):
        return {"name": fields["name"], "noise": int(fields["loud"])}
"""
