"""A project goes into one file while it is used, and comes back from it whole or not at all, whatever the file holds."""

import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import threading
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from mlwb.core.errors import InputError, MlwbError
from mlwb.core.workspace import FORMAT, Project, open_workspace, publish
from mlwb.data.store import Store, digest
from mlwb.release import registry
from mlwb.run import backup as saving
from mlwb.run.artifacts import take_over
from mlwb.run.backup import BACKUP_FORMAT, HEAD, MANIFEST, backup, undisturbed
from mlwb.run.gc import collect
from mlwb.run.record import Run
from mlwb.run.restore import restore
from mlwb.serve.predlog import PredictionLog

# --- a project that has been run -----------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def done(cli, make_project, tmp_path_factory):
    """A project whose source lies in its own folder, run twice, its champion's predictions, and its backup. The project itself is gone."""
    rng = np.random.default_rng(0)
    size, region = rng.normal(size=600), rng.choice(["north", "south", "서울", None], size=600)
    risk = 1 / (1 + np.exp(-(1.5 * size + (region == "south"))))
    df = pd.DataFrame({"size": size.round(3), "region": region, "bought": np.where(rng.random(600) < risk, "yes", "no")})
    root = make_project(df, "bought", name="shop")
    df.to_parquet(root / "data.parquet")
    ini = (root / "settings.ini").read_text(encoding="utf-8")
    publish(root / "settings.ini", "\n".join("source = data.parquet" if l.startswith("source") else l for l in ini.split("\n")))
    publish(root / "notebooks" / "stages" / "helper.py", "FACTOR = 2\n")
    publish(root / "checks" / "large.sql", "-- none\nSELECT * FROM data WHERE size > 100\n")
    project = Project(root)
    for _ in range(2):  # the second time with a prediction in the log
        run = cli("run", "--json", "--env", "quick", cwd=root)
        assert run.returncode == 0, run.stderr
        expected = registry.champion(project).load().predict(df.head(50))
        PredictionLog(project.predictions).append([{"model": "shop", "version": "1", "inputs": {"size": 1.0, "region": "north"}, "id": "p1"}])
    made = cli("backup", tmp_path_factory.mktemp("backup") / "shop.tar.gz", "--json", cwd=root)
    assert made.returncode == 0, made.stderr
    shown = cli("show", "--json", cwd=root).json
    shutil.move(root, root.parent / "gone")
    return made.json, run.json, shown, df, expected


def test_everything_works_in_another_folder(cli, done, tmp_path):
    made, run, shown, df, expected = done
    assert made["runs"][0] == run["run"] and len(made["runs"]) == 2 and made["left_out"] == {} and os.stat(made["file"]).st_mode & 0o777 == 0o600
    back = cli("restore", made["file"], "새 곳/shop", "--json", cwd=tmp_path)
    assert back.returncode == 0 and back.json["runs"] == made["runs"] and back.json["files"] == made["files"], back.stderr
    root = tmp_path / "새 곳" / "shop"
    assert Path(back.json["folder"]) == root and os.stat(root / "workspace" / ".key").st_mode & 0o777 == 0o600
    assert (root / "notebooks" / "stages" / "helper.py").is_file() and (root / "checks" / "large.sql").is_file() and (root / "reports" / "index.html").is_file()
    project = Project(root)
    with closing(sqlite3.connect(project.workspace / "mlflow.db")) as db: text = "\n".join(db.iterdump())
    assert "/gone/" not in text and made["file"].rpartition("/")[0] not in text and f"{project.artifacts.as_uri()}" in text
    version = registry.champion(project)
    assert version.version == "1" and (version.load().predict(df.head(50)) == expected).all()
    assert list(PredictionLog(project.predictions).read()['id']) == ['p1']
    assert [r["run"] for r in cli("runs", "--json", cwd=root).json["runs"]] == made["runs"]
    assert cli("show", run["run"], "--json", cwd=root).json["outputs"] == shown["outputs"]
    [entry] = cli("data", "log", "--json", cwd=root).json["versions"]
    assert (entry["rows"], entry["runs"]) == (600, made["runs"])
    again = cli("run", "--json", "--env", "quick", cwd=root)
    assert {s["status"] for s in again.json["stages"]} == {"cached"}, [(s["name"], s["reason"]) for s in again.json["stages"] if s["status"] != "cached"]
    assert again.json["metrics"] == run["metrics"]


