"""Loading: what is refused, with file, line and reason; that a refusal changes nothing; own modules."""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import dedent
from types import ModuleType

import pytest

from connserver.errors import PluginLoadError
from connserver.plugin import Plugin
from partition.loader import HOSTS, PACKAGE, load_plugin, load_plugins
from partition.manifest import Manifest, read_manifest

HEAD = """
from __future__ import annotations
from connserver import Context, Object, Plugin, Ref, Refused, Reply, Result, transient
plugin = Plugin("game", version="1.0")
"""
"""Four lines: what follows begins at line 5."""


def folder(
    tmp_path: Path, code: str, name: str = "game", version: str = "1.0", head: str = HEAD, **more: str
) -> Path:
    """A plugin's folder; `more`: further files (name without .py → code), or keys of plugin.toml."""
    place = tmp_path / name
    place.mkdir(parents=True)
    keys = {"name": name, "version": version, "language": "python", "entry": "main.py"}
    for key, value in more.items():
        if key in keys:
            keys[key] = value
        else:
            (place / f"{key}.py").write_text(dedent(value))
    (place / "plugin.toml").write_text("".join(f'{key} = "{value}"\n' for key, value in keys.items()))
    head = head.replace('"game"', f'"{name}"').replace('"1.0"', f'"{version}"')
    (place / "main.py").write_text(head + dedent(code))
    return place


def refusal(*folders: Path) -> str:
    """Why these are not loaded; checks that nothing stays behind."""
    before = set(sys.modules)
    with pytest.raises(PluginLoadError) as caught:
        load_plugins(folders)
    assert {name for name in set(sys.modules) - before if name.startswith(PACKAGE)} == set()
    return str(caught.value)


METHOD = """
    @plugin.method("game.play")
    def play(ctx: Context, me: Object) -> str:
        return WORD
    WORD = "one"
"""


def test_two_plugins_with_files_of_the_same_name_do_not_meet(tmp_path: Path) -> None:
    code = """
        from . import rules
        from .rules import WORD
        @plugin.method("{0}.play")
        def play(ctx: Context, me: Object) -> str:
            return WORD + rules.WORD
    """
    one = folder(tmp_path, code.format("one"), "one", rules="WORD = 'one'")
    two = folder(tmp_path, code.format("two"), "two", rules="WORD = 'two'")
    table = load_plugins([one, two])
    assert [table.methods[f"{name}.play"].function(None, None) for name in ("one", "two")] == [
        "oneone",
        "twotwo",
    ]
    assert table.plugins == {"one": "1.0", "two": "1.0"}
    assert "main" not in sys.modules and "rules" not in sys.modules


def test_a_file_saved_again_at_once_is_read_again(tmp_path: Path) -> None:
    place = folder(tmp_path, METHOD)
    assert load_plugins([place]).methods["game.play"].function(None, None) == "one"
    (place / "main.py").write_text((place / "main.py").read_text().replace("one", "two"))
    assert load_plugins([place]).methods["game.play"].function(None, None) == "two"
    assert not (place / "__pycache__").exists()


