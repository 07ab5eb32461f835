"""The runner: what runs and what is taken over, what fails and how that is told, and that nothing is left half done."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from mlwb.core.errors import MlwbError, UsageError
from mlwb.core.workspace import Project, publish
from mlwb.run.artifacts import load_artifact
from mlwb.run.cache import because
from mlwb.run.outcome import dry_run, exit_code
from mlwb.run.plan import Asked
from mlwb.run.record import list_runs
from mlwb.run.runner import Quiet, run_pipeline

SETTINGS = "[workbench]\nname = tiny\ntask = classification\ntarget = y\nsource = data.csv\n"


class Tiny:
    """A project of tiny stages: `p.stage("a", "a.save(x=n)")` writes one, `p.run()` runs all."""

    def __init__(self, root: Path):
        self.root, self.processes = root, []
        self.settings("")
        publish(root / "data.csv", "y\n1\n0\n")
        publish(root / "acquisition.yaml", "source: data.csv\n")

    @property
    def project(self): return Project(self.root)

    def settings(self, more): publish(self.root / "settings.ini", SETTINGS + more)

    def stage(self, name, *cells, needs=(), makes=("",), knobs="n: int = 1", number=None, **declared):
        """Write a stage; `makes` defaults to an artifact named like the stage."""
        makes = [name if m == "" else m for m in makes]
        number = number or 10 + 10 * len(list((self.root / "notebooks" / "stages").glob("*.ipynb")))
        old = next(iter((self.root / "notebooks" / "stages").glob(f"*_{name}.ipynb")), None)
        more = "".join(f", {k}={v!r}" for k, v in declared.items())
        declared = f"import mlwb\nstage = mlwb.stage({name!r}, needs={list(needs)!r}, produces={makes!r}{more})"
        sources = [knobs, declared, *cells, f"stage.verdict('{name} is done')"]
        nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in sources])
        nb.cells[0].metadata["tags"] = ["parameters"]
        path = old or self.root / "notebooks" / "stages" / f"{number}_{name}.ipynb"
        publish(path, nbformat.writes(nb))
        return path

    def run(self, listener=None, **asked):
        [run] = run_pipeline(self.project, Asked(**asked), listener)
        return run

    def chain(self):
        self.stage("a", "stage.save(a=n)")
        self.stage("b", "stage.save(b=stage.load('a') > 0)", needs=["a"])
        self.stage("c", "stage.save(c=stage.load('b'))", needs=["b"])


@pytest.fixture
def tiny(tmp_path):
    project = Tiny(tmp_path.resolve())
    yield project
    for process in project.processes:  # of a test that has failed
        if process.poll() is None: process.kill()


def statuses(run): return {s["name"]: s["status"] for s in run.record()["stages"]}
def reasons(run): return {s["name"]: because(s["reason"]) for s in run.record()["stages"]}
def error(run, stage): return next(s["error"] for s in run.record()["stages"] if s["name"] == stage)


class TestCache:
    def test_nothing_changed(self, tiny):
        tiny.chain()
        first, second = tiny.run(), tiny.run()
        assert set(statuses(first).values()) == {"ok"} and set(statuses(second).values()) == {"cached"}
        assert reasons(second)["a"] == f"unchanged since {first.name}" and load_artifact(second, "c") is True
        assert set(statuses(tiny.run(force=True)).values()) == {"ok"}

    def test_an_output_that_comes_out_the_same_stops_the_cascade(self, tiny):
        tiny.chain()
        tiny.run()
        run = tiny.run(given=("a.n=2",))  # b is still True
        assert statuses(run) == {"a": "ok", "b": "ok", "c": "cached"} and reasons(run)["a"] == "n: 1 → 2" and reasons(run)["b"] == "a changed"
        assert set(statuses(tiny.run()).values()) == {"cached"}  # back to an older execution, not only the last one

    def test_prose_comments_and_layout_cost_nothing(self, tiny):
        tiny.chain()
        tiny.run()
        tiny.stage("a", "# a remark\nstage.save( a = n )", knobs="n: int = 1   # how many")
        assert statuses(tiny.run())["a"] == "cached"
        tiny.stage("a", "stage.save(a=n + 1)")
        assert reasons(tiny.run())["a"] == "its code changed"

    def test_a_default_and_the_same_value_given_are_the_same(self, tiny):
        tiny.chain()
        tiny.run(given=("a.n=5",))
        tiny.stage("a", "stage.save(a=n)", knobs="n: int = 5")
        assert set(statuses(tiny.run()).values()) == {"cached"}

    def test_what_nobody_declared_is_seen(self, tiny):
        folder = tiny.root / "notebooks" / "stages"
        publish(folder / "helper.py", "FACTOR = 2\n")
        publish(tiny.root / "lookup.txt", "3")
        tiny.stage("a", "import helper\nstage.save(a=helper.FACTOR * int(open('../../lookup.txt').read()))")
        assert load_artifact(tiny.run(), "a") == 6 and statuses(tiny.run())["a"] == "cached"
        publish(folder / "helper.py", "FACTOR = 5\n")
        run = tiny.run()
        assert load_artifact(run, "a") == 15 and "helper.py changed" in reasons(run)["a"]
        publish(tiny.root / "lookup.txt", "4")
        run = tiny.run()
        assert load_artifact(run, "a") == 20 and reasons(run)["a"] == "lookup.txt changed"
        (tiny.root / "lookup.txt").unlink()
        assert statuses(tiny.run())["a"] == "failed"

    def test_only_the_facts_that_were_read_count(self, tiny):
        tiny.stage("a", "stage.save(a=stage.settings.target)")
        tiny.run()
        tiny.settings("time = when\n")
        assert statuses(tiny.run())["a"] == "cached"
        publish(tiny.root / "settings.ini", SETTINGS.replace("target = y", "target = late"))
        run = tiny.run()
        assert load_artifact(run, "a") == "late" and reasons(run)["a"] == "target: 'y' → 'late'"

    def test_a_file_of_the_same_size_and_time_is_noticed(self, tiny):
        tiny.stage("a", "stage.save(a=open('../../data.csv').read())", reads=["source"])
        tiny.run()
        path = tiny.root / "data.csv"
        stat = path.stat()
        path.write_text("y\n0\n1\n")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert path.stat().st_size == stat.st_size
        run = tiny.run()
        assert statuses(run)["a"] == "ok" and "source changed" in reasons(run)["a"]

    def test_a_changed_package_is_named(self, tiny, monkeypatch):
        tiny.stage("a", "import yaml\nstage.save(a=n)")
        run = tiny.run()
        trace = run.record()["stages"][0]["trace"]
        assert trace["package:PyYAML"] and "mlwb/run/stage.py" in {k.partition(":")[2] for k in trace if k.startswith("module:")}
        import mlwb.run.cache as cache
        monkeypatch.setattr(cache, "_version", lambda d: "99.0" if d == "PyYAML" else trace.get(f"package:{d}", ""))
        assert reasons(tiny.run())["a"] == f"PyYAML: {trace['package:PyYAML']} → 99.0"

    def test_a_source_that_changes_while_it_is_read_is_not_trusted(self, tiny):
        tiny.stage("a", "open('../../data.csv', 'a').write('1\\n')\nstage.save(a=1)", reads=["source"])
        tiny.run()
        assert statuses(tiny.run())["a"] == "ok"

    def test_a_notebook_that_is_edited_while_it_waits_is_known_by_what_ran(self, tiny):
        a = tiny.stage("a", "stage.save(a=n)")
        class Edits(Quiet):
            def start(self, run, stage, reason): tiny.stage("a", "stage.save(a=n + 1)")
        run = tiny.run(Edits())
        assert a.is_file() and load_artifact(run, "a") == 2 and statuses(tiny.run())["a"] == "cached"
        tiny.stage("a", "stage.save(a=n)")
        assert statuses(tiny.run())["a"] == "ok"

    def test_an_artifact_that_was_touched_is_made_again(self, tiny):
        tiny.chain()
        run = tiny.run()
        path = run.path / "artifacts" / run.stage_record("b")["outputs"]["b"]["file"]
        path.unlink()
        publish(path, "false\n")
        again = tiny.run()
        assert statuses(again) == {"a": "cached", "b": "ok", "c": "cached"} and load_artifact(again, "b") is True

    def test_a_stage_may_refuse_to_be_cached(self, tiny):
        tiny.stage("a", "stage.save(a=n)", cache=False)
        tiny.run()
        run = tiny.run()
        assert statuses(run)["a"] == "ok" and "must not be cached" in reasons(run)["a"]

    def test_a_rejection_is_remembered(self, tiny):
        path = tiny.stage("a", "stage.save(a=n)")
        publish(path, path.read_text().replace("stage.verdict('a is done')", "stage.verdict('no', rejected=True)"))
        tiny.stage("b", "stage.save(b=stage.load('a'))", needs=["a"])
        for status in ("ok", "cached"):
            run = tiny.run()
            assert statuses(run) == {"a": status, "b": "skipped"} and exit_code(run) == 3 and run.record()["status"] == "rejected"

    def test_a_dry_run_says_why_and_does_nothing(self, tiny):
        tiny.chain()
        [plan] = dry_run(tiny.project)
        assert [s["would"] for s in plan["stages"]] == ["run", "depends", "depends"] and not list_runs(tiny.project)
        tiny.run()
        [plan] = dry_run(tiny.project, Asked(given=("b.n=7",)))
        assert [(s["would"], s["reason"]) for s in plan["stages"]][1:] == [("run", "n: 1 → 7"), ("depends", "on what b will put out")]
        assert len(list_runs(tiny.project)) == 1


class TestScope:
    def test_only(self, tiny):
        tiny.chain()
        with pytest.raises(MlwbError, match="no run has made that yet. Run those first: mlwb run --until b"): tiny.run(only="b")
        assert not list_runs(tiny.project)
        tiny.run()
        run = tiny.run(only="b", given=("b.n=2",))
        assert statuses(run) == {"a": "cached", "b": "ok", "c": "not-run"} and run.record()["status"] == "done" and exit_code(run) == 0
        run = tiny.run(only="b", given=("a.n=9", "b.n=3"))  # a as it is, and it says so
        assert statuses(run)["a"] == "cached" and "as it is" in reasons(run)["a"] and "n: 1 → 9" in reasons(run)["a"]

    def test_from_and_until(self, tiny):
        tiny.chain()
        run = tiny.run(until="b")
        assert statuses(run) == {"a": "ok", "b": "ok", "c": "not-run"} and reasons(run)["c"] == "it was not asked for"
        run = tiny.run(start="b", given=("b.n=2",))
        assert statuses(run) == {"a": "cached", "b": "ok", "c": "ok"}
        run = tiny.run(start="b", until="b", force=True)
        assert statuses(run) == {"a": "cached", "b": "ok", "c": "not-run"}

    def test_a_part_of_a_pipeline_is_no_base_for_a_draft(self, tiny):
        from mlwb.run.record import latest
        tiny.chain()
        whole = tiny.run()
        tiny.run(until="a")
        assert latest(tiny.project) == whole

    def test_grid(self, tiny):
        tiny.chain()
        runs = run_pipeline(tiny.project, Asked(grid=("a.n=1,2", "c.n=5,6")))
        assert [r.head()["given"] for r in runs] == [["a.n=1", "c.n=5"], ["a.n=1", "c.n=6"], ["a.n=2", "c.n=5"], ["a.n=2", "c.n=6"]]
        assert [load_artifact(r, "a") for r in runs] == [1, 1, 2, 2] and {r.record()["status"] for r in runs} == {"done"}
        assert sorted(statuses(r)["a"] for r in runs) == ["cached", "cached", "ok", "ok"]  # made once for both

    def test_a_grid_writes_outside_in_order(self, tiny):
        tiny.stage("a", "stage.save(a=n)")
        code = "path = stage.project.root / 'shared.txt'\nbefore = path.read_text() if path.exists() else ''\n" \
               "path.write_text(before + str(stage.load('a')))\nstage.save(b=before)"
        tiny.stage("b", code, needs=["a"], reads=["file:shared.txt"], writes=["file:shared.txt"])
        runs = run_pipeline(tiny.project, Asked(grid=("a.n=1,2,3",)))
        assert [load_artifact(r, "b") for r in runs] == ["", "1", "12"]


class TestFailures:
    def test_one_failing_branch_does_not_stop_the_others(self, tiny):
        tiny.stage("a", "stage.save(a=n)")
        tiny.stage("bad", "1 / 0", needs=["a"])
        tiny.stage("after", "stage.save(after=1)", needs=["bad"])
        tiny.stage("good", "import time; time.sleep(.5)\nstage.save(good=1)", needs=["a"])
        run = tiny.run()
        assert statuses(run) == {"a": "ok", "bad": "failed", "after": "not-run", "good": "ok"} and reasons(run)["after"] == "bad failed"
        assert exit_code(run) == 1 and error(run, "bad")["cell"] == 2 and error(run, "bad")["kind"] == "ZeroDivisionError"

    @pytest.mark.parametrize("code, status, kind", [
        ("import sys; sys.exit(0)", "failed", "SystemExit"), ("raise SystemExit", "failed", "SystemExit"),
        ("x = bytearray(1 << 60)", "failed", "MemoryError"), ("def broken(:", "failed", "SyntaxError")])
    def test_a_cell_that_ends_badly(self, tiny, code, status, kind):
        tiny.stage("a", code, "stage.save(a=n)")
        run = tiny.run()
        assert statuses(run)["a"] == status, error(run, "a")
        assert error(run, "a")["kind"] == kind
        assert not run.stage_record("a").get("complete")

    def test_a_killed_kernel_is_tried_again_and_named(self, tiny):
        tiny.settings("\n[run]\nretries = died 0\n")
        tiny.stage("a", "import os, time; print('before', flush=True); time.sleep(.5); os.kill(os.getpid(), 9)", "stage.save(a=n)")
        run = tiny.run()
        assert statuses(run)["a"] == "killed" and error(run, "a")["signal"] == "SIGKILL" and error(run, "a")["class"] in ("died", "memory")
        assert error(run, "a")["cell"] == 2 and error(run, "a")["output"] == ["before"]
        states = {c["cell"]: c["state"] for c in run.record()["stages"][0]["cells"]}
        assert states[1] == "ok" and 3 not in states
        nb = nbformat.read(run.notebooks / "10_a.ipynb", 4)
        assert not nb.metadata["mlwb"]["done"] and set(nb.metadata["mlwb"]["cells"].values()) == {"ok", "killed", "not-run"}
        tiny.settings("\n[run]\nretries = died 1\n")
        once = "from pathlib import Path\nimport os\nmark = stage.project.root / 'mark'\nif not mark.exists(): mark.write_text(''); os.kill(os.getpid(), 11)"
        tiny.stage("a", once, "stage.save(a=n)")
        run = tiny.run()
        assert statuses(run)["a"] == "ok" and run.record()["stages"][0]["attempt"] == 2
        retry = next(e for e in run.events() if e["event"] == "retry")
        assert retry["error"]["signal"] == "SIGSEGV" and retry["error"]["class"] == "died"

    def test_timeout(self, tiny):
        tiny.settings("\n[run]\ntimeout = 1 s\n")
        tiny.stage("a", "import time\nprint('waiting', flush=True)\ntime.sleep(60)", "stage.save(a=n)")
        start = time.monotonic()
        run = tiny.run()
        assert time.monotonic() - start < 20 and statuses(run)["a"] == "timeout" and error(run, "a")["output"] == ["waiting"]
        assert "after 1 seconds" in error(run, "a")["message"]
        stubborn = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" \
                   "for _ in range(600): time.sleep(.1)"
        tiny.stage("a", stubborn, "stage.save(a=n)", timeout=1)
        run = tiny.run()
        assert statuses(run)["a"] == "timeout" and error(run, "a")["class"] == "timeout"

    def test_a_timeout_in_the_notebook_beats_that_in_the_settings(self, tiny):
        tiny.settings("\n[run]\ntimeout = 1 s\n")
        tiny.stage("a", "import time; time.sleep(2)\nstage.save(a=n)", timeout=30)
        assert statuses(tiny.run())["a"] == "ok"

    def test_without_a_verdict_it_is_not_done(self, tiny):
        path = tiny.stage("a", "stage.save(a=n)")
        publish(path, path.read_text().replace("stage.verdict('a is done')", "1"))
        assert "without its verdict" in error(tiny.run(), "a")["message"]

    def test_a_cell_that_is_expected_to_raise(self, tiny):
        path = tiny.stage("a", "1 / 0", "stage.save(a=n)")
        nb = nbformat.read(path, 4)
        nb.cells[2].metadata["tags"] = ["raises-exception"]
        publish(path, nbformat.writes(nb))
        assert statuses(tiny.run())["a"] == "ok"

    def test_the_sources_stay_as_they_are(self, tiny):
        tiny.chain()
        before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in (tiny.root / "notebooks" / "stages").iterdir()}
        tiny.run(given=("a.n=3",))
        assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in (tiny.root / "notebooks" / "stages").iterdir()} == before

    def test_what_a_stage_used_is_known(self, tiny):
        tiny.stage("a", "x = bytearray(300_000_000)\nsum(range(5_000_000))\nstage.save(a=n)")
        s = tiny.run().record()["stages"][0]
        assert s["memory"] > 300_000_000 and s["cpu"] > .05 and s["seconds"] > 0 and s["kernel"] in ("warm", "cold")

    def test_bad_settings_are_said_before_anything_runs(self, tiny):
        tiny.chain()
        for more, words in (("[run]\ntimeout = soon\n", "takes a time"), ("[run.ci]\nretries = dead 1\n", "Did you mean 'died'"),
                            ("[run]\ntimeout.x = 5\n", "There is no stage"), ("[run.ci]\na.m = 5\n", "There is no parameter")):
            tiny.settings("\n" + more)
            with pytest.raises(UsageError, match=words): tiny.run()
        assert not list_runs(tiny.project)


class TestResume:
    def test_going_on_where_it_failed(self, tiny):
        tiny.chain()
        tiny.stage("b", "assert (stage.project.root / 'fixed').exists()\nstage.save(b=1)", needs=["a"])
        run = tiny.run(given=("a.n=4",))
        assert statuses(run) == {"a": "ok", "b": "failed", "c": "not-run"}
        publish(tiny.root / "fixed", "")
        again = tiny.run(failed=True)
        assert again == run and statuses(run) == {"a": "ok", "b": "ok", "c": "ok"} and run.record()["status"] == "done" and run.record()["resumed"] == 1
        assert [e["event"] for e in run.events() if e["event"] == "start" and e["stage"] == "a"] == ["start"] and load_artifact(run, "a") == 4
        assert run_pipeline(tiny.project, Asked(failed=True)) == []

    def test_an_outside_that_changed_meanwhile_does_not_undo_what_was_done(self, tiny):
        tiny.stage("a", "stage.save(a=open('../../data.csv').read())", reads=["file:data.csv"])
        tiny.stage("b", "assert (stage.project.root / 'fixed').exists()\nstage.save(b=1)", needs=["a"])
        run = tiny.run()
        publish(tiny.root / "fixed", "")
        tiny.run(failed=True)
        assert load_artifact(run, "a") == "y\n1\n0\n"

    def test_a_stage_that_was_mended_meanwhile_runs_again(self, tiny):
        tiny.chain()
        tiny.stage("c", "1 / 0", needs=["b"])
        run = tiny.run()
        tiny.stage("a", "stage.save(a=n + 6)")
        tiny.stage("c", "stage.save(c=stage.load('b'))", needs=["b"])
        tiny.run(failed=True)
        assert statuses(run) == {"a": "ok", "b": "ok", "c": "ok"} and load_artifact(run, "a") == 7

    def test_nothing_recorded_means_a_fresh_run(self, tiny):
        tiny.chain()
        run = tiny.run(failed=True)
        assert statuses(run)["c"] == "ok"
        (tiny.project.runs / "29990101-000000-ffff").mkdir()  # killed before its first line
        fresh = tiny.run(failed=True)
        assert fresh != run and statuses(fresh)["c"] == "cached"


class TestSecrets:
    VALUE = "s3cr3t-Päss\"word"

    def leaks(self, tiny):
        """Files under the workspace and reports that hold the value in any form."""
        from mlwb.core.secrets import Mask
        mask = Mask(["TINY_SECRET"], {"TINY_SECRET": self.VALUE})
        files = [p for d in ("workspace", "reports") for p in (tiny.root / d).rglob("*") if p.is_file()]
        return [p.name for p in files if mask.found(p.read_bytes())]

    @pytest.fixture(autouse=True)
    def _value(self, monkeypatch): monkeypatch.setenv("TINY_SECRET", self.VALUE)

    def test_nothing_of_it_reaches_the_disk(self, tiny):
        tiny.stage("a", "secret = mlwb.secret(password)", "print(secret)\nprint(secret[:5], end='', flush=True)\nprint(secret[5:])\nsecret",
                   "import base64\nprint(base64.b64encode(b'user:' + secret.encode()).decode())\n{'url': f'x://u:{secret}@h'}", "stage.save(a=len(secret))",
                   "raise ValueError(f'{secret} was refused')", knobs='password: str = "env:TINY_SECRET"   # a secret')
        run = tiny.run()
        text = (run.notebooks / "10_a.ipynb").read_text()
        assert statuses(run)["a"] == "failed" and "[env:TINY_SECRET] was refused" in error(run, "a")["message"] and text.count("[env:TINY_SECRET]") >= 5
        from mlwb.show.report import write_report
        write_report(run)
        assert not self.leaks(tiny)

    def test_one_that_no_cell_names(self, tiny):
        publish(tiny.root / "notebooks" / "stages" / "access.py", "import mlwb\ndef password(): return mlwb.secret('env:TINY_SECRET')\n")
        tiny.stage("a", "import access\nprint(access.password())\nstage.save(a=n)")
        run = tiny.run()
        assert statuses(run)["a"] == "ok" and "[env:TINY_SECRET]" in (run.notebooks / "10_a.ipynb").read_text() and not self.leaks(tiny)

    def test_an_artifact_that_holds_it_is_refused(self, tiny):
        for code in ("stage.save(a={'token': mlwb.secret('env:TINY_SECRET')})",
                     "import pandas as pd\nstage.save(a=pd.DataFrame({'x': [mlwb.secret('env:TINY_SECRET')]}))"):
            tiny.stage("a", code)
            run = tiny.run()
            assert statuses(run)["a"] == "failed" and "holds the value of env:TINY_SECRET" in error(run, "a")["message"] and not self.leaks(tiny)

    def test_what_is_wrong_with_one_is_said_before_anything_runs(self, tiny, monkeypatch):
        tiny.stage("a", "stage.save(a=n)", knobs='n: int = 1\npassword: str = ""')
        for given, words in (("a.password=env:NO_SUCH", "NO_SUCH is not set"), ("a.password=plain-text-1", "env:NAME")):
            with pytest.raises(MlwbError, match=words) as e: tiny.run(given=(given,))
            assert "plain-text" not in str(e.value)
        monkeypatch.setenv("TINY_SECRET", "abc")
        with pytest.raises(MlwbError, match="fewer than 6"): tiny.run(given=("a.password=env:TINY_SECRET",))
        assert not list_runs(tiny.project)


class TestValues:
    def test_what_papermill_gets_wrong_arrives_as_it_was(self, tiny):
        import datetime

        import numpy as np
        knobs = "n: int = 1\npair: tuple[int, int] = (0, 0)\nday: str = ''\nrate: float = .5\nname: Optional[str] = 'x'\nplace: str = ''\nwords: list[str] = []"
        knobs = knobs.replace("Optional[str]", "str | None")
        tiny.stage("a", "stage.save(a=[n, type(n).__name__, pair, type(pair).__name__, day, rate, name, place, words])", knobs=knobs)
        values = {"a.n": np.int64(7), "a.pair": (3, 4), "a.day": datetime.date(2024, 2, 29), "a.rate": np.float32(.25), "a.name": None,
                  "a.place": Path("data") / "x.csv", "a.words": ["서울", "it's", 'a "b"']}
        run = tiny.run(values=values)
        expected = [7, "int", [3, 4], "tuple", "2024-02-29", .25, None, "data/x.csv", ["서울", "it's", 'a "b"']]
        assert load_artifact(run, "a") == expected
        assert statuses(tiny.run(given=tuple(run.head()["given"])))["a"] == "cached"  # what the journal holds is what was meant

    def test_ranges_hold_before_a_kernel_starts(self, tiny):
        tiny.stage("a", "stage.save(a=n)", knobs="n: int = 1   # rounds, at least 1")
        with pytest.raises(UsageError, match="at least 1"): tiny.run(given=("a.n=0",))
        tiny.stage("a", "stage.save(a=n)", knobs="n: int = 0   # rounds, at least 1")
        with pytest.raises(MlwbError, match="at least 1"): tiny.run()
        assert not list_runs(tiny.project)


RUN = """import sys
from pathlib import Path
from mlwb.core.workspace import Project
from mlwb.run.plan import Asked
from mlwb.run.runner import run_pipeline
run_pipeline(Project(Path(sys.argv[1])), Asked())"""


def started(tiny, *more):
    """A run in a process of its own, once its first stage is at work."""
    process = subprocess.Popen([sys.executable, "-c", RUN, str(tiny.root), *more], start_new_session=True, stderr=subprocess.PIPE)
    tiny.processes.append(process)
    until(lambda: list_runs(tiny.project) and any(e["event"] == "cell" and e["cell"] == 2 for e in list_runs(tiny.project)[0].events()))
    return process, list_runs(tiny.project)[0]


def until(true, seconds=120):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(.02)


def ours(tiny):
    """Processes that belong to a project: a kernel's environment names it, the nursery's does not, so by what they hold open."""
    found = []
    for p in psutil.process_iter(["pid", "cmdline", "status"]):
        try:
            if p.info["status"] == psutil.STATUS_ZOMBIE: continue
            if str(tiny.root) in " ".join(p.info["cmdline"] or []) or p.cwd().startswith(str(tiny.root)): found.append(p)
        except (psutil.NoSuchProcess, psutil.AccessDenied): continue
    return found


class TestKilled:
    SLOW = "import subprocess, sys, time\nchild = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n" \
           "print('at work', flush=True)\ntime.sleep(600 if not (stage.project.root / 'fast').exists() else 0)"

    def slow(self, tiny):
        tiny.stage("a", self.SLOW, "stage.save(a=n)")
        tiny.stage("b", "stage.save(b=stage.load('a'))", needs=["a"])

    @pytest.mark.parametrize("who", ["runner", "group"])
    def test_a_killed_runner_takes_all_with_it(self, tiny, who):
        self.slow(tiny)
        process, run = started(tiny)
        until(lambda: len(ours(tiny)) >= 3)  # the runner, the kernel, what the kernel has started
        os.kill(process.pid, signal.SIGKILL) if who == "runner" else os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        until(lambda: not ours(tiny), 10)
        record = run.record()
        assert record["status"] == "killed" and statuses(run) == {"a": "killed", "b": "not-run"}
        publish(tiny.root / "fast", "")
        assert tiny.run(failed=True) == run and statuses(run) == {"a": "ok", "b": "ok"}

    def test_ctrl_c(self, tiny):
        self.slow(tiny)
        process, run = started(tiny)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(20) != 0 and b"KeyboardInterrupt" in process.stderr.read()
        assert statuses(run) == {"a": "killed", "b": "not-run"} and run.record()["status"] == "failed" and reasons(run)["b"] == "the run was interrupted"
        until(lambda: not ours(tiny), 10)

    def test_two_at_once(self, tiny):
        self.slow(tiny)
        process, run = started(tiny)
        with pytest.raises(MlwbError, match="Another run is at work"): tiny.run()
        assert run.record()["status"] == "running"
        publish(tiny.root / "fast", "")
        said = []
        class Hears(Quiet):
            def say(self, text): said.append(text)
        os.kill(process.pid, signal.SIGINT)
        second = tiny.run(Hears(), wait=60)
        assert "Waiting for it" in said[0] and statuses(second) == {"a": "ok", "b": "ok"}
        process.wait()

    def test_a_kernel_that_was_killed_from_outside(self, tiny):
        tiny.settings("\n[run]\nretries = died 1\n")
        self.slow(tiny)
        process, run = started(tiny)
        publish(tiny.root / "fast", "")
        os.kill(next(e["pid"] for e in run.events() if e["event"] == "start"), signal.SIGKILL)
        assert process.wait(60) == 0 and statuses(run) == {"a": "ok", "b": "ok"}
        until(lambda: not ours(tiny), 10)


class TestParallel:
    def test_side_by_side(self, tiny):
        meet = "from pathlib import Path\nimport time\nhere = stage.project.root\n(here / '{0}').write_text('')\nend = time.time() + 20\n" \
               "while not (here / '{1}').exists() and time.time() < end: time.sleep(.02)\nassert (here / '{1}').exists()\nstage.save({0}=1)"
        tiny.stage("x", meet.format("x", "y"))
        tiny.stage("y", meet.format("y", "x"))
        run = tiny.run(workers=2)
        assert set(statuses(run).values()) == {"ok"}, [(e.get("reason"), (e.get("error") or {}).get("value")) for e in run.events() if e["event"] == "end"]

    def test_one_worker_runs_one_at_a_time(self, tiny):
        for name in "xyz": tiny.stage(name, f"import time; time.sleep(.2)\nstage.save({name}=1)")
        run = tiny.run(workers=1)
        at = 0
        for e in run.events():
            at += {"start": 1, "end": -1}.get(e["event"], 0)
            assert at <= 1

    def test_threads_are_capped(self, tiny, monkeypatch):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        tiny.stage("a", "import os\nstage.save(a=os.environ['OMP_NUM_THREADS'])")
        assert load_artifact(tiny.run(), "a") == str(max(1, os.cpu_count() // 2))


class TestTold:
    def test_document_and_commands(self, tiny, cli):
        tiny.chain()
        done = cli("run", "--json", cwd=tiny.root)
        assert done.returncode == 0, done.stderr
        d = done.json
        assert d["status"] == "done" and [s["name"] for s in d["stages"]] == ["a", "b", "c"] and d["report"]
        runs = cli("runs", "--json", cwd=tiny.root).json["runs"]
        assert [r["run"] for r in runs] == [d["run"]] and runs[0]["status"] == "done" and runs[0]["seconds"] > 0
        show = cli("show", d["run"][:15], "--json", cwd=tiny.root).json
        assert set(show["outputs"]) == {"a/a", "b/b", "c/c"} and show["model"] is None
        dry = cli("run", "--dry-run", "--json", "-p", "c.n=2", cwd=tiny.root).json["runs"][0]["stages"]
        assert [(s["would"]) for s in dry] == ["cached", "cached", "run"]
        failed = cli("run", "--failed", cwd=tiny.root)
        assert failed.returncode == 0 and "Nothing has failed" in failed.stdout
        for args in (("run", "--only", "x"), ("run", "--from", "c", "--until", "a"), ("run", "-p", "a.m=1"), ("show", "zzz")):
            bad = cli(*args, cwd=tiny.root)
            assert bad.returncode == 2 and bad.stderr.startswith("Error:"), bad.stderr

    def test_korean(self, tiny, cli):
        tiny.settings("language = ko\n")
        tiny.stage("a", "stage.save(a={'이름': '서울'})")
        cli("run", cwd=tiny.root)
        done = cli("run", "--json", cwd=tiny.root)
        assert "이후 바뀐 것 없음" in done.json["stages"][0]["reason"]
