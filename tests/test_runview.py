"""How a run went, from its journal to the view: real runs of a small pipeline, and all that can become of a stage."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from mlwb.core.messages import msg
from mlwb.core.workspace import Project, find_project
from mlwb.run.plan import Asked
from mlwb.run.record import Run, list_runs
from mlwb.run.runlog import RunLog, Span, StageLog, run_log
from mlwb.run.runner import run_pipeline
from mlwb.show.report import write_report
from mlwb.show.runview import STAGE_WORDS, RunView, scale, sentence
from mlwb.show.views import view


def stage(root, no, name, needs, *work, params="pause: float = 0.0   # seconds"):
    """A stage notebook that does `work` and saves an artifact of its own name."""
    cells = [nbformat.v4.new_markdown_cell(f"# {no} · {name.title()} — does its work"), nbformat.v4.new_code_cell(params, metadata={"tags": ["parameters"]})]
    code = [f"import time, mlwb\nstage = mlwb.stage({name!r}, needs={needs!r}, produces=[{name!r}])", *work,
            f"stage.save({name}={{'n': 1}})\nstage.verdict('{name} is done')"]
    cells += [nbformat.v4.new_code_cell(c) for c in code]
    for c, part in zip(cells, ["title", "parameters", "begin", *[f"work-{i}" for i in range(len(work))], "end"]): c.id = f"{name}-{part}"
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), root / "notebooks" / "stages" / f"{no}_{name}.ipynb")


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """first → second → third, and aside beside them."""
    root = tmp_path_factory.mktemp("small")
    (root / "notebooks" / "stages").mkdir(parents=True)
    (root / "settings.ini").write_text("[workbench]\nname = small\ntarget = y\nsource = data.csv\n[run.once]\nretries = error 1\n", encoding="utf-8")
    stage(root, 10, "first", [], "import polars as pl\nmlwb.explore(pl.DataFrame({'temp': [14.5, 15.0, 16.2]}))")
    how = "how: str = ''   # error, kill, or empty\npause: float = 0.0   # seconds"
    breaks = ["print('line 1\\nline 2')", "if how == 'error': raise ValueError('<b>no</b> rows 없음')",
              "import os", "if how == 'kill': os.kill(os.getpid(), 9)", "time.sleep(pause)"]
    stage(root, 20, "second", ["first"], "\n".join(breaks), params=how)
    stage(root, 30, "third", ["second"])
    stage(root, 40, "aside", ["first"])
    return find_project(root)


def run(project, *given, **asked): return run_pipeline(project, Asked(given=given, **asked))[0]


@pytest.fixture(scope="module")
def runs(project) -> dict:
    """name → a run of that kind, all real."""
    found = {"ok": run(project), "cached": run(project)}
    found["failed"] = run(project, "second.how=error", env="once")
    found["killed"] = run(project, "second.how=kill")
    return found


def by_name(log): return {s.name: s for s in log.stages}


def test_a_run_that_went_well(runs):
    log = run_log(runs["ok"])
    assert log.status == "done" and [s.status for s in log.stages] == ["ok"] * 4 and RunLog.from_json(log.to_json()) == log
    for s in log.stages:
        [span] = s.spans
        assert 0 <= span.start < span.ready < span.end <= log.seconds and s.cpu > 0 and s.memory > 1e7
        assert [c["state"] for c in s.cells] == ["ok"] * (4 if s.name in ("first", "second") else 3)
    first, second = by_name(log)["first"], by_name(log)["second"]
    assert second.spans[0].start >= first.spans[0].end and str(sentence(log)).startswith("All 4 stages ran, in ")
    assert str(RunView(log).html()).count('class="lane"') == 4


def test_a_run_in_which_nothing_had_changed(runs):
    log = run_log(runs["cached"])
    assert [s.status for s in log.stages] == ["cached"] * 4 and not any(s.spans for s in log.stages) and all(0 <= s.at <= log.seconds for s in log.stages)
    assert str(sentence(log)).startswith("Nothing had changed: all 4 stages were taken over")
    html = RunView(log).html()
    assert f"Why: unchanged since {runs['ok'].name}" in html and 'class="why"' not in html, "one reason for all is said once"


def test_a_stage_that_failed_twice(runs):
    log = run_log(runs["failed"])
    s = by_name(log)["second"]
    assert log.status == "failed" and [(p.attempt, p.status) for p in s.spans] == [(1, "failed"), (2, "failed")] and s.spans[1].start > s.spans[0].end + 1
    assert [c["state"] for c in s.cells] == ["ok", "ok", "failed", "not-run"] and s.error["output"] == ["line 1", "line 2"] and s.error["cell"] == 3
    assert str(sentence(log)) == "second, cell 4: ValueError: <b>no</b> rows 없음. Not run because of it: third"
    html = str(RunView(log).html())
    assert '<details data-item="second" class="" open>' in html and "line 2" in html and "&lt;b&gt;no&lt;/b&gt;" in html and "<b>no</b>" not in html
    assert by_name(log)["aside"].status == "cached", "what does not depend on it is not stopped by it"


def test_a_kernel_that_was_killed(runs):
    s = by_name(run_log(runs["killed"]))["second"]
    assert s.status == "killed" and [p.status for p in s.spans] == ["killed", "killed"] and s.error["signal"] == "SIGKILL"
    assert [c["state"] for c in s.cells] == ["ok", "ok", "killed", "not-run"]
    assert "the kernel died · SIGKILL" in RunView(run_log(runs["killed"])).html()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_seen_at_work_then_killed_then_gone_on_with(project, runs):
    code = f"from mlwb.core.workspace import Project; from pathlib import Path; from mlwb.run.runner import run_pipeline; from mlwb.run.plan import Asked\n" \
           f"run_pipeline(Project(Path({str(project.root)!r})), Asked(given=('second.pause=30',)))"
    before = {r.name for r in list_runs(project)}
    runner = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "MLWB_RUN": ""})
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            new = [r for r in list_runs(project) if r.name not in before]
            log = run_log(new[0]) if new else None
            if log and (s := by_name(log).get("second")) and s.status == "running" and len(s.cells) == 3: break
            time.sleep(.1)
        assert log.status == "running" and s.cells[-1]["state"] == "running" and s.spans[0].end == log.seconds and "at work: second" in str(sentence(log))
        shown = RunView(log, data=new[0])
        assert "Look again" in shown._repr_html_() or shown.answer({"ask": "again"})["replace"]
    finally:
        os.kill(runner.pid, signal.SIGKILL)
        runner.wait()
    time.sleep(.2)
    log = run_log(new[0])
    assert (log.status, by_name(log)["second"].status, by_name(log)["second"].cells[-1]["state"]) == ("killed", "killed", "killed")
    assert "killed" in shown.answer({"ask": "again"})["replace"] and shown.result.status == "killed", "looking again reads the journal again"
    again = run(project, "second.pause=0.1", failed=True)
    log = run_log(again)
    assert again.name == new[0].name and log.status == "done" and len(log.stops) == 1
    assert [p.status for p in by_name(log)["second"].spans] == ["killed", "ok"] and by_name(log)["second"].spans[1].start >= log.stops[0]


def everything(status="failed"):
    """A log in which every status occurs."""
    stages = []
    for i, name in enumerate(STAGE_WORDS):
        spans = [Span(i, i + 1, i + .2, name, 1, "warm")] if name in ("ok", "failed", "killed", "timeout", "running") else []
        error = {"cell": 4, "id": "x", "class": "error", "signal": None, "kind": "E", "message": "m", "output": ["o"]}
        stages.append(StageLog(name, "", name, reason=[msg("its code changed")] if i % 2 else [], spans=spans, at=None if spans else i,
                               error=error if name in ("failed", "killed", "timeout") else None, waited=i / 2 if spans else None))
    return RunLog("p", "20260102-030405-abcd", status, "2026-01-02T03:04:05+00:00", 9.0, [4.0], [], stages)


@pytest.mark.parametrize("language, words", [("en", {"unchanged", "failed", "killed", "timed out", "not run", "skipped", "at work"}),
                                             ("ko", {"변경 없음", "실패", "강제 종료", "시간 초과", "미실행", "건너뜀", "실행 중"})])
def test_every_status_has_a_word_and_a_shape(language, words):
    html = view(everything()).html(language)
    for word in words: assert f">{word}</span>" in html, word
    assert {s.split('"')[0] for s in str(html).split('<span class="state ')[1:]} == {"ok", "ok kept", "error", "open", "busy"}
    assert html.count('class="lane"') == 8 and not re.search(r"\b(None|nan|Message)\b", re.sub("<style.*?</style>", "", html, flags=re.S))


def test_a_resumed_time_axis_and_round_moments():
    assert [text for _, text in scale(8.2)] == ["0 s", "2 s", "4 s", "6 s", "8 s"] and [text for _, text in scale(400)][1] == "2 min"
    assert [text for _, text in scale(3 * 3600)][:2] == ["0 h", "0.5 h"] and scale(0) == []


def test_the_report_tells_how_it_ran(project, runs):
    fine, broken = (write_report(runs[k]).read_text(encoding="utf-8") for k in ("cached", "failed"))
    assert '<details class="how">' in fine and "Nothing had changed: all 4 stages" in fine
    assert '<details class="how" open>' in broken and "Not run because of it: third" in broken and "line 2" in broken


def test_a_report_of_what_was_drawn_before_draws_nothing(project, runs, monkeypatch):
    from mlwb.show import report
    before = report.render(runs["cached"])
    monkeypatch.setattr(report, "stage_outputs", None)
    assert report.render(runs["cached"]) == before
    (project.workspace / "pieces").rename(project.workspace / "elsewhere")
    with pytest.raises(TypeError): report.render(runs["cached"])
    monkeypatch.undo()
    assert report.render(runs["cached"]) == before, "drawn again, it is the same"


def test_a_report_of_an_unchanged_run_loads_no_heavy_package(project, runs):
    code = f"""
