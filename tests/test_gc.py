"""What `mlwb gc` takes away and what it never does; a kill in the middle leaves nothing half."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from mlwb.core.errors import MlwbError
from mlwb.core.workspace import find_project, publish
from mlwb.run.artifacts import fingerprint, take_over
from mlwb.run.gc import collect
from mlwb.run.record import Run, draft, list_runs, only_runner


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project, and temporary files of its own (a short path: a socket's name has little room)."""
    place = tempfile.mkdtemp(prefix="t")
    monkeypatch.setattr(tempfile, "tempdir", place)
    monkeypatch.setenv("TMPDIR", place)
    (tmp_path / "settings.ini").write_text("[workbench]\nname = demo\ntarget = y\nsource = data.csv\n", encoding="utf-8")
    yield find_project(tmp_path)
    shutil.rmtree(place)


def name(day): return f"202601{day:02}-000000-abcd"


def past(project, day, status="done", **head):
    """A run of some day of January, its artifact taken over from the run of the day before where there is one."""
    run, before = Run(project, name(day)), Run(project, name(day - 1))
    run.tell("run", run=run.name, **head)
    run.tell("plan", stages=[{"name": "frame"}])
    if before.head(): take_over(run, "frame", before, "")
    else: publish(run.path / "artifacts" / "frame" / "rows.json", "x" * 1000)
    publish(run.path / "notebooks" / "00_frame.ipynb", "n" * 10)
    publish(project.reports / f"{run.name}.html", "a report")
    run.tell("end", stage="frame", status="ok" if status in ("done", "rejected") else "failed", trace={"code": "1"})
    if status != "killed": run.tell("finish", status=status)
    return run


def gone(done, *kinds): return {g["name"] for g in done.gone if g["kind"] in (kinds or ("run",))}
def left(project): return {r.name for r in list_runs(project)}


def test_the_newest_stay_and_what_is_shared_stays_whole(project):
    runs = [past(project, d) for d in range(1, 8)]
    shared = runs[0].path / "artifacts" / "frame" / "rows.json"
    assert shared.stat().st_nlink == 7
    before = fingerprint(runs[6].path / "artifacts")
    own = sum(p.stat().st_size for r in runs[:4] for p in r.path.rglob("*") if p.is_file() and p != r.path / "artifacts" / "frame" / "rows.json")
    done = collect(project, keep=3)
    assert gone(done) == {name(d) for d in range(1, 5)} and left(project) == {name(d) for d in range(5, 8)}
    assert done.bytes == own + 4 * len("a report"), "what the newer runs still hold is not freed"
    assert fingerprint(runs[6].path / "artifacts") == before and (runs[6].path / "artifacts/frame/rows.json").stat().st_nlink == 3
    assert {p.stem for p in project.reports.glob("2026*.html")} == left(project) and name(7) in (project.reports / "index.html").read_text()


def test_an_inode_counts_once_and_only_when_its_last_link_goes(project):
    past(project, 1), past(project, 2), past(project, 4)
    done = collect(project, keep=1)
    files = [p for n in (1, 2) for p in (project.runs / name(n)).rglob("*")]
    assert gone(done) == {name(1), name(2)} and not files and 1000 < done.bytes < 2000


def test_a_dry_run_says_the_same_and_deletes_nothing(project):
    for d in range(1, 5): past(project, d)
    publish(project.runs / name(1) / "artifacts" / ".tmp-half", "half")
    everything = lambda: sorted([*project.runs.rglob("*"), *project.reports.rglob("*")])
    before = everything()
    with only_runner(project): would = collect(project, keep=1, dry=True)
    assert everything() == before, "it does not even wait for a run that is at work"
    done = collect(project, keep=1)
    assert would.gone == done.gone and would.bytes == done.bytes and would.dry and not done.dry


def test_what_is_needed_stays_whatever_its_age(project):
    past(project, 1)
    for d in range(2, 9): past(project, d, "rejected" if d < 7 else "failed")
    with Run(project, name(2)).living():
        done = collect(project, keep=0)
        assert left(project) == {name(1), name(2), name(8)}
        why = {name(1): "it is the newest complete run", name(2): "it is at work", name(8): "it can be gone on with"}
        assert {k: v.text for k, v in done.kept.items()} == why
    assert gone(collect(project, keep=0)) == {name(2)}


def test_the_runs_of_a_stopped_grid_can_be_gone_on_with(project):
    past(project, 1)
    past(project, 2, "failed", grid="a"), past(project, 3, "killed", grid="a"), past(project, 4, "done", grid="a")
    collect(project, keep=0)
    assert left(project) == {name(2), name(3), name(4)}


def test_the_run_behind_an_alias_stays(project):
    from mlwb.core.tracking import client
    for d in range(1, 7): past(project, d)
    c = client(project)
    c.create_registered_model("demo")
    for d, alias in ((1, ""), (2, "previous"), (3, "champion"), (4, "challenger")):
        version = c.create_model_version("demo", str(project.root), tags={"mlwb.run": name(d), "mlwb.digest": f"sha256:{d}"})
        if alias: c.set_registered_model_alias("demo", alias, version.version)
    done = collect(project, keep=1)
    assert gone(done) == {name(1), name(5)} and str(done.kept[name(3)]) == "it made version 3 (champion)"