def test_nothing_is_written_over(cli, done, tmp_path):
    (tmp_path / "shop").mkdir()
    assert restore(done[0]["file"], tmp_path / "shop").runs, "an empty folder is free"
    before = sorted(tmp_path.rglob("*"))
    again = cli("restore", done[0]["file"], cwd=tmp_path)  # where its name is taken
    assert again.returncode == 2 and "writes over nothing" in again.stderr and "Name another folder" in again.stderr
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="writes over nothing"): restore(done[0]["file"], tmp_path / "link")
    (tmp_path / "link").unlink()
    assert sorted(tmp_path.rglob("*")) == before


# --- while it is used ----------------------------------------------------------------------------------------------------

@pytest.fixture
def project(tmp_path):
    publish(tmp_path / "p" / "settings.ini", "[workbench]\nname = shop\ntarget = y\nsource = data.csv\n")
    open_workspace(found := Project((tmp_path / "p").resolve()))
    return found


def past(project, day, status="done"):
    run = Run(project, f"202601{day:02}-000000-abcd")
    run.tell("run", run=run.name)
    run.tell("plan", stages=[{"name": "frame"}])
    if (before := Run(project, f"202601{day - 1:02}-000000-abcd")).head(): take_over(run, "frame", before, "")
    else: publish(run.path / "artifacts" / "frame" / "rows.json", "x" * 1000)
    run.tell("end", stage="frame", status="ok" if status == "done" else "failed")
    if status != "killed": run.tell("finish", status=status)
    return run


def test_databases_and_tables_that_are_written_meanwhile(project, tmp_path):
    log, store, over = PredictionLog(project.predictions), Store(project.data), threading.Event()
    rows = pl.DataFrame({"n": [0], "text": ["가"]})
    store.write("table", rows)
    log.append([{"model": "m", "version": "1", "inputs": {}} for _ in range(10)])
    said = {"predictions": 10, "versions": 0}

    def predict():
        while not over.is_set(): log.append([{"model": "m", "version": "1", "inputs": {"n": k}} for k in range(10)]); said["predictions"] += 10

    def append():
        while not over.is_set(): store.write("table", rows + pl.DataFrame({"n": [said["versions"] + 1], "text": [""]}), append=True); said["versions"] += 1

    workers = [threading.Thread(target=w) for w in (predict, append)]
    for w in workers: w.start()
    try:
        for k in range(6):
            least = dict(said)
            saved = backup(project, tmp_path / f"{k}.tar.gz")
            most = {n: v + 10 for n, v in said.items()}
            back = Project(Path(restore(saved.file, tmp_path / f"back{k}").folder))
            with closing(sqlite3.connect(back.predictions / "predictions.db")) as db:
                assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                assert least["predictions"] <= (n := db.execute("SELECT count(*) FROM predictions").fetchone()[0]) <= most["predictions"] and n % 10 == 0
            there = Store(back.data)
            refs = there.versions("table")
            assert least["versions"] + 1 <= len(refs) <= most["versions"] + 1
            for ref in refs[-3:]: assert digest(there.read(ref)) == ref.digest and ref.rows == ref.version + 1
            assert there.write("table", rows, append=True).version == refs[-1].version + 1, "it can be gone on with"
    finally:
        over.set()
        for w in workers: w.join()
    assert min(said.values()) > 6 and not list(project.workspace.glob(".tmp-*"))


