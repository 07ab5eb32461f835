"""What `mlwb gc` takes away and what it never does; a kill in the middle leaves nothing half."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl
import pytest

from mlwb.core.errors import MissingInput, MlwbError
from mlwb.core.workspace import find_project, publish
from mlwb.data.store import Store
from mlwb.run.artifacts import fingerprint, save_artifact, take_over
from mlwb.run.gc import collect, pinned
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


# --- tables and scratch --------------------------------------------------------------------------------------------------

def numbers(*n): return pl.DataFrame({"n": n})


def test_what_killed_writes_left_goes_and_versions_only_when_asked(project):
    store, name = Store(project.data), "매출 / ../2024"
    for n in range(5): store.write(name, numbers(n))
    store.write("appended", numbers(1)), store.write("appended", numbers(2), append=True), store.write("appended", numbers(3))
    folder = store._folder(name)
    (folder / "mlwb-dead.parquet").write_bytes(b"x" * 500)
    (project.data / "first" / "_delta_log").mkdir(parents=True), (project.data / "first" / "mlwb-1.parquet").write_bytes(b"x" * 50)
    files = sum(p.stat().st_size for p in folder.glob("*.parquet")) - 500
    would = collect(project, dry=True)
    assert (folder / "mlwb-dead.parquet").exists() and (project.data / "first").exists()
    done = collect(project)
    assert gone(done, "orphan") == {f"{folder.name}/mlwb-dead.parquet", "first/mlwb-1.parquet"} == gone(would, "orphan") and done.bytes == would.bytes == 550
    assert not (project.data / "first").exists() and store.read(name)["n"].to_list() == [4] and not gone(done, "version")
    for run, version in (("20260101-000000-abcd", 1), ("draft", 2)):  # a run, and a draft by hand
        Run(project, run).tell("run", run=run, draft=run == "draft")
        Run(project, run).write_stage("extract", {"outputs": {"table": save_artifact(Run(project, run), "extract", "table", store.versions(name)[version])}})
    assert pinned(project) == {(name, 1): ["20260101-000000-abcd"], (name, 2): ["draft"]}
    would = collect(project, tables=1, dry=True)
    assert all(store.read(v).height for v in store.versions(name))
    done = collect(project, tables=1)
    assert gone(done, "version") == {f"{name}@0", f"{name}@3", "appended@0", "appended@1"} == gone(would, "version") and 0 < done.bytes == would.bytes < files
    assert [store.read(store.versions(name)[v])["n"].to_list() for v in (1, 2, 4)] == [[1], [2], [4]]
    with pytest.raises(MissingInput, match="Version 3 of the table .* is gone"): store.read(store.versions(name)[3])
    assert collect(project, tables=1).gone == [] and store.write(name, numbers(9)).version == 5


def test_a_file_of_several_versions_goes_with_the_last(project):
    store = Store(project.data)
    for n in range(4): store.write("log", numbers(n), append=True)
    store.write("log", numbers(0))
    shared = store.commits("log")[0]["files"][0]
    assert shared in store.commits("log")[3]["files"]
    run = Run(project, "20260101-000000-abcd")
    run.tell("run", run=run.name)
    run.write_stage("extract", {"outputs": {"table": save_artifact(run, "extract", "table", store.versions("log")[1])}})
    done = collect(project, tables=1)
    assert gone(done, "version") == {"log@2", "log@3"} and store.read(store.versions("log")[1])["n"].to_list() == [0, 1]
    assert store.read(store.versions("log")[0])["n"].to_list() == [0], "all of its files are the kept version's"
    shutil.rmtree(run.path)
    assert gone(collect(project, tables=1), "version") == {"log@0", "log@1"} and not (store._folder("log") / shared).exists()


def test_a_model_that_may_serve_pins_what_it_was_trained_on(project, monkeypatch):
    from types import SimpleNamespace
    store = Store(project.data)
    for n in range(3): store.write("table", numbers(n))
    model = lambda version, **more: SimpleNamespace(version=version, tags={"mlwb.data.table": "table", "mlwb.data.version": version}, **more)
    monkeypatch.setattr("mlwb.release.registry.versions", lambda project: [model("1", aliases=["champion"]), model("0", aliases=[])])
    assert gone(collect(project, tables=1), "version") == {"table@0"}


def test_other_tools_commits_lose_nothing(project):
    store = Store(project.data)
    for n in range(3): store.write("table", numbers(n))
    folder = store._folder("table")
    numbers(7).write_delta(folder, mode="append")  # on top of version 2
    assert gone(collect(project, tables=1), "version") == {"table@0", "table@1"}
    assert sorted(pl.read_delta(str(folder))["n"]) == [2, 7] and store.read("table")["n"].to_list() == [2]
    store.write("table", numbers(8))
    collect(project, tables=1)
    assert pl.read_delta(str(folder), version=4)["n"].to_list() == [8] and list(folder.glob("part-*.parquet")), "a file of theirs is not ours to delete"
    store.write("table", numbers(9))
    (folder / "_delta_log" / f"{0:020}.json").unlink()  # another tool has cut the log
    assert not gone(collect(project, tables=1), "version", "orphan") and len(list(folder.glob("mlwb-*"))) == 2


def test_hostile_names_in_a_store_lead_nowhere(project, tmp_path):
    store, outside = Store(project.data), tmp_path / "outside"
    outside.mkdir(), (outside / "mlwb-1.parquet").write_bytes(b"x"), (outside / "keep.parquet").write_bytes(b"x")
    store.write("table", numbers(1))
    second, folder = store.write("table", numbers(2)), store._folder("table")
    (project.data / "link").symlink_to(outside), (folder / "mlwb-link.parquet").symlink_to(outside / "keep.parquet")
    log = folder / "_delta_log" / f"{0:020}.json"
    named = json.dumps(store.commits("table")[0]["files"]).replace('"', '\\"')
    log.write_text(log.read_text().replace(named, '[\\"../../../outside/keep.parquet\\", \\"..\\"]'))
    with pytest.raises(MlwbError, match="names a file elsewhere"): store.commits("table")
    done = collect(project, tables=1)
    assert "names a file elsewhere" in str(done.kept[f"table {folder.name}"])
    assert sorted(p.name for p in outside.iterdir()) == ["keep.parquet", "mlwb-1.parquet"] and (folder / "mlwb-link.parquet").is_symlink()
    assert all(".." not in g["name"] for g in done.gone) and store.read(second)["n"].to_list() == [2]
    (project.data / "torn" / "_delta_log").mkdir(parents=True), (project.data / "torn" / "_delta_log" / f"{0:020}.json").write_text('{"add": 1}')
    (project.data / "torn" / "mlwb-1.parquet").write_bytes(b"x")
    assert "its log can't be read" in str(collect(project).kept["table torn"]) and (project.data / "torn" / "mlwb-1.parquet").exists()


def test_a_table_that_is_written_is_left_for_the_next_time(project):
    store = Store(project.data)
    store.write("table", numbers(1)), store.write("table", numbers(2))
    with store._lock("table"):
        (half := store._folder("table") / "mlwb-half.parquet").write_bytes(b"x")
        done = collect(project, tables=1)
        assert half.exists() and not gone(done, "orphan", "version") and str(done.kept["table table"]) == "it is being written"
    assert gone(collect(project, tables=1), "orphan", "version") == {"table/mlwb-half.parquet", "table@0"}


WRITER = """
import sys, polars as pl
from pathlib import Path
from mlwb.data.store import Store
store, i = Store(Path(sys.argv[1])), 0
while not (Path(sys.argv[1]) / "stop").exists():
    i += 1
    store.write("table", pl.DataFrame({"n": [i]}), append=i % 4 != 1)
    print(i, flush=True)