@pytest.mark.parametrize(
    ("code", "line", "reason"),
    [
        ("def broken(:\n    pass", 5, "SyntaxError"),
        ("import nothing_of_the_kind", 5, "ModuleNotFoundError"),
        ("\n\nraise RuntimeError('no')", 7, "RuntimeError: no"),
        ("raise SystemExit(1)", 5, "SystemExit"),
        ("@plugin.method('game.x')\nasync def x(ctx, me): pass", 5, "async def.*ctx.background"),
        ("@plugin.internal\ndef x(ctx, me):\n    yield 1", 5, "yield"),
        ("@plugin.method('hello')\ndef x(ctx, me): pass", 5, "topic.action"),
        ("@plugin.method('room.x')\ndef x(ctx, me): pass", 5, "are taken"),
        ("@plugin.method('game.x')\ndef x(ctx): pass", 5, r"begin with \(ctx, me"),
        ("@plugin.method('game.x')\ndef x(ctx, me, *args): pass", 5, "given by name"),
        ("@plugin.method('game.x')\ndef x(ctx, me, id: int): pass", 5, "'id' is reserved"),
        ("@plugin.method('game.x')\ndef x(ctx, me, a: set): pass", 5, "argument 'a'.*no annotation"),
        ("@plugin.method('game.x')\ndef x(ctx, me, a: Object): pass", 5, r"write Ref\[Object\]"),
        ("@plugin.method('game.x')\ndef x(ctx, me, a: Nope): pass", 5, "annotation cannot be read.*Nope"),
        ("@plugin.method('game.x')\ndef x(ctx, me: int): pass", 5, "class of objects"),
        ("class P(Object): pass\n@plugin.method('game.x')\ndef x(ctx, me: P): pass", 6, "P is not declared"),
        ("@plugin.internal\ndef x(ctx, me, then: str): pass", 5, "'then'"),
        ("@plugin.internal(create=True)\ndef x(ctx, me): pass", 5, "kind to make"),
        ("for _ in 1, 2:\n    @plugin.internal\n    def x(ctx, me): pass", 6, "two internal methods"),
        ("for _ in 1, 2:\n    @plugin.method('game.x')\n    def x(ctx, me): pass", 6, "declared already"),
        ("@plugin.kind('a')\nclass A(Object):\n    b: set[int] = set()", 5, "field 'b'.*write list"),
        ("@plugin.kind('a')\nclass A(Object):\n    b: int = 'x'", 5, "default does not fit: an integer"),
        ("@plugin.kind('a')\nclass A(Object):\n    oid: int = 1", 5, "this name is not possible"),
        ("@plugin.kind('a')\nclass A(Object):\n    _b: int = 1", 5, "this name is not possible"),
        ("@plugin.kind('a')\nclass A(Object):\n    def __init__(self): pass", 5, "__init__ of its own"),
        ("@plugin.kind('user')\nclass A(Object): pass", 5, "not 'user'"),
        ("@plugin.kind('A b')\nclass A(Object): pass", 5, "no kind name"),
        ("@plugin.kind('a', schema=0)\nclass A(Object): pass", 5, "count from 1"),
        ("@plugin.kind('a')\nclass A: pass", 5, r"write class A\(Object\)"),
        ("@plugin.kind('a', index=['b'])\nclass A(Object): pass", 5, "'b' is none of its fields"),
        ("@plugin.kind('a', index='b')\nclass A(Object):\n    b: list = []", 5, "cannot be indexed"),
        (
            "@plugin.kind('a', unique=['b'])\nclass A(Object):\n    b: int = transient(1)",
            5,
            "cannot be indexed",
        ),
        ("@plugin.kind('a')\n@plugin.kind('b')\nclass A(Object): pass", 5, "declared as two kinds"),
        ("@plugin.migrate('a', to=2)\ndef up(fields): return fields", 5, "'a' is no kind"),
        (
            "@plugin.kind('a')\nclass A(Object): pass\n@plugin.migrate(A, to=2)\ndef up(f): return f",
            7,
            "leads past it",
        ),
        ("@plugin.every(hz=0)\ndef x(ctx): pass", 5, "hz"),
        ("@plugin.every(hz=1)\ndef x(ctx): pass", 5, "no kinds"),
        ("@plugin.every(hz=1, where={'a': 1})\ndef x(ctx): pass", 5, "needs the `kind`"),
        (
            "@plugin.kind('a')\nclass A(Object):\n    b: int = 0\n"
            "@plugin.every(hz=1, kind=A, where={'b': 1})\ndef x(ctx): pass",
            8,
            "no indexed field",
        ),
        (
            "@plugin.kind('a')\nclass A(Object): pass\n@plugin.every(hz=1)\ndef x(ctx, a): pass",
            7,
            r"takes \(ctx\)",
        ),
        ("@plugin.on_join\ndef x(ctx, me, a): pass", 5, r"takes \(ctx, me\)"),
        (
            "@plugin.kind('a')\nclass A(Object):\n    b: int\n"
            "@plugin.method('game.x')\ndef x(ctx, me: A): pass",
            5,
            "'b' needs a default",
        ),
    ],
)
def test_what_cannot_be_loaded_says_where_and_why(tmp_path: Path, code: str, line: int, reason: str) -> None:
    place = folder(tmp_path, "", head=HEAD + code + "\n")
    told = refusal(place)
    assert f"{place}/main.py:{line}: " in told, told
    with pytest.raises(PluginLoadError, match=reason):
        load_plugins([place])


def test_an_error_in_another_file_of_the_plugin_names_that_file(tmp_path: Path) -> None:
    place = folder(tmp_path, "from . import rules", rules="WORD = 1\nWORD.upper()\n")
    assert f"{place}/rules.py:2: AttributeError" in refusal(place)