import sys
from mlwb.core.workspace import find_project
from mlwb.run.record import find_run
from mlwb.show.report import write_report
text = write_report(find_run(find_project(), {runs['cached'].name!r})).read_text(encoding="utf-8")
print('data-kind="profile"' in text, [m for m in ("pandas", "polars", "pyarrow", "scipy", "sklearn", "mlflow", "plotly", "torch") if m in sys.modules])"""
    for _ in range(2): done = subprocess.run([sys.executable, "-c", code], cwd=project.root, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "True []", done.stdout + done.stderr


def test_in_a_notebook_of_the_project(project, runs):
    code = "import mlwb; v = mlwb.runlog(); print(v.result.run, v.table()[1][0][0], v._repr_mimebundle_()['text/plain'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=project.root / "notebooks", capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.split()[:2] == [list_runs(project)[0].name, "first"], done.stderr
    code = f"import mlwb; print(mlwb.runlog({runs['failed'].name!r}).summary())"
    done = subprocess.run([sys.executable, "-c", code], cwd=project.root, capture_output=True, text=True, timeout=60)
    assert "second, cell 4: ValueError" in done.stdout


def test_a_draft_and_an_empty_journal_are_shown_as_what_they_are(tmp_path):
    (tmp_path / "settings.ini").write_text("[workbench]\nname = p\ntarget = y\nsource = d.csv\n")
    mine = Run(Project(Path(tmp_path)), "draft")
    assert str(sentence(run_log(mine))) == "Nothing has happened yet" and "<mlwb-view" in view(run_log(mine)).html()
    mine.tell("run", run="draft", draft=True, base=None)
    assert run_log(mine).status == "draft" and "draft" in view(run_log(mine)).html()