def test_runs_at_work_and_drafts_are_left_out_and_said(cli, project, tmp_path, monkeypatch):
    from mlwb.run.record import draft
    whole, again, failed = past(project, 1), past(project, 2), past(project, 3, "failed")
    killed, working = past(project, 4, "killed"), past(project, 5, "killed")
    mine, copy = draft(project), shutil.copytree

    def copytree(source, *args, **more):
        found = copy(source, *args, **more)
        if Path(source) == failed.path: failed.tell("resume")  # somebody goes on with it at this very moment
        return found
    monkeypatch.setattr(shutil, "copytree", copytree)
    with working.living(): saved = backup(project, tmp_path / "b.tar.gz")
    assert saved.runs == [killed.name, again.name, whole.name]
    assert {k: str(v) for k, v in saved.left_out.items()} == {working.name: "it is at work", failed.name: "it is at work", mine.name: "it is a draft"}
    back = Project(Path(restore(saved.file, tmp_path / "back").folder))
    assert {p.name for p in back.runs.iterdir()} == set(saved.runs)
    file = lambda run: Run(back, run.name).path / "artifacts" / "frame" / "rows.json"
    assert os.path.samefile(file(whole), file(again)), "what runs share they share again"
    assert [Run(back, r.name).record()["status"] for r in (whole, killed)] == ["done", "killed"]
    with tarfile.open(saved.file) as tar: assert sum(n.endswith("rows.json") for n in tar.getnames()) < 4
    done = cli("backup", tmp_path / "c.tar.gz", cwd=project.root)
    assert done.returncode == 0 and f"left out  {mine.name}: it is a draft" in done.stdout


def test_a_table_without_a_version_what_killed_writes_left_and_odd_files(project, tmp_path):
    store = Store(project.data)
    for n in range(3): store.write("매출 / 2024", pl.DataFrame({"n": [n]}))
    folder = store._folder("매출 / 2024")
    (folder / "mlwb-dead.parquet").write_bytes(b"half")
    store._files(store.versions("매출 / 2024")[0])[1][0].unlink()  # as gc does
    (project.data / "first").mkdir(); (project.data / "first" / "mlwb-1.parquet").write_bytes(b"half")
    for path in (project.predictions / "a b\n&'.csv", project.predictions / "x-journal", project.workspace / "pieces" / "p.json"): publish(path, "x")
    os.mkfifo(project.predictions / "pipe"); (project.artifacts / "x").mkdir(parents=True); (project.artifacts / "x" / "broken").symlink_to("nowhere")
    publish(project.artifacts / "x" / os.fsdecode(b"\xff.bin"), b"\0")
    os.chmod(publish(project.root / "acquisition.yaml", "owner: Kim\n"), 0o600)
    PredictionLog(project.predictions).append([{"model": "m", "version": "1", "inputs": {}}])
    os.chmod(project.predictions / "predictions.db", 0o600)
    back = Project(Path(restore(backup(project, tmp_path / "b.tar.gz").file, tmp_path / "back").folder))
    there = Store(back.data)
    assert there.read("매출 / 2024")["n"].to_list() == [2] and len(there.versions("매출 / 2024")) == 3
    assert sorted(p.name for p in there._folder("매출 / 2024").glob("*.parquet")) == sorted(c["files"][0] for c in store.commits("매출 / 2024")[1:])
    found = {p.relative_to(back.workspace).as_posix() for p in back.workspace.rglob("*") if p.is_file() and "data/" not in p.as_posix()}
    private = {p.relative_to(back.root).as_posix() for p in back.root.rglob("*") if p.is_file() and p.stat().st_mode & 0o777 == 0o600}
    assert private == {"workspace/.key", "acquisition.yaml", "workspace/predictions/predictions.db"}
    assert found == {".key", "format", "predictions/predictions.db", "predictions/a b\n&'.csv", "predictions/x-journal", os.fsdecode(b"artifacts/x/\xff.bin")}


def test_gc_and_a_backup_take_turns(project, tmp_path):
    with undisturbed(project), pytest.raises(MlwbError, match="is at work"): collect(project)
    assert collect(project).gone is not None


CHILD = """
import os, sys
from pathlib import Path
from mlwb.core.workspace import Project
from mlwb.run import backup, restore
module, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
place = {"backup": backup, "restore": restore, "os": os}[module]
real = getattr(place, name)
def killed(*args, **more):
    global count
    count -= 1
    if count < 0: os.kill(os.getpid(), 9)
    return real(*args, **more)
setattr(place, name, killed)
if sys.argv[4] == "backup": backup.backup(Project(Path(sys.argv[5])), sys.argv[6])
else: restore.restore(sys.argv[5], sys.argv[6])
"""