"""


def test_a_writer_and_gc_at_once(project):
    """The newest version is whole at any moment, whoever appends, replaces and takes away."""
    store = Store(project.data)
    child = subprocess.Popen([sys.executable, "-c", WRITER, str(project.data)], stdout=subprocess.PIPE, text=True)
    child.stdout.readline()
    taken, seen = 0, 0
    try:
        while seen < 40 or taken < 6:
            taken += len(gone(collect(project, tables=1), "version"))
            n = store.read("table")["n"].to_list()
            assert n == list(range(n[0], n[-1] + 1)) and n[0] % 4 == 1 and n[-1] >= seen, n
            seen = n[-1]
            assert child.poll() is None
    finally:
        (project.data / "stop").touch()
        child.communicate(timeout=60)
    assert child.returncode == 0
    last = store.commits("table")[-1]["files"]
    collect(project, tables=1)
    assert sorted(p.name for p in store._folder("table").glob("*.parquet")) == sorted(last)


def test_a_killed_gc_of_tables_can_be_done_again(project):
    store = Store(project.data)
    for n in range(6): store.write("table", numbers(n))
    code = ("import os, sys; from pathlib import Path; from mlwb.core.workspace import Project; from mlwb.run.gc import collect\n"
            "real, left = Path.unlink, 2\n"
            "def unlink(self, *a, **k):\n global left\n left -= self.suffix == '.parquet'\n if left < 0: os.kill(os.getpid(), 9)\n real(self, *a, **k)\n"
            "Path.unlink = unlink\ncollect(Project(Path(sys.argv[1])), tables=1)")
    assert subprocess.run([sys.executable, "-c", code, str(project.root)]).returncode == -signal.SIGKILL
    assert len(list(store._folder("table").glob("*.parquet"))) == 4 and store.read("table")["n"].to_list() == [5]
    assert len(gone(collect(project, tables=1), "version")) == 3 and store.read("table")["n"].to_list() == [5]


def test_scratch_of_dead_processes_goes(project):
    code = "import time; from mlwb.data.packed import scratch_folder; s = scratch_folder(); print(s.name, flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    mine = Path(child.stdout.readline().strip())
    (mine / "unpacked.csv").write_bytes(b"x" * 1000)
    place = Path(tempfile.gettempdir())
    for odd in ("mlwb-scratch-x-y", "mlwb-scratch-", "mlwb-scratch-1-mine"): (place / odd).mkdir()
    (place / "mlwb-scratch-99999999-link").symlink_to(project.root), (place / "mlwb-scratch-99999999-file").write_bytes(b"x")
    assert not gone(collect(project), "scratch")
    child.kill(), child.wait()
    done = collect(project)
    assert gone(done, "scratch") == {mine.name} and done.bytes == 1000 and not mine.exists() and (project.root / "settings.ini").exists()
    assert len(list(place.glob("mlwb-scratch-*"))) == 5