def test_a_plain_import_of_an_own_file_is_advised(tmp_path: Path) -> None:
    place = folder(tmp_path, "import rules", rules="WORD = 1")
    assert "from . import rules" in refusal(place)


def test_plugins_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    one = folder(tmp_path / "a", METHOD)
    two = folder(tmp_path / "b", METHOD, "other")
    assert "method game.play is declared already by plugin game" in refusal(one, two)
    assert "attached twice" in refusal(one, one)
    kind = "@plugin.kind('pet')\nclass Pet(Object): pass\n"
    use = "@plugin.method('{0}.x')\ndef x(ctx, me: {1}): pass\n"
    three = folder(tmp_path / "c", "", "three", head=HEAD + kind)
    four = folder(tmp_path / "d", "", "four", head=HEAD + kind)
    assert "kind pet is declared already by plugin three" in refusal(three, four)
    five = folder(tmp_path / "e", "", "five", head=HEAD + kind + use.format("five", "Pet"))
    six = folder(tmp_path / "f", "", "six", head=HEAD + kind.replace("pet", "dog") + use.format("six", "Pet"))
    told = refusal(five, six)
    assert "user objects can have one kind" in told and "a pet" in told and "a dog" in told
    seven = folder(tmp_path / "g", "", "seven", head=HEAD + use.format("seven", "Object"))
    assert load_plugins([five, seven]).user_kind == "pet" and load_plugins([seven]).user_kind == "user"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name = ", "Invalid value|at line 1"),
        ('name = "x"', 'version = "…" is missing'),
        ('colour = "red"', "'colour' is not known"),
        ('name = "x"\nversion = "1"\nlanguage = "c++"\nentry = "a.so"', "cs-cluster plugin build"),
        ('name = "x"\nversion = "1"\nlanguage = "classic"\nentry = "a.py"', "no such file"),
        ('name = "x"\nversion = "1"\nlanguage = "c++"\nentry = "../a.so"', "name of a shared library"),
        ('name = "x"\nversion = "1"\nlanguage = "lua"\nentry = "a.lua"', "'lua' is not known"),
        ('name = "x"\nversion = "1"\nlanguage = "python"\nentry = "../a.py"', "name of a Python file"),
        ('name = "x"\nversion = "1"\nlanguage = "python"\nentry = "a.py"', "no such file"),
        (
            'name = "x"\nversion = "1"\nlanguage = "python"\nentry = "a.py"\nneeds = "b"',
            "list of plugin names",
        ),
        ("#" * 70_000, "larger than"),
    ],
)
def test_the_manifest_is_checked(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "plugin.toml").write_text(text)
    with pytest.raises(PluginLoadError, match=reason) as caught:
        read_manifest(tmp_path)
    assert str(tmp_path / "plugin.toml") in str(caught.value)


@pytest.mark.parametrize("language", sorted(HOSTS))
def test_another_language_is_loaded_by_its_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, language: str
) -> None:
    place = folder(tmp_path, "", language=language)
    host = ModuleType("a_host")
    made: list[str] = []

    def load(manifest: Manifest) -> Plugin:
        made.append(manifest.entry)
        return Plugin(manifest.name, version="2.0" if len(made) > 1 else manifest.version)

    vars(host)[HOSTS[language][1]] = load
    monkeypatch.setitem(sys.modules, HOSTS[language][0], host)
    assert load_plugin(place).name == "game"
    with pytest.raises(PluginLoadError, match=r"names game 1.0, but .* makes game 2.0"):
        load_plugin(place)
    monkeypatch.setitem(sys.modules, HOSTS[language][0], None)
    with pytest.raises(PluginLoadError, match="cannot be attached here"):
        load_plugin(place)
    assert made == ["main.py", "main.py"]


def test_manifest_and_code_have_to_agree(tmp_path: Path) -> None:
    place = folder(tmp_path, METHOD)
    (place / "plugin.toml").write_text((place / "plugin.toml").read_text().replace("1.0", "1.1"))
    assert "names game 1.1, but" in refusal(place)
    none = folder(tmp_path / "none", "", head="x = 1\n")
    assert "makes 0 plugins" in refusal(none)
    missing = tmp_path / "missing"
    assert "is" in refusal(missing) and str(missing) in refusal(missing)
    needy = folder(tmp_path / "needy", METHOD, "needy")
    with (needy / "plugin.toml").open("a") as manifest:
        manifest.write('needs = ["base"]\n')
    assert "needs plugin base" in refusal(needy)