@pytest.mark.parametrize("at", [("backup", "snapshot", 0), ("os", "fsync", 0), ("os", "replace", 0)])
def test_a_killed_backup_leaves_no_file_of_that_name(project, tmp_path, at):
    past(project, 1)
    PredictionLog(project.predictions).append([{"model": "m", "version": "1", "inputs": {}}])
    command = ["backup", project.root, tmp_path / "b.tar.gz"]
    run = lambda *at: subprocess.run([sys.executable, "-c", CHILD, *map(str, at), *command], capture_output=True, text=True)
    killed = run(*at)
    assert killed.returncode == -signal.SIGKILL and not (tmp_path / "b.tar.gz").exists(), killed.stderr
    assert run("os", "replace", 99).returncode == 0 and restore(tmp_path / "b.tar.gz", tmp_path / "back").files


@pytest.mark.parametrize("at", [("restore", "_written", 3), ("restore", "_verify", 0), ("restore", "moved", 0), ("os", "rename", 0)])
def test_a_killed_restore_leaves_no_project(done, tmp_path, at):
    command = ["restore", done[0]["file"], tmp_path / "back"]
    run = lambda *at: subprocess.run([sys.executable, "-c", CHILD, *map(str, at), *command], capture_output=True, text=True)
    killed = run(*at)
    assert killed.returncode == -signal.SIGKILL and not (tmp_path / "back").exists(), killed.stderr
    assert run("os", "rename", 99).returncode == 0 and (tmp_path / "back" / "settings.ini").is_file()


# --- archives of somebody else -------------------------------------------------------------------------------------------

INI = b"[workbench]\nname = shop\ntarget = y\nsource = data.csv\n"
GOOD = {"settings.ini": INI, "workspace/format": str(FORMAT).encode()}


def archive(path, files=None, head=None, listed=None, more=(), end=True, root="/old/shop"):
    """An archive as `mlwb backup` makes it, but for what is asked: members `more` before the list."""
    files = GOOD if files is None else files
    head = {"format": BACKUP_FORMAT, "mlwb": "1.0", "name": "shop", "made": "2026-01-01T00:00:00Z"} | (head or {})
    entries = {n: {"sha256": sha256(b).hexdigest(), "size": len(b)} for n, b in files.items()}
    manifest = json.dumps(head | {"root": root, "runs": [], "left_out": {}, "files": entries if listed is None else listed(entries)}).encode()
    with tarfile.open(path, "w:gz") as tar:
        def put(name, data=b"", kind=tarfile.REGTYPE, **more):
            info = tarfile.TarInfo(name)
            info.size, info.type = len(data), kind
            for k, v in more.items(): setattr(info, k, v)
            tar.addfile(info, io.BytesIO(data))
        put(HEAD, json.dumps(head).encode())
        for n, b in files.items(): put(n, b)
        for args, kw in more: put(*args, **kw)
        if end: put(MANIFEST, manifest)
    return path


def file(name, data=b"x", **kw): return ((name, data), kw)


