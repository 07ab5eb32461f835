"""The runner where things are odd: names that share a file, records that are torn or gone, options that don't go together, orphans."""

import datetime
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import test_runner
from test_runner import error, ours, reasons, started, statuses, until

from mlwb.core.errors import InputError, MlwbError, UsageError
from mlwb.core.workspace import publish
from mlwb.run.artifacts import find_artifact, load_artifact
from mlwb.run.outcome import dry_run
from mlwb.run.plan import Asked, make_plan
from mlwb.run.record import Run, list_runs, new_run

tiny = test_runner.tiny  # the fixture: a project of tiny stages


class TestNames:
    @pytest.mark.parametrize("one, other", [("a", "a-"), ("a", "A"), ("x" * 101, "x" * 100)])
    def test_stages_that_would_share_a_file(self, tiny, one, other):
        tiny.stage(one, "stage.save(m=1)", makes=["m"], number=10)
        tiny.stage(other, "stage.save(k=2)", makes=["k"], number=20)
        with pytest.raises(InputError, match="would be kept in the same file"): make_plan(tiny.project, Asked())

    @pytest.mark.parametrize("one, other", [("m", "m-"), ("m", "M"), ("m" * 101, "m" * 102)])
    def test_artifacts_that_would_share_a_file(self, tiny, one, other):
        tiny.stage("a", "1", makes=[one, other])
        with pytest.raises(InputError, match="artifacts of a .* would be kept in the same file"): make_plan(tiny.project, Asked())

    def test_two_stages_may_use_the_same_name_for_an_artifact_of_each(self, tiny):
        tiny.stage("a", "stage.save(m=1)", makes=["m"])
        tiny.stage("b", "stage.save(M=2)", makes=["M"])
        run = tiny.run()
        assert (load_artifact(run, "m"), load_artifact(run, "M")) == (1, 2)

    def test_runs_are_named_in_the_order_they_are_made(self, tiny):
        made = [new_run(tiny.project) for _ in range(40)]
        assert [r.name for r in made] == sorted(r.name for r in made) and list_runs(tiny.project) == made[::-1]

    def test_a_clock_that_is_set_back(self, tiny, monkeypatch):
        first = new_run(tiny.project)
        class Back(datetime.datetime):
            @classmethod
            def now(cls, tz=None): return super().now(tz) - datetime.timedelta(hours=1)
        with monkeypatch.context() as m:
            m.setattr(datetime, "datetime", Back)
            second = new_run(tiny.project)
        assert second.name > first.name and list_runs(tiny.project) == [second, first]

    def test_many_processes_make_runs_at_once(self, tiny):
        code = "import sys\nfrom pathlib import Path\nfrom mlwb.core.workspace import Project\nfrom mlwb.run.record import new_run\n" \
               "for _ in range(20): new_run(Project(Path(sys.argv[1])))"
        for p in [subprocess.Popen([sys.executable, "-c", code, str(tiny.root)]) for _ in range(3)]: assert p.wait() == 0
        assert len(list_runs(tiny.project)) == 60 and all(len(r.events()) == 1 for r in list_runs(tiny.project))