def test_older_spares_what_is_young(project):
    past(project, 1)
    young = time.strftime("%Y%m%d-%H%M%S-beef", time.gmtime())
    for n in (young, young.replace("beef", "feed")):
        Run(project, n).tell("run", run=n)
        Run(project, n).tell("finish", status="rejected")
    assert not collect(project, keep=0, older=100_000).gone
    assert not gone(collect(project, keep=0, older=1)) and gone(collect(project, keep=0)) == {young, young.replace("beef", "feed")}


def test_a_draft_goes_with_the_run_that_it_stands_on(project):
    past(project, 1)
    first = draft(project)
    past(project, 2)
    second = draft(project)
    Run(project, "draft").tell("run", run="draft", draft=True, base=None)
    assert gone(collect(project, keep=1), "run", "draft") == {name(1), first.name} and second.path.is_dir() and (project.runs / "draft").is_dir()


def test_leftovers(project):
    run, old = past(project, 1), time.time() - 2 * 86400
    publish(run.path / "artifacts" / "frame" / ".tmp-a", "half")
    (run.path / "artifacts" / ".tmp-folder").mkdir()
    publish(run.path / "artifacts" / ".tmp-folder" / ".tmp-inside", "half")
    mine = draft(project)
    for p in (mine.path / "stages" / ".tmp-b", project.data / "table" / ".tmp-c", project.reports / ".tmp-d"): publish(p, "being written now")
    for p in (project.data / ".tmp-e", project.workspace / ".tmp-f", project.reports / ".tmp-g"): os.utime(publish(p, "half"), (old, old))
    for name_, age in (("new", 0), ("old", 40)): os.utime(publish(project.workspace / "pieces" / f"{name_}.json", "[]"), (time.time() - age * 86400,) * 2)
    (project.runs / "20251231-000000-abcd").mkdir()
    (project.runs / "20270101-000000-abcd").mkdir()
    publish(project.runs / "20251230-000000-abcd" / "journal.jsonl", '{"at": "20')
    publish(project.runs / "2025 notes" / "my.txt", "not a run")
    done = collect(project)
    assert gone(done, "leftover") == {".tmp-a", ".tmp-folder", ".tmp-e", ".tmp-f", ".tmp-g", "old.json"}
    assert gone(done, "torn") == {"20251230-000000-abcd", "20251231-000000-abcd"}
    assert {p.name for p in project.root.rglob(".tmp-*")} == {".tmp-b", ".tmp-c", ".tmp-d"}
    assert {p.name for p in project.runs.iterdir()} == {run.name, mine.name, "2025 notes", "20270101-000000-abcd"}


def test_folders_of_dead_kernels(project):
    def kernel(hours=2, **files):
        folder = Path(tempfile.mkdtemp(prefix="mlwb-"))
        for f in files: publish(folder / f.replace("_", "."), "{}")
        os.utime(folder, (time.time() - hours * 3600,) * 2)
        return folder
    dead, young, strange = kernel(kernel_json=1), kernel(.5, kernel_json=1), kernel(notes_txt=1)
    with socket.socket(socket.AF_UNIX) as s:
        alive = kernel(kernel_json=1)
        s.bind(str(alive / "k-1")); s.listen()
        os.utime(alive, (time.time() - 7200,) * 2)
        assert gone(collect(project), "kernel") == {dead.name}
        assert not dead.exists() and young.is_dir() and strange.is_dir() and alive.is_dir()
    os.utime(alive, (time.time() - 7200,) * 2)
    assert gone(collect(project), "kernel") == {alive.name}, "its socket is there, but nobody listens"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_killed_while_deleting_it_leaves_no_half_run(project):
    for d in range(1, 4): past(project, d)
    publish(project.runs / name(1) / "artifacts" / "b" / "more.json", "more")
    code = f"""
import os, shutil, signal
from pathlib import Path
from mlwb.core.workspace import Project
from mlwb.run.gc import collect
def dies(path): (Path(path) / "journal.jsonl").unlink(); os.kill(os.getpid(), signal.SIGKILL)
shutil.rmtree = dies
collect(Project(Path({str(project.root)!r})), keep=1)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == -signal.SIGKILL
    assert left(project) == {name(1), name(3)}, "the one that was being deleted is no run any more, the other is whole"
    assert (project.runs / name(1) / "artifacts" / "b" / "more.json").is_file()
    [half] = project.workspace.glob(".gone-*")
    assert gone(collect(project), "leftover") == {half.name} and not half.exists()


def test_not_while_a_run_is_at_work(project):
    past(project, 1)
    with only_runner(project), pytest.raises(MlwbError, match="Another run is at work"): collect(project)