LINK = {"sha256": sha256(INI).hexdigest(), "size": len(INI)}
HOSTILE = {
    "a name that climbs": (dict(files=GOOD | {"../evil": b"x"}), "leads out"),
    "a name that climbs inside": (dict(files=GOOD | {"workspace/../../evil": b"x"}), "leads out"),
    "an absolute name": (dict(files=GOOD | {"/tmp/evil-of-a-test": b"x"}), "leads out"),
    "a dot": (dict(files=GOOD | {"./a": b"x"}), "leads out"),
    "a symbolic link": (dict(more=[file("workspace/data", b"", kind=tarfile.SYMTYPE, linkname="/etc")]), "no plain file"),
    "a hard link": (dict(more=[file("passwd", b"", kind=tarfile.LNKTYPE, linkname="/etc/passwd")]), "no plain file"),
    "a device": (dict(more=[file("null", b"", kind=tarfile.CHRTYPE, devmajor=1, devminor=3)]), "no plain file"),
    "a pipe": (dict(more=[file("pipe", b"", kind=tarfile.FIFOTYPE)]), "no plain file"),
    "a folder": (dict(more=[file("workspace", b"", kind=tarfile.DIRTYPE)]), "no plain file"),
    "a name twice": (dict(more=[file("settings.ini", INI)]), "twice"),
    "a head twice": (dict(more=[file(HEAD, b"{}")]), "not in its list"),
    "a file in the way of a folder": (dict(files=GOOD | {"a": b"x", "a/b": b"x"}), "is not restored"),
    "a file that is not listed": (dict(more=[file("evil.py", b"x")]), "not in its list"),
    "a file that is not what was saved": (dict(listed=lambda e: e | {"settings.ini": {"sha256": "0" * 64, "size": len(INI)}}), "not what was saved"),
    "a length that is not what was saved": (dict(listed=lambda e: e | {"settings.ini": e["settings.ini"] | {"size": 1}}), "not what was saved"),
    "a listed file that is missing": (dict(listed=lambda e: e | {"b": {"sha256": "0" * 64, "size": 1}}), "is missing"),
    "a copy that climbs": (dict(listed=lambda e: e | {"../evil": LINK}), "leads out"),
    "a copy with another length": (dict(listed=lambda e: e | {"b": LINK | {"size": 1}}), "is missing"),
    "a copy in the way": (dict(listed=lambda e: e | {"workspace": LINK}), "in its way"),
    "a copy under a file": (dict(listed=lambda e: e | {"settings.ini/b": LINK}), "is not restored"),
    "a list that is none": (dict(listed=lambda e: [*e]), "list of files is damaged"),
    "a list with odd entries": (dict(listed=lambda e: e | {"b": "x"}), "list of files is damaged"),
    "a newer archive": (dict(head={"format": BACKUP_FORMAT + 1, "mlwb": "9.9"}), "of mlwb 9.9.*Upgrade mlwb"),
    "an archive without a format": (dict(head={"format": "two"}), "does not say its format"),
    "a newer workspace": (dict(files=GOOD | {"workspace/format": b"99"}), "has format '99'"),
    "no workspace": (dict(files={"settings.ini": INI}), "no workspace"),
    "no settings": (dict(files={"workspace/format": b"2"}), "no settings.ini"),
    "broken settings": (dict(files=GOOD | {"settings.ini": b"[workbench]\n"}), "does not say 'name'"),
    "a registry that is none": (dict(files=GOOD | {"workspace/mlflow.db": b"no database" * 500}), "registry can't be read"),
    "no end": (dict(end=False), "cut short"),
    "no place of its own": (dict(root="shop"), "where the project was"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_an_archive_that_mlwb_has_not_made_writes_nothing(tmp_path, what):
    given, words = HOSTILE[what]
    path = archive(tmp_path / "a.tar.gz", **given)
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match=words) as e: restore(path, tmp_path / "there" / "p")
    assert not list((tmp_path / "there").iterdir()) and sorted(p.name for p in tmp_path.iterdir()) == ["a.tar.gz", "there"]
    assert not Path("/tmp/evil-of-a-test").exists()
    assert "\n" not in str(e.value)


def test_what_is_no_archive_at_all(cli, tmp_path):
    good = archive(tmp_path / "good.tar.gz").read_bytes()
    for bad in (b"", b"PK\3\4", good[:40], good[:-30], good[:len(good) // 2] + b"\0" * 9 + good[len(good) // 2 + 9:]):
        publish(tmp_path / "bad", bad)
        with pytest.raises(InputError, match="is not restored"): restore(tmp_path / "bad", tmp_path / "p")
    assert not (tmp_path / "p").exists() and restore(tmp_path / "good.tar.gz", tmp_path / "p").files == 2
    told = cli("restore", "nowhere.tar.gz", "q", "--json", cwd=tmp_path)
    assert told.returncode == 2 and "No such file" in told.json["error"] and not (tmp_path / "q").exists()
    assert saving.MANIFEST != saving.HEAD


def test_an_older_workspace_comes_back_as_it_was_and_is_upgraded_by_who_writes(tmp_path, capsys):
    folder = restore(archive(tmp_path / "a.tar.gz", files=GOOD | {"workspace/format": b"1\n"}), tmp_path / "p").folder
    assert (Path(folder) / "workspace" / "format").read_text() == "1\n"
    open_workspace(Project(Path(folder)))
    assert (Path(folder) / "workspace" / "format").read_text() == f"{FORMAT}\n" and "format 1 → 2" in capsys.readouterr().err