class TestRecords:
    @pytest.mark.parametrize("text", [None, "", '{"stage": "a", "outputs": {"a": ', "7", "[]", "\0" * 300, b"\xff\xfe{"])
    def test_a_stage_whose_record_is_gone_or_torn_runs_again(self, tiny, text):
        tiny.chain()
        first = tiny.run()
        path = first.path / "stages" / "a.json"
        path.unlink()
        if text is not None: publish(path, text)
        assert first.stage_record("a") == {} and find_artifact(first, "a") is None and find_artifact(first, "b")
        second = tiny.run()
        assert statuses(second) == {"a": "ok", "b": "cached", "c": "cached"} and reasons(second)["a"] == "stages/a.json is gone"
        assert load_artifact(second, "a") == 1 and set(statuses(tiny.run()).values()) == {"cached"}

    def test_it_is_not_taken_as_it_is_either(self, tiny):
        tiny.chain()
        first, second = tiny.run(), tiny.run()
        (second.path / "stages" / "a.json").unlink()
        third = tiny.run(only="b", force=True)
        assert statuses(third) == {"a": "cached", "b": "ok", "c": "not-run"} and load_artifact(third, "a") == 1
        for run in (first, third): (run.path / "stages" / "a.json").unlink()
        with pytest.raises(InputError, match="what a has made, and no run has made that yet"): tiny.run(only="b")

    def test_it_is_not_kept_when_a_run_goes_on(self, tiny):
        tiny.chain()
        tiny.stage("b", "assert (stage.project.root / 'fixed').exists()\nstage.save(b=1)", needs=["a"])
        run = tiny.run()
        (run.path / "stages" / "a.json").unlink()
        publish(tiny.root / "fixed", "")
        tiny.run(failed=True)
        assert set(statuses(run).values()) == {"ok"} and sum(e["event"] == "start" and e["stage"] == "a" for e in run.events()) == 2

    def test_lines_that_are_no_events(self, tiny):
        tiny.chain()
        run = tiny.run()
        before = run.record(), run.head()
        lines = run.journal.read_bytes().splitlines(keepends=True)
        odd = [b"7\n", b"null\n", b"[]\n", b'"at"\n', b"{}\n", b'{"event": "finish", "status": "failed"}\n', b'{"at": "2026-01-01T00:00:00+00:00"}\n',
               b'{"at": 3, "event": "finish"}\n', b'{"at": "x", "event": ["finish"]}\n', b"\xff\xfe\n"]
        run.journal.write_bytes(lines[0] + b"".join(o + l for o, l in zip(odd, [*lines[1:], *[b""] * len(odd)])) + b"".join(lines[1 + len(odd):]))
        assert (run.record(), run.head()) == before
        for first in odd:
            broken = Run(tiny.project, "20200101-000000-0000")
            publish(broken.journal, first)
            assert broken.head() == {} and broken.record() == {} and list_runs(tiny.project) == [run]
        assert set(statuses(tiny.run()).values()) == {"cached"}

    @pytest.mark.parametrize("what", ["runs", "run"])
    def test_a_stage_that_deletes_its_run(self, tiny, cli, what):
        gone = {"runs": "stage.project.runs", "run": "stage.run.path"}[what]
        tiny.stage("a", f"import shutil\nshutil.rmtree({gone})", "stage.save(a=n)")
        tiny.stage("b", "import time; time.sleep(1)\nstage.save(b=n)")
        with pytest.raises(MlwbError, match="journal.jsonl is gone: .* deleted it while the run"): tiny.run()
        done = cli("run", "--json", cwd=tiny.root)
        assert done.returncode == 1 and "Traceback" not in done.stderr and "deleted it while the run" in done.json["error"]
        assert list_runs(tiny.project) == []


