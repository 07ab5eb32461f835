"""A failed run tells one channel once: a file, a web hook, and what happens where there is none."""

import http.server
import json
import threading

import pytest

from mlwb.core.workspace import find_project
from mlwb.run.notify import channel_of, notify
from mlwb.run.record import Run

FAILED = {"cell": 3, "id": "train-fit", "class": "memory", "kind": "MemoryError", "message": "no room for 8 GB", "output": ["reading", "맞추는 중"]}

PASSWORD = "hunter2"


@pytest.fixture
def project(tmp_path):
    (tmp_path / "settings.ini").write_text("[workbench]\nname = demo\ntarget = y\nsource = data.csv\n[run]\nnotify = file:alerts.jsonl\n", encoding="utf-8")
    return find_project(tmp_path)


def past(project, name="20260102-030405-0001", status="failed", **head):
    """A run as its journal tells it."""
    run = Run(project, name)
    run.tell("run", run=name, given=[], **head)
    run.tell("plan", stages=[{"name": "frame"}, {"name": "train"}])
    run.tell("end", stage="frame", status="ok", seconds=1.5)
    run.tell("end", stage="train", **({"status": "failed", "error": FAILED} if status == "failed" else {"status": "ok"}))
    run.tell("finish", status=status, seconds=2.5)
    return run


@pytest.fixture
def hook():
    """A real HTTP server; `hook.received` holds what was posted to it, `hook.answer` is its status."""
    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            server.received.append((self.path, self.headers["Authorization"], json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self.send_response(server.answer)
            self.end_headers()

        def log_message(self, *_): pass
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    server.received, server.answer = [], 200
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_file_gets_one_line_an_invocation(project, capsys):
    runs = [past(project, f"20260102-030405-000{i}", s) for i, s in enumerate(["failed", "done", "failed"])]
    for _ in range(2): notify(project, runs, channel_of(runs[0]), [f"reports/{r.name}.html" for r in runs])
    first, second = map(json.loads, (project.root / "alerts.jsonl").read_text(encoding="utf-8").splitlines())
    assert {**first, "at": ""} == {**second, "at": ""} and first["of"] == 3 and first["title"] == "demo: 2 of 3 runs failed"
    assert [r["run"] for r in first["runs"]] == [runs[0].name, runs[2].name] and first["runs"][1]["report"] == f"reports/{runs[2].name}.html"
    failed = first["runs"][0]["failures"][0]
    assert (failed["stage"], failed["cell"], failed["class"], failed["output"]) == ("train", 4, "memory", ["reading", "맞추는 중"])
    assert capsys.readouterr().err == ""


def test_nothing_failed_nothing_told(project):
    notify(project, [past(project, status="done"), past(project, "20260102-030405-0002", "rejected")], "file:alerts.jsonl")
    assert not (project.root / "alerts.jsonl").exists()


def test_a_web_hook_gets_what_a_person_needs(project, hook, monkeypatch, capsys):
    run = past(project)
    monkeypatch.setenv("HOOK", f"json://me:{PASSWORD}@127.0.0.1:{hook.server_port}/alerts")
    notify(project, [run], "env:HOOK", ["reports/x.html"])
    [(path, authorization, posted)] = hook.received
    assert path == "/alerts" and authorization.startswith("Basic ") and posted["title"] == "demo: the run failed in train"
    for words in (run.name, "cell 4 train-fit", "Class: memory", "MemoryError: no room for 8 GB", "맞추는 중", "reports/x.html", "mlwb run --failed"):
        assert words in posted["message"]
    assert capsys.readouterr().err == ""


def test_in_the_projects_language(project, hook):
    (project.root / "settings.ini").write_text("[workbench]\nname = 수온\ntarget = y\nsource = data.csv\nlanguage = ko\n", encoding="utf-8")
    fresh = find_project(project.root)
    notify(fresh, [past(fresh)], f"json://127.0.0.1:{hook.server_port}/")
    title, message = (hook.received[0][2][k] for k in ("title", "message"))
    assert title == "수온: train 단계에서 실행 실패" and "단계: train (실패), 셀 4 train-fit" in message and "마지막 출력:" in message


def test_secrets_are_masked_in_what_is_sent(project):
    class Mask:
        def any(self, value): return json.loads(json.dumps(value).replace("no room", "[env:ROOM]"))
    notify(project, [past(project)], "file:alerts.jsonl", mask=Mask())
    text = (project.root / "alerts.jsonl").read_text(encoding="utf-8")
    assert "no room" not in text and "[env:ROOM] for 8 GB" in text


@pytest.mark.parametrize("channel, value, words", [
    ("env:HOOK", None, "(env:HOOK): the environment variable HOOK"),
    ("env:HOOK", f"json://me:{PASSWORD}@127.0.0.1:9/x", "(env:HOOK, json): nobody answered"),
    (f"json://me:{PASSWORD}@127.0.0.1:9/x", None, "(json): nobody answered"),
    ("hunter2", None, "(no known kind): apprise does not know"),
    ("env:HOOK", "hunter2://somewhere", "(env:HOOK, "),
    ("file:settings.ini/alerts", None, "(file): "),
], ids=["unset", "unreachable", "unreachable in the open", "no address", "no such service", "no folder"])
def test_a_notice_that_cannot_be_sent_is_one_warning_without_the_address(project, monkeypatch, capsys, channel, value, words):
    if value: monkeypatch.setenv("HOOK", value)
    notify(project, [past(project)], channel)
    said = capsys.readouterr()
    assert said.err.startswith("Warning: the notice about the failed run could not be sent") and words in said.err and said.err.count("\n") == 1
    assert "127.0.0.1" not in said.err + said.out and (channel == "hunter2" or "me:" not in said.err)


def test_a_refusal_is_a_warning(project, hook, capsys):
    hook.answer = 403
    notify(project, [past(project)], f"json://127.0.0.1:{hook.server_port}/")
    assert len(hook.received) == 1 and "(json): nobody answered there, or the notice was refused" in capsys.readouterr().err


def test_without_apprise_the_extra_is_named(project, monkeypatch, capsys):
    import sys
    monkeypatch.setitem(sys.modules, "apprise", None)
    notify(project, [past(project)], "json://127.0.0.1:9/")
    assert 'pip install "mlwb[alerts]"' in capsys.readouterr().err
    notify(project, [past(project)], "file:alerts.jsonl")
    assert (project.root / "alerts.jsonl").exists(), "a file needs no package"
