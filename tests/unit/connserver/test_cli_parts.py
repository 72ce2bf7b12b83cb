"""The parts of the command line that decide something: progress, log lines, pages, short forms."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from connserver.cli.dev import matters
from connserver.cli.logs import LogFile, lines, parse
from connserver.cli.pages import find
from connserver.cli.progress import progress, shown_endpoint
from connserver.cli.talk import short_form
from connserver.client.blocking import encoding_of
from connserver.encodings import Encoding
from connserver.messages import ProcessRecord
from connserver.scaffold import Game, is_game_name, scaffold
from connserver.supervisor.events import BecameReady, Waits
from connserver.supervisor.forkserver import Lines, describe_exit
from connserver.supervisor.link import storage_state
from connserver.supervisor.nursery import LAST_WORDS_CHARS, last_words, news
from connserver.supervisor.rotation import rotate
from connserver.supervisor.shell import MODULES, loading_order, started_as


def record(name: str, role: str, state: str, reason: str = "", endpoint: str = "") -> ProcessRecord:
    return ProcessRecord("n1", role, name, 1, state, 0, endpoint, reason)


class TestProgress:
    def test_roles_are_counted_and_what_is_waited_for_is_named(self) -> None:
        now = progress(
            [
                record("storage", "storage", "starting", "no connection"),
                record("g-n1", "gossip", "ready"),
                record("w-n1-0", "worker", "ready"),
                record("w-n1-1", "worker", "starting"),
            ]
        )
        assert now.steps == ("PostgreSQL …", "gossip ready", "workers 1/2 …")
        assert now.reached == ("gossip ready",)
        assert now.waits == ("storage: no connection",)
        assert not now.ready and not now.hopeless

    def test_a_worker_left_down_does_not_keep_the_start_from_its_end(self) -> None:
        now = progress([record("g", "gossip", "ready"), record("w", "worker", "failed", "five deaths")])
        assert now.ready and not now.hopeless
        assert [row.name for row in now.failed] == ["w"]

    @pytest.mark.parametrize("role", ["forkserver", "storage", "gossip"])
    def test_without_what_all_need_there_is_no_hope(self, role: str) -> None:
        assert progress([record("x", role, "failed"), record("w", "worker", "starting")]).hopeless

    def test_one_gossip_of_several_is_not_all(self) -> None:
        other = ProcessRecord("n2", "gossip", "g-n2", 1, "ready", 0, "", "")
        stuck = ProcessRecord("n1", "worker", "w-n1-0", 0, "starting", 0, "", "")
        now = progress([record("g-n1", "gossip", "failed"), other, stuck])
        assert now.ready and not now.hopeless

    def test_a_group_whose_workers_are_all_left_down_is_named_if_gateways_miss_it(self) -> None:
        gateway = record("gw-n1-0", "gateway", "starting", "waiting")
        down = [record(f"w-{node}-1", "worker", "failed", "its plugin is broken") for node in ("n1", "n2")]
        other = record("w-n1-0", "worker", "ready")
        now = progress([record("g-n1", "gossip", "ready"), other, *down, gateway])
        assert now.unserved == (1,) and not now.ready
        assert now.reasons == "w-n1-1, w-n2-1 its plugin is broken"
        assert progress([other, down[0], record("w-n2-1", "worker", "backoff"), gateway]).unserved == ()
        assert progress([other, *down]).unserved == ()

    def test_a_local_socket_is_shown_by_its_name(self) -> None:
        assert shown_endpoint(record("w", "worker", "ready", endpoint="ipc:///a/b/w.sock")) == "w.sock"
        assert shown_endpoint(record("gw", "gateway", "ready", endpoint="127.0.0.1:9000")) == "127.0.0.1:9000"


class TestLogs:
    def test_both_formats_read_the_same(self) -> None:
        wanted = {"time": "2026-01-31T12:00:00.123Z", "level": "info", "event": "x", "n": 3, "t": 'a "b"\n'}
        assert parse(r'time=2026-01-31T12:00:00.123Z level=info event=x n=3 t="a \"b\"\n"') == wanted
        assert (
            parse('{"time":"2026-01-31T12:00:00.123Z","level":"info","event":"x","n":3,"t":"a \\"b\\"\\n"}')
            == wanted
        )

    @pytest.mark.parametrize("text", ["Traceback (most recent call last):", "{broken", "[1]", ""])
    def test_what_is_no_line_of_ours_is_a_message(self, text: str) -> None:
        assert parse(text) == {"message": text}

    def test_a_line_without_a_time_stays_with_the_one_before(self) -> None:
        texts = ["time=2026-01-31T12:00:00.000Z a=1", "  File x", "time=2026-01-31T12:00:01.000Z a=2"]
        assert [line.time[17:19] for line in lines("p", texts)] == ["00", "00", "01"]

    def test_a_file_is_read_on_in_whole_lines_also_after_it_was_cut(self, tmp_path: Path) -> None:
        path = tmp_path / "w.log"
        path.write_text("one\ntw")
        log = LogFile(path)
        # Opened at its size of then: it was small, so from its beginning.
        assert [line.text for line in log.read()] == ["one"]
        with path.open("a") as stream:
            stream.write("o\n")
        assert [line.text for line in log.read()] == ["two"]
        path.write_text("new\n")
        assert [line.text for line in log.read()] == ["new"]

    def test_a_log_that_is_too_large_is_moved_aside(self, tmp_path: Path) -> None:
        (tmp_path / "big.log").write_text("x" * 11)
        (tmp_path / "small.log").write_text("y" * 10)
        assert rotate(tmp_path, largest_bytes=10) == ["big"]
        assert (tmp_path / "big.log").read_text() == ""
        assert (tmp_path / "big.log.1").read_text() == "x" * 11
        assert (tmp_path / "small.log").read_text() == "y" * 10


class TestPages:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        (tmp_path / "secret.txt").write_text("secret")
        root = tmp_path / "web"
        (root / "sub").mkdir(parents=True)
        for name in ("index.html", "a b.js", ".hidden", "sub/index.html"):
            (root / name).write_text(name)
        (root / "out").symlink_to(tmp_path / "secret.txt")
        (root / "up").symlink_to(tmp_path)
        os.mkfifo(root / "pipe")
        return root

    @pytest.mark.parametrize(
        ("target", "name"),
        [
            ("/", "index.html"),
            ("/index.html?v=2", "index.html"),
            ("/a%20b.js", "a b.js"),
            ("/sub//", "sub/index.html"),
            ("/sub", "sub/index.html"),
        ],
    )
    def test_files_of_the_folder_are_there(self, root: Path, target: str, name: str) -> None:
        assert find(root, target) == root / name

    @pytest.mark.parametrize(
        "target",
        [
            "/none",
            "/.hidden",
            "/../secret.txt",
            "/%2e%2e/secret.txt",
            "/..%2fsecret.txt",
            "/sub/../../secret.txt",
            "/sub/..%5c..%5csecret.txt",
            "/out",
            "/up/secret.txt",
            "/pipe",
            "/index.html%00.js",
            "/%ff",
            "http://[/",
        ],
    )
    def test_nothing_else_is(self, root: Path, target: str) -> None:
        assert find(root, target) is None


class TestTalk:
    @pytest.mark.parametrize(
        ("text", "encoding"),
        [
            (' {"msg":"x"}', Encoding.JSON),
            ("<msg/>", Encoding.XML),
            ("msg:x", Encoding.CLASSIC),
            ("", Encoding.CLASSIC),
        ],
    )
    def test_the_encoding_is_what_a_gateway_would_detect(self, text: str, encoding: Encoding) -> None:
        assert encoding_of(text) is encoding

    def test_the_short_form(self) -> None:
        text = 'chat.say room=lobby text="hi there" n=3 list=[1,2] eq=a=b'
        typed = {"msg": "chat.say", "room": "lobby", "text": "hi there", "n": 3, "list": [1, 2], "eq": "a=b"}
        assert short_form(text, typed=True) == typed
        assert short_form(text, typed=False) == {**typed, "n": "3", "list": "[1,2]"}

    @pytest.mark.parametrize("text", ["ping hi", "ping =1", 'ping a="'])
    def test_what_is_none_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError):
            short_form(text, typed=True)


class TestDevAndNew:
    @pytest.mark.parametrize(
        ("path", "does"),
        [
            ("/g/plugin/main.py", True),
            ("/g/plugin/plugin.toml", True),
            ("/g/plugin/.main.py.swp", False),
            ("/g/plugin/main.py~", False),
            ("/g/plugin/4913", False),
            ("/g/plugin/__pycache__/main.cpython-311.py", False),
        ],
    )
    def test_only_a_plugins_own_files_reload_it(self, path: str, does: bool) -> None:
        assert matters(path) is does

    def test_every_template_is_filled_completely(self, tmp_path: Path) -> None:
        written = scaffold(Game(name="my-game", gateway_port=9123), tmp_path / "my-game")
        for path in written:
            text = path.read_text()
            assert not {"GAME_NAME", "GAME_MODULE", "GATEWAY_PORT"} & set(text.split()), path
            assert "GAME_" not in text and "GATEWAY_PORT" not in text, path
        assert tmp_path / "my-game" / "tests" / "test_my_game.py" in written

    @pytest.mark.parametrize(
        ("name", "good"),
        [("a", True), ("a-1", True), ("a_b", False), ("A", False), ("", False), ("a\n", False)],
    )
    def test_names_of_games(self, name: str, good: bool) -> None:
        assert bool(is_game_name(name)) is good


class TestSupervisorParts:
    def test_last_words_are_the_last_line_shortened(self, tmp_path: Path) -> None:
        log = tmp_path / "x.log"
        assert last_words(log) == ""
        log.write_text("first\nlast  \n\n")
        assert last_words(log) == "last"
        log.write_text('time=2026 level=error node=n1 process=x event=gone reason="a b"\n')
        assert last_words(log) == 'event=gone reason="a b"'
        log.write_text("é" * 10_000)
        assert len(last_words(log)) == LAST_WORDS_CHARS + 1

    def test_exits_in_words(self) -> None:
        assert describe_exit(0) == "exit status 0"
        assert describe_exit(-9) == "killed by SIGKILL"
        assert describe_exit(-250) == "killed by signal 250"

    def test_a_status_line_is_news_or_nothing(self) -> None:
        assert news("w", 5, {"ready": True, "endpoint": "here"}) == BecameReady("w", 5, "here")
        assert news("w", 5, {"waiting": "for it"}) == Waits("w", 5, "for it")
        strange: list[object] = [{}, [], "ready", {"ready": "yes"}, None]
        for said in strange:
            assert news("w", 5, said) is None

    def test_lines_are_cut_wherever_the_bytes_came_apart(self) -> None:
        reader = Lines()
        data = b'{"a":1}\nnot json\n[2]\n{"b":2}\n{"c"'
        found = [document for byte in data for document in reader.feed(bytes([byte]))]
        assert found == [{"a": 1}, {"b": 2}]
        assert reader.feed(b":3}\n") == [{"c": 3}]

    def test_storage_is_loaded_first_and_every_role_is(self) -> None:
        order = loading_order(MODULES)
        assert order[0].startswith("storage=")
        assert {load.split("=")[0] for load in order} == {"", "storage", "gossip", "worker", "gateway"}

    def test_without_forking_the_packages_own_entries_are_started(self) -> None:
        assert started_as(MODULES)["worker"] == "partition"
        assert started_as({"worker": "fake"})["worker"] == "fake"

    @pytest.mark.parametrize(
        ("state", "reason", "wanted"),
        [
            ("ready", "", "ok"),
            ("starting", "", "unknown"),
            ("starting", "refused", "down"),
            ("backoff", "exit status 1", "down"),
            ("failed", "five deaths", "down"),
            ("stopped", "", "unknown"),
        ],
    )
    def test_what_status_says_of_storage(self, state: str, reason: str, wanted: str) -> None:
        assert storage_state([record("storage", "storage", state, reason)]) == {
            "state": wanted,
            "error": reason,
        }
        assert storage_state([])["state"] == "unknown"