class TestAsked:
    def test_failed_goes_on_with_what_that_run_was_asked(self, tiny, cli):
        tiny.chain()
        for more in ({"only": "b"}, {"start": "b"}, {"until": "b"}, {"env": "ci"}, {"grid": ("a.n=1,2",)}, {"force": True}):
            for ask in (tiny.run, lambda **a: dry_run(tiny.project, Asked(**a))):
                with pytest.raises(UsageError, match="--failed goes on with what the latest run was asked to do"): ask(failed=True, **more)
        done = cli("run", "--failed", "--from", "b", "--force", "--json", cwd=tiny.root)
        assert done.returncode == 2 and "--from, --force can't change that" in done.json["error"] and not list_runs(tiny.project)

    @pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
    def test_a_wait_that_is_no_time(self, tiny, cli, seconds):
        tiny.chain()
        with pytest.raises(UsageError, match="--wait takes a number of seconds from 0 on, not"): tiny.run(wait=seconds)
        done = cli("run", f"--wait={seconds}", cwd=tiny.root)
        assert done.returncode == 2 and "--wait takes a number" in done.stderr and not list_runs(tiny.project)

    def test_values_of_a_grid_that_are_the_same_are_one_run(self, tiny):
        tiny.chain()
        assert [p["given"] for p in dry_run(tiny.project, Asked(grid=("a.n=1,01, 2,1",)))] == [["a.n=1"], ["a.n=2"]]

    def test_a_dry_run_where_nothing_has_failed(self, tiny, cli):
        tiny.chain()
        run = tiny.run()
        assert dry_run(tiny.project, Asked(failed=True)) == []
        done = cli("run", "--failed", "--dry-run", cwd=tiny.root)
        assert done.returncode == 0 and done.stdout == f"Nothing has failed in {run.name}: there is nothing to go on with.\n"
        assert cli("run", "--failed", "--dry-run", "--json", cwd=tiny.root).json["runs"] == []

    @pytest.mark.parametrize("how", [{"only": "b"}, {"start": "b"}])
    def test_an_artifact_that_the_earlier_run_did_not_make_yet(self, tiny, how):
        tiny.chain()
        tiny.run()
        tiny.stage("a", "stage.save(a=n, more=2)", makes=["a", "more"])
        assert statuses(tiny.run(until="b", force=True, start="b"))["a"] == "cached"  # which nobody needs: the old result will do
        tiny.stage("b", "stage.save(b=stage.load('more'))", needs=["a", "more"])
        runs = list_runs(tiny.project)
        for ask in (tiny.run, lambda **a: dry_run(tiny.project, Asked(**a))):
            with pytest.raises(InputError, match="The stage 'b' needs 'more' of the stage 'a', whose .* Run 'a' first: mlwb run --until b"): ask(**how)
        assert list_runs(tiny.project) == runs
        assert set(statuses(tiny.run(until="b")).values()) == {"ok", "not-run"} and statuses(tiny.run(**how))["b"] == "cached"

    def test_one_that_a_stage_taken_as_it_is_needs(self, tiny):
        tiny.chain()
        tiny.run()
        tiny.stage("a", "stage.save(a=n, more=2)", makes=["a", "more"])
        tiny.stage("b", "stage.save(b=stage.load('more'))", needs=["a", "more"])
        run = tiny.run(only="c", force=True)
        assert statuses(run) == {"a": "cached", "b": "cached", "c": "ok"} and "more is gone" in reasons(run)["b"]

    def test_a_run_at_work_tells_how_long_it_has_been(self, tiny, cli):
        tiny.stage("a", "import time; time.sleep(600)", "stage.save(a=n)")
        process, run = started(tiny)
        time.sleep(.3)
        show = cli("show", "--json", cwd=tiny.root).json
        process.send_signal(signal.SIGINT)
        process.wait()
        assert show["status"] == "running" and show["stages"][0]["seconds"] > .3


CLI = [str(Path(sys.executable).with_name("mlwb"))]


