"""The commands about versions of tables, as processes; formats of a workspace and the way from an older one."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from datetime import date, datetime
from pathlib import Path

import polars as pl
import pytest
from filelock import FileLock

from mlwb.core import workspace
from mlwb.core.errors import InputError, MlwbError
from mlwb.core.messages import msg
from mlwb.core.states import state
from mlwb.core.workspace import FORMAT, Project, open_workspace, publish, upgrade, workspace_format
from mlwb.data.sources import read
from mlwb.data.store import Store, TableRef
from mlwb.data.versions import diff, find_table, log, version_at
from mlwb.run.artifacts import save_artifact
from mlwb.run.record import Run


@pytest.fixture
def project(tmp_path):
    publish(tmp_path / "p" / "settings.ini", "[workbench]\nname = shop\ntarget = y\nsource = data.csv\n")
    open_workspace(found := Project((tmp_path / "p").resolve()))
    return found


MONTH = pl.DataFrame({"id": range(1000), "amount": [float(k * 37 % 101) for k in range(1000)], "city": [("서울", "부산", None)[k % 3] for k in range(1000)]})


@pytest.fixture
def sales(project):
    """Four versions: the first month, the second appended, amounts corrected, a column gone and another of another type."""
    store = Store(project.data)
    store.write("table", MONTH)
    store.write("table", MONTH.with_columns(pl.col("id") + 1000), append=True)
    store.write("table", store.read("table").with_columns(amount=pl.when(pl.col("id") < 800).then(pl.col("amount") * 3).otherwise("amount")))
    store.write("table", store.read("table").drop("city").with_columns(pl.col("id").cast(pl.String)))
    run = Run(project, "20260101-000000-abcd")
    run.tell("run", run=run.name); run.tell("finish", status="done")
    run.write_stage("extract", {"outputs": {"table": save_artifact(run, "extract", "table", store.versions("table")[1])}})
    return store


# --- log, diff, checkout -------------------------------------------------------------------------------------------------

def test_the_log_says_what_when_and_who_needs_it(cli, project, sales, tmp_path):
    told = cli("data", "log", "--json", cwd=project.stages.parent.parent)
    assert told.returncode == 0 and told.json["table"] == "table" and told.json["url"] == sales._folder("table").as_uri(), told.stderr
    versions = told.json["versions"]
    assert [(v["version"], v["rows"], v["change"], v["runs"]) for v in versions] == [
        (0, 1000, 1000, []), (1, 2000, 1000, ["20260101-000000-abcd"]), (2, 2000, 0, []), (3, 2000, 0, [])]
    assert versions[3]["columns_gone"] == ["city"] and 0 < versions[0]["bytes"] < versions[1]["bytes"]
    assert all(v["digest"].startswith("sha256:") for v in versions)
    shown = cli("data", "log", "table", cwd=project.root).stdout.splitlines()
    assert [l.split()[0] for l in shown] == ["3", "2", "1", "0"] and "-city" in shown[0] and "(+1,000)" in shown[3]
    assert "1 run: 20260101-000000-abcd" in shown[2]
    away = tmp_path / "elsewhere"
    away.mkdir()
    shared = cli("data", "log", sales._folder("table"), "--json", cwd=away)  # of a colleague, from no project at all
    assert shared.json["versions"] == versions
    copy = shutil.copytree(sales._folder("table"), away / "copied under another name")
    assert [v["rows"] for v in cli("data", "log", copy, "--json", cwd=away).json["versions"]] == [1000, 2000, 2000, 2000]


def test_the_difference_in_columns_rows_and_distributions(cli, project, sales):
    told = cli("data", "diff", "table", "1", "2", "--json", cwd=project.root)
    assert told.returncode == 0, told.stderr
    assert [told.json[k] for k in ("versions", "added", "gone", "changed")] == [[1, 2], 792, 792, None]
    [amount] = told.json["distributions"]
    assert (amount["column"], amount["kind"], amount["measure"]) == ("amount", "moved", "ks")
    assert .2 < amount["low"] <= amount["distance"] <= amount["high"] < .4
    keyed = cli("data", "diff", "1", "2", "--key", "id", "--json", cwd=project.root).json  # of the project's table
    assert (keyed["added"], keyed["gone"], keyed["changed"], keyed["cells"]) == (0, 0, 792, {"amount": 792})
    shown = cli("data", "diff", "table", "-2", "-1", cwd=project.root).stdout  # numbers from the newest are no options
    assert "version 2 → 3" in shown and "columns: - city, id: Int64 → String" in shown and "rows: 0 added, 0 gone" in shown and "distribution: id type" in shown
    assert cli("data", "diff", cwd=project.root).stdout == shown
    assert "no difference" in cli("data", "diff", "table", "1", "1", cwd=project.root).stdout
    for words, said in ((("table", "0", "9"), "version of the table"), (("tabel",), "Did you mean 'table'"), (("table", "0", "x"), "is no version"),
                        (("table", "0", "1", "--key", "city"), "is no key")):
        done = cli("data", "diff", *words, "--json", cwd=project.root)
        assert done.returncode == 2 and said in done.json["error"], done.stderr


def test_any_version_as_a_file(cli, project, sales):
    for name, rows in (("a.csv", 2000), ("b.parquet", 2000), ("c.jsonl", 2000), ("d.arrow", 2000)):
        told = cli("data", "checkout", "--version", "2", "-o", name, "--json", cwd=project.root)
        assert told.returncode == 0 and (told.json["version"], told.json["rows"]) == (2, rows), told.stderr
        assert read(project.root / name, said=[])[0].equals(sales.read(sales.versions("table")[2]))
    at = log(sales, "table")[1]["at"]
    assert cli("data", "checkout", "table", "--at", at, "-o", "e.csv", "--json", cwd=project.root).json["version"] == 1
    assert cli("data", "checkout", "--version", "-4", "-o", "e.csv", "--force", cwd=project.root).stdout == "table, version 0, 1,000 rows: e.csv\n"
    for words, said in ((("--at", "2001-01-01", "-o", "x.csv"), "had no version at"), (("--at", "soon", "-o", "x.csv"), "is no time"), ((), "Say which: -o"),
                        (("--version", "1", "--at", at, "-o", "x.csv"), "Give one of them"), (("-o", "x.xls"), "kind of file"),
                        (("-o", "no/x.csv"), "There is no folder")):
        done = cli("data", "checkout", *words, "--json", cwd=project.root)
        assert done.returncode == 2 and said in done.json["error"] and not (project.root / "x.csv").exists(), done.stderr


def test_a_version_that_is_gone_says_so(cli, project, sales):
    done = cli("gc", "--tables", "1", "--json", cwd=project.root)
    assert done.returncode == 0 and [g["name"] for g in done.json["gone"] if g["kind"] == "version"] == ["table@2"] and done.json["bytes"] > 1000, done.stderr
    assert [v["bytes"] is None for v in cli("data", "log", "--json", cwd=project.root).json["versions"]] == [False, False, True, False]
    assert "gone" in cli("data", "log", cwd=project.root).stdout.splitlines()[1]
    told = cli("data", "checkout", "--version", "2", "-o", "x.csv", cwd=project.root)
    assert told.returncode == 2 and "Version 2 of the table 'table' is gone" in told.stderr and "mlwb gc" in told.stderr
    assert cli("gc", "--tables", "0", cwd=project.root).returncode == 2


def test_a_shared_table_is_a_source_with_its_rows_in_their_order(project, sales):
    folder = sales._folder("table")
    assert read(str(folder), said=[])[0].equals(sales.read("table")) and read(folder, said=[], version=1)[0].equals(sales.read(sales.versions("table")[1]))
    sales.write("table", sales.read("table").head(10), append=True)
    assert read(folder, said=[])[0].equals(sales.read("table")), "also where it consists of several files"
    pl.DataFrame({"id": ["x"], "amount": [1.0]}).write_delta(folder, mode="append")
    assert read(folder, said=[])[0].height == 2011 and read(folder, said=[], version=4)[0].height == 2010, "another tool's commit is read as Delta says"


def test_where_there_is_no_table(cli, tmp_path, project):
    assert "Run" not in cli("data", "log", cwd=tmp_path).stdout and cli("data", "log", cwd=tmp_path).returncode == 2
    told = cli("data", "log", cwd=project.root)
    assert told.returncode == 2 and "mlwb run --until extract" in told.stderr
    pl.DataFrame({"a": [1]}).write_delta(tmp_path / "others")
    assert "mlwb has written none of its versions" in cli("data", "log", tmp_path / "others", cwd=project.root).stderr
    publish(project.workspace / "format", "99")
    told = cli("data", "log", "--json", cwd=project.root)
    assert told.returncode == 2 and "Upgrade mlwb" in told.json["error"]


# --- formats -------------------------------------------------------------------------------------------------------------

OLD = pl.DataFrame({"a": [1.5, None, -0.0], "b": ["x", None, "서울"], "c": [True, None, False], "d": [date(2024, 1, 1), None, date(2024, 3, 3)],
                    "e": [1, 2, None], "t": [datetime(2024, 1, 1, 1), None, datetime(2024, 1, 2)]})


def old_workspace(project, name, frames):
    """What mlwb of format 1 wrote: a commit replaces the one file, and names the table, but not its files."""
    from deltalake import CommitProperties, write_deltalake
    publish(project.workspace / "format", "1\n")
    store = Store(project.data)
    for version, df in enumerate(frames):
        ref = TableRef(name, f"data/{store._folder(name).name}", version, f"sha256:{version:064}", df.height, {c: str(t) for c, t in df.schema.items()})
        told = CommitProperties(custom_metadata={"mlwb.table": json.dumps(ref.to_json() | {"version": 0}, ensure_ascii=False)})
        write_deltalake(store._folder(name), df, mode="overwrite", schema_mode="overwrite", commit_properties=told, target_file_size=1 << 50,
                        configuration={} if version else {"delta.logRetentionDuration": "interval 36500 days"})
    return store


def test_a_workspace_of_the_first_format_is_read_as_it_is(project, capfd):
    store = old_workspace(project, "매출 2024", [OLD, OLD[::-1], OLD.drop("b")])
    before = {p: p.read_bytes() for p in project.workspace.rglob("*") if p.is_file()}
    for ref, df in zip(store.versions("매출 2024"), (OLD, OLD[::-1], OLD.drop("b"))): assert store.read(ref).equals(df)
    assert (turned := diff(store, "매출 2024", 0, 1)).reordered and not turned.same() and [len(c["files"]) for c in store.commits("매출 2024")] == [1, 1, 1]
    assert state(project, "table:매출 2024@1") == f"version 1 sha256:{1:064}" and version_at(store, "매출 2024", "2999-01-01").version == 2
    assert find_table("매출 2024", project)[1] == "매출 2024" and store.tables() == ["매출 2024"]
    assert {p: p.read_bytes() for p in project.workspace.rglob("*") if p.is_file()} == before and workspace_format(project) == 1, "looking changes nothing"
    assert capfd.readouterr().err == ""
    ref = store.write("매출 2024", OLD.drop("b"), append=True)  # whoever writes upgrades
    assert capfd.readouterr().err.count(f"format 1 → {FORMAT}") == 1 and workspace_format(project) == FORMAT
    assert (ref.version, ref.rows) == (3, 6) and store.read(ref).equals(OLD.drop("b").vstack(OLD.drop("b")))
    assert store.read(store.versions("매출 2024")[0]).equals(OLD)
    assert {p: p.read_bytes() for p in before if p.name != "format"} == {p: b for p, b in before.items() if p.name != "format"}, "and changes no file"


def test_upgrade_by_hand(cli, project):
    publish(project.workspace / "format", "1\n")
    told = cli("upgrade", "--json", cwd=project.root)
    assert told.returncode == 0 and told.json["format"] == FORMAT and [(s["from"], s["to"]) for s in told.json["steps"]] == [(1, 2)], told.stderr
    assert cli("upgrade", cwd=project.root).stdout == "there is nothing to upgrade\n" and cli("upgrade", "--json", cwd=project.root).json["steps"] == []
    publish(project.workspace / "format", "99\n")
    assert cli("upgrade", cwd=project.root).returncode == 2
    (project.workspace / "format").unlink()
    assert cli("upgrade", cwd=project.root).stdout == "there is no workspace yet\n"


def test_looking_does_not_upgrade_and_running_does(cli, project):
    publish(project.workspace / "format", "1\n")
    for words in (("runs",), ("data", "log"), ("gc", "--dry-run")):
        assert "format 1" not in cli(*words, cwd=project.root).stderr and workspace_format(project) == 1, words
    assert f"format 1 → {FORMAT}" in cli("gc", cwd=project.root).stderr and workspace_format(project) == FORMAT


def test_steps_are_done_in_order_once_and_again_after_a_kill(project, monkeypatch):
    done = []

    def step(n, fail=False):
        def work(project):
            done.append(n)
            if fail and done.count(n) == 1: raise OSError("the disk is full")
        return work
    monkeypatch.setattr(workspace, "FORMAT", 4)
    monkeypatch.setattr(workspace, "STEPS", {n: (step(n, n == 2), msg("a step of a test")) for n in (3, 1, 2)})
    publish(project.workspace / "format", "1\n")
    with pytest.raises(OSError): upgrade(project)
    assert done == [1, 2] and workspace_format(project) == 2, "the mark stands before the step that failed"
    assert [(s["from"], s["to"]) for s in upgrade(project)] == [(2, 3), (3, 4)] and done == [1, 2, 2, 3] and upgrade(project) == []


def test_no_upgrade_under_a_run(project):
    publish(project.workspace / "format", "1\n")
    with FileLock(project.workspace / ".runner.lock"), pytest.raises(MlwbError, match="Wait for it to end, then: mlwb upgrade"): open_workspace(project)
    assert workspace_format(project) == 1
    for bad in ("", "two", "99", "-1", "9" * 5000):
        publish(project.workspace / "format", bad)
        with pytest.raises(InputError, match="Upgrade mlwb"): open_workspace(project)


def _open(root, start, said):
    start.wait()
    open_workspace(Project(Path(root)))
    said.put((Path(root) / "workspace" / "format").read_text())


def test_many_open_an_old_workspace_at_once(project, capfd):
    publish(project.workspace / "format", "1\n")
    context = multiprocessing.get_context("spawn")
    start, said = context.Barrier(6), context.Queue()
    workers = [context.Process(target=_open, args=(project.root, start, said)) for _ in range(6)]
    for w in workers: w.start()
    for w in workers: w.join()
    assert [said.get(timeout=10) for _ in workers] == [f"{FORMAT}\n"] * 6 and [w.exitcode for w in workers] == [0] * 6
    assert capfd.readouterr().err.count("format 1 →") == 1


def test_a_step_that_is_killed_is_done_again(project):
    code = ("import os, sys; from pathlib import Path; from mlwb.core import workspace as w; from mlwb.core.messages import msg\n"
            "w.STEPS = {1: (lambda p: os.kill(os.getpid(), 9) if sys.argv[2] == 'kill' else (p.workspace / 'done').touch(), msg('a step'))}\n"
            "w.open_workspace(w.Project(Path(sys.argv[1])))")
    publish(project.workspace / "format", "1\n")
    run = lambda how: subprocess.run([sys.executable, "-c", code, str(project.root), how], capture_output=True, text=True, env=dict(os.environ))
    assert run("kill").returncode == -signal.SIGKILL and workspace_format(project) == 1
    again = run("go on")
    assert again.returncode == 0 and "format 1 → 2: a step" in again.stderr and (project.workspace / "done").exists() and workspace_format(project) == 2