def begun(tiny, *args, **options):
    """`mlwb run` in a process of its own, once the second cell after the declaration is at work."""
    process = subprocess.Popen([*CLI, "run", *args], cwd=tiny.root, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    until(lambda: any(e["event"] == "cell" and e["cell"] == 2 for r in list_runs(tiny.project) for e in r.events()))
    return process


class TestOneDocument:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_a_run_that_is_stopped(self, tiny, number):
        tiny.stage("a", "import time; time.sleep(600)", "stage.save(a=n)")
        tiny.stage("b", "stage.save(b=stage.load('a'))", needs=["a"])
        process = begun(tiny, "--json")
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        document = json.loads(out)
        assert process.returncode == 130 and document["status"] == "failed" and document["error"] == "Interrupted." and "Interrupted." in err.decode()
        [run] = list_runs(tiny.project)
        assert statuses(run) == {"a": "killed", "b": "not-run"} and run.record()["status"] == "failed"
        until(lambda: not ours(tiny), 10)

    @pytest.mark.parametrize("args, code, words", [
        (("--no-such-option",), 2, "No such option"), (("--workers", "-1"), 2, "--workers"), (("--wait", "soon"), 2, "--wait"),
        (("--only", "x"), 2, "There is no stage"), (("extra",), 2, "unexpected extra argument")])
    def test_bad_usage(self, tiny, cli, args, code, words):
        tiny.chain()
        done = cli("run", *args, "--json", cwd=tiny.root)
        assert done.returncode == code and done.json["status"] == "failed" and words in done.json["error"] and words in done.stderr

    def test_what_nobody_foresaw(self, tiny, monkeypatch):
        tiny.chain()
        code = "import sys; from mlwb import cli; import mlwb.run.plan as plan\ndef broken(*a): raise ZeroDivisionError('odd')\n" \
               "plan.check_defaults = broken; sys.argv = ['mlwb', 'run'] + sys.argv[1:]; cli.main()"
        for more in ((), ("--json",)):
            done = subprocess.run([sys.executable, "-c", code, *more], cwd=tiny.root, capture_output=True, text=True)
            assert done.returncode == 1 and "Traceback" in done.stderr and "ZeroDivisionError: odd" in done.stderr
            assert done.stdout == "" if not more else json.loads(done.stdout) == {"status": "failed", "error": "ZeroDivisionError: odd"}

    def test_a_document_that_is_out_stays_the_only_one(self, tiny):
        tiny.chain()
        code = "import sys; from mlwb import cli\nreal = cli._account\ndef late(*a): real(*a); raise KeyboardInterrupt\n" \
               "cli._account = late; sys.argv = ['mlwb', 'run', '--json']; cli.main()"
        done = subprocess.run([sys.executable, "-c", code], cwd=tiny.root, capture_output=True, text=True)
        assert done.returncode == 130 and json.loads(done.stdout)["status"] == "done"


class TestHangUp:
    def test_a_terminal_that_closes(self, tiny):
        import pty
        tiny.stage("a", "import time; time.sleep(600)", "stage.save(a=n)")
        tiny.stage("b", "stage.save(b=stage.load('a'))", needs=["a"])
        pid, terminal = pty.fork()
        if not pid:
            os.chdir(tiny.root)
            os.execv(CLI[0], [*CLI, "run"])
        until(lambda: any(e["event"] == "cell" and e["cell"] == 2 for r in list_runs(tiny.project) for e in r.events()))
        os.close(terminal)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
        [run] = list_runs(tiny.project)
        assert statuses(run) == {"a": "killed", "b": "not-run"} and run.record()["status"] == "failed" and reasons(run)["b"] == "the run was interrupted"
        until(lambda: not ours(tiny), 10)

    def test_nohup(self, tiny):
        tiny.stage("a", "import time; time.sleep(1)", "stage.save(a=n)")
        process = begun(tiny, "--json", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
        process.send_signal(signal.SIGHUP)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0 and json.loads(out)["status"] == "done"


class TestKernel:
    @pytest.mark.parametrize("code", ["'\\udc80'", "'\\ud800'"])
    def test_a_text_that_is_no_unicode(self, tiny, cli, code):
        tiny.stage("a", f"raise ValueError('before ' + {code} + ' after')", "stage.save(a=n)")
        path = tiny.stage("b", f"print('seen', {code})\nstage.save(b=n)")
        publish(path, path.read_text().replace("'b is done'", f"'verdict ' + {code}".replace("\\", "\\\\")))
        done = cli("run", "--json", cwd=tiny.root)
        [run] = list_runs(tiny.project)
        assert statuses(run) == {"a": "failed", "b": "ok"} and error(run, "a")["kind"] == "ValueError"
        message = done.json["stages"][0]["error"]["message"]
        assert message.startswith("before ") and message.endswith(" after") and len(message) == 14 and message in done.stderr
        assert done.json["stages"][1]["verdict"] == "verdict ?" and run.record()["stages"][1]["output"][0].startswith("seen ")
        for p in (run.journal, run.path / "stages" / "b.json", run.notebooks / "10_a.ipynb", tiny.root / "reports" / f"{run.name}.html"):
            assert p.read_bytes().decode()  # whole, and UTF-8
        assert message in (tiny.root / "reports" / f"{run.name}.html").read_text() and "before" in cli("show", cwd=tiny.root).stdout
        assert statuses(tiny.run())["b"] == "cached"

    def test_a_file_whose_name_is_no_unicode_is_known_again(self, tiny):
        name = "x\udc80.txt"
        (tiny.root / name).write_text("3")
        tiny.stage("a", "stage.save(a=int(open('../../x\\udc80.txt').read()))")
        assert load_artifact(tiny.run(), "a") == 3 and statuses(tiny.run())["a"] == "cached"
        (tiny.root / name).write_text("4")
        assert load_artifact(tiny.run(), "a") == 4

    @pytest.mark.parametrize("code", ["quit()", "exit()", "import time; exit(); time.sleep(.5)"])
    def test_a_notebook_that_ends_its_kernel(self, tiny, code):
        tiny.stage("a", code, "stage.save(a=n)")
        run = tiny.run()
        assert statuses(run)["a"] == "failed" and error(run, "a")["cell"] == 2 and error(run, "a")["kind"] == "SystemExit"
        assert "the notebook ended its kernel" in error(run, "a")["message"] and not any(e["event"] == "retry" for e in run.events())

    def test_what_every_kernel_says_is_no_news(self, tiny):
        tiny.settings("\n[run]\nretries = died 0\n")
        tiny.stage("a", "import os; os.write(2, b'the end\\n'); os._exit(3)", "stage.save(a=n)")
        assert error(tiny.run(), "a")["message"] == "the kernel died with exit code 3: the end"


LONG = "import subprocess, sys, time\ncode = 'import time; time.sleep(600)'\n" \
       "a = subprocess.Popen([sys.executable, '-c', code], start_new_session=True)\n" \
       "nested = f'import os, subprocess, sys\\nos.setsid()\\nsubprocess.Popen([sys.executable, \"-c\", {code!r}], start_new_session=True)'\n" \
       "b = subprocess.Popen([sys.executable, '-c', nested]); b.wait()  # and an orphan\n"


class TestOrphans:
    def test_what_a_stage_has_started_ends_with_it(self, tiny):
        tiny.stage("a", LONG + "stage.save(a=n)")
        other = "import subprocess, sys, time\nchild = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n" \
                "done, end = stage.run.path / 'stages' / 'a.json', time.time() + 30\nwhile not done.exists() and time.time() < end: time.sleep(.05)\n" \
                "time.sleep(1)\nstage.save(b=child.poll())"
        tiny.stage("b", other)
        run = tiny.run(workers=2)
        assert set(statuses(run).values()) == {"ok"} and load_artifact(run, "b") is None  # one that another kernel has started lives on
        until(lambda: not [p for p in ours(tiny) if p.pid != os.getpid()], 10)

    @pytest.mark.parametrize("who", ["kernel", "runner", "nursery"])
    def test_whoever_is_killed(self, tiny, who):
        tiny.settings("\n[run]\nretries = died 0\n")
        tiny.stage("a", LONG + "print('at work', flush=True)\ntime.sleep(600)", "stage.save(a=n)")
        process, run = started(tiny)
        until(lambda: sum("time.sleep(600)" in " ".join(p.info["cmdline"]) for p in ours(tiny)) == 2)
        kernel = psutil.Process(next(e["pid"] for e in run.events() if e["event"] == "start"))
        os.kill({"kernel": kernel.pid, "runner": process.pid, "nursery": kernel.ppid()}[who], signal.SIGKILL)
        process.wait(60)
        until(lambda: not ours(tiny), 10)

    def test_runner_and_nursery_killed_together(self, tiny):
        tiny.stage("a", LONG + "print('at work', flush=True)\ntime.sleep(600)", "stage.save(a=n)")
        process, run = started(tiny)
        until(lambda: sum("time.sleep(600)" in " ".join(p.info["cmdline"]) for p in ours(tiny)) == 2)
        kernel = psutil.Process(next(e["pid"] for e in run.events() if e["event"] == "start"))
        nursery = kernel.ppid()
        psutil.Process(process.pid).suspend(), psutil.Process(nursery).suspend()
        for pid in (process.pid, nursery): os.kill(pid, signal.SIGKILL)
        process.wait()
        until(lambda: not kernel.is_running() or kernel.status() == psutil.STATUS_ZOMBIE, 10)
        assert len(ours(tiny)) == 2  # nobody was left to kill them
        tiny.stage("a", "stage.save(a=n)")
        assert statuses(tiny.run())["a"] == "ok"
        until(lambda: not [p for p in ours(tiny) if p.pid != os.getpid()], 10)

    def test_where_nothing_can_be_forked(self, tiny, monkeypatch):
        from mlwb.run.kernels import Kernels
        real = Kernels.start
        def start(self, preload=()):
            self.odd = "for the test"
            return real(self, preload)
        monkeypatch.setattr(Kernels, "start", start)
        tiny.stage("a", LONG + "stage.save(a=n)")
        assert statuses(tiny.run())["a"] == "ok"
        until(lambda: not [p for p in ours(tiny) if p.pid != os.getpid()], 10)


def test_a_reply_that_comes_while_an_output_widget_is_answered(tiny, monkeypatch):
    """nbclient answers an output widget on the socket that it waits at; the reply of the cell must not go unnoticed then."""
    from nbclient.output_widget import OutputWidget
    send, sent = OutputWidget.send, []
    def late(self, *args, **kw): time.sleep(.5); sent.append(1); return send(self, *args, **kw)  # the reply is there by now
    monkeypatch.setattr(OutputWidget, "send", late)
    tiny.stage("a", "import ipywidgets as w\no = w.Output()\nwith o:\n    print('x', flush=True)\no", "stage.save(a=n)", "stage.verdict('done')")
    run = tiny.run()
    assert statuses(run) == {"a": "ok"} and sent
