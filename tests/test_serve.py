"""Serving: two public protocols answer the model's own numbers, every answer is in the log first, bad input never is a 500."""

import concurrent.futures
import json
import math
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from mlwb.core.errors import InputError, MlwbError
from mlwb.core.workspace import Project, publish
from mlwb.model.features import plan
from mlwb.model.search import fit_final
from mlwb.model.split import split
from mlwb.release import registry
from mlwb.serve.app import make_app
from mlwb.serve.batch import predict_table
from mlwb.serve.engine import Engine, load_engine
from mlwb.serve.predlog import PredictionLog

NAME = "demo-도시"


def frame(n=1500):
    rng = np.random.default_rng(0)
    df = pd.DataFrame({"at": pd.date_range("2013-01-01", periods=n, freq="h"), "km": rng.gamma(2., 300., n).round(1), "night": rng.random(n) < .3,
                       "항공사": rng.choice(["UA", "대한항공", "<b>'\""], n)})
    df.loc[::7, ["km", "항공사"]] = None
    df["late"] = df.km.fillna(300) / 600 + rng.normal(size=n) + df.night > 1.2
    return df


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("serve") / "p"
    publish(root / "settings.ini", f"[workbench]\nname = {NAME}\ntarget = late\ntime = at\nsource = x.csv\n")
    project, s = Project(root), split(frame(), "late", "at")
    model = fit_final(s, plan(s), "hgb", {})
    registry.release(project, model)
    return SimpleNamespace(project=project, model=model, rows=s.frame("test"))


@pytest.fixture(scope="module")
def server(world):
    """`serve` in a process of its own, on a free port of this machine."""
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
    code = f"from mlwb.core.workspace import find_project; from mlwb.serve.app import serve; serve(find_project(), port={port})"
    child = subprocess.Popen([sys.executable, "-c", code], cwd=world.project.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    end = time.time() + 60
    while time.time() < end:
        try: socket.create_connection(("127.0.0.1", port), 1).close(); break
        except OSError: time.sleep(.1)
        assert child.poll() is None, child.stdout.read().decode()
    yield f"127.0.0.1:{port}"
    child.send_signal(signal.SIGINT)
    child.wait(20)


@pytest.fixture
def http(world, tmp_path):
    """The app in this process with a log of its own."""
    from fastapi.testclient import TestClient
    engine = load_engine(world.project)
    engine.log = PredictionLog(tmp_path)
    client = TestClient(make_app(engine), raise_server_exceptions=False)
    client.engine = engine
    return client


def tensors(rows, columns):
    """V2 inputs of a frame's rows, as JSON."""
    types = {"number": "FP64", "boolean": "BOOL", "category": "BYTES", "time": "BYTES"}
    def data(c, k):
        if k == "time": return rows[c].map(lambda t: t.isoformat()).tolist()
        return [None if v is None or v != v else v for v in rows[c].astype(object)]
    return [{"name": c, "shape": [len(rows)], "datatype": types[k], "data": data(c, k)} for c, k in columns.items()]


# --- outside clients ---------------------------------------------------------------------------------------------------

def triton_inputs(client_module, rows, columns):
    out = []
    for c, k in columns.items():
        if k == "number": values, kind = rows[c].to_numpy(float), "FP64"
        elif k == "boolean": values, kind = rows[c].to_numpy(bool), "BOOL"
        else: values, kind = np.array([None if v is None or v != v else (v.isoformat() if k == "time" else v) for v in rows[c]], dtype=object), "BYTES"
        t = client_module.InferInput(c, [len(rows)], kind)
        t.set_data_from_numpy(values, binary_data=False)
        out.append(t)
    return out


def test_tritonclient_gets_the_batch_predictions_numbers(world, server):
    import tritonclient.http as triton

    rows, columns = world.rows.head(100), world.model.columns
    client = triton.InferenceServerClient(server)
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(NAME) and client.is_model_ready(NAME, "1")
    assert client.get_server_metadata()["name"] == "mlwb"
    about = client.get_model_metadata(NAME)
    assert about["versions"] == ["1"] and {t["name"] for t in about["inputs"]} == set(columns) and about["outputs"][0]["name"] == "score"
    outputs = [triton.InferRequestedOutput(o, binary_data=False) for o in ("score", "prediction", "id")]
    answer = client.infer(NAME, triton_inputs(triton, rows, columns), request_id="batch-1", outputs=outputs)
    batch = predict_table(world.model, rows)
    np.testing.assert_array_equal(answer.as_numpy("score"), batch.score)
    np.testing.assert_array_equal(answer.as_numpy("prediction"), batch.prediction)
    logged = PredictionLog(world.project.predictions).read(version="1").set_index("id")
    ids = [i.decode() if isinstance(i, bytes) else i for i in answer.as_numpy("id")]
    assert ids == [f"batch-1:{i}" for i in range(100)] and logged.loc[ids, "score"].tolist() == batch.score.tolist()
    inputs = world.model.coerce(pd.DataFrame(logged.loc[ids, "inputs"].tolist(), dtype=object))
    np.testing.assert_array_equal(world.model.score(inputs), batch.score)  # what is logged is enough to predict again
    single = client.infer(NAME, triton_inputs(triton, rows.head(1), columns))  # binary outputs are asked for by default: JSON comes
    assert single.as_numpy("score")[0] == batch.score[0]
    with pytest.raises(triton.InferenceServerException, match="has no input 'kms'"):
        bad = triton_inputs(triton, rows, columns); bad[0]._name = "kms"; client.infer(NAME, bad)
    with pytest.raises(triton.InferenceServerException, match="binary_data=False"):
        t = triton.InferInput("km", [1], "FP64"); t.set_data_from_numpy(np.array([1.]), binary_data=True); client.infer(NAME, [t])


def test_requests_side_by_side_are_all_answered_and_logged(world, server):
    import httpx
    rows, before = world.rows.head(40), len(PredictionLog(world.project.predictions))
    score = world.model.score(rows)
    def ask(i):
        doc = {"inputs": tensors(rows.iloc[[i]], world.model.columns)}
        return httpx.post(f"http://{server}/v2/models/{NAME}/infer", json=doc, timeout=30).json()
    with concurrent.futures.ThreadPoolExecutor(12) as pool: answers = list(pool.map(ask, list(range(40)) * 3))
    for k, a in enumerate(answers): assert a["outputs"][0]["data"] == [score[k % 40]]
    assert len({a["id"] for a in answers}) == 120 and len(PredictionLog(world.project.predictions)) == before + 120


def test_the_server_listens_on_this_machine_only(server):
    import psutil
    port = int(server.split(":")[1])
    open_at = {c.laddr.ip for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.laddr.port == port}
    assert open_at == {"127.0.0.1"}


# --- MLflow's protocol -------------------------------------------------------------------------------------------------

def test_invocations_in_all_their_forms(world, http):
    rows = world.rows.head(5)[list(world.model.columns)]
    score = world.model.score(rows).tolist()
    plain = json.loads(rows.to_json(orient="split", date_format="iso", index=False))
    records = json.loads(rows.to_json(orient="records", date_format="iso"))
    columns = {c: [r[c] for r in records] for c in rows}
    for body in ({"dataframe_split": plain}, {"dataframe_records": records}, {"inputs": columns}, {"inputs": records}, {"instances": records}):
        answer = http.post("/invocations", json=body)
        assert answer.status_code == 200, answer.text
        assert [p["score"] for p in answer.json()["predictions"]] == score
    csv = http.post("/invocations", content=rows.to_csv(index=False).encode(), headers={"content-type": "text/csv; charset=utf-8"})
    assert [p["score"] for p in csv.json()["predictions"]] == score and len(http.engine.log) == 30
    assert [http.get(p).status_code for p in ("/ping", "/health", "/version")] == [200] * 3


# --- bad input ---------------------------------------------------------------------------------------------------------

def good(world, n=2): return {"inputs": tensors(world.rows.head(n), world.model.columns)}


def change(doc, index, **fields): doc["inputs"][index] = doc["inputs"][index] | fields; return doc


CASES = {
    "not JSON": (b"{", "not JSON"), "a list": (b"[1]", "not an object"), "nothing": (b"", "not JSON"), "deep": (b"[" * 200_000, ""),
    "bytes": (b"\xff\xfe\x00", "not JSON"), "no inputs": ({}, "no list `inputs`"), "inputs of another kind": ({"inputs": [1]}, "no list `inputs`"),
    "empty": ({"inputs": []}, "no rows"), "huge number": ({"inputs": [{"name": "km", "shape": [1], "datatype": "INT64", "data": [10**400]}]}, "missing"),
    "hostile name": ({"inputs": [{"name": "\ud800<script>", "shape": [1], "datatype": "FP64", "data": [1]}]}, "has no input"),
    "unknown output": ({"inputs": [], "outputs": [{"name": "scor"}]}, "Did you mean 'score'"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_no_request_is_a_400(world, http, name):
    body, words = CASES[name]
    answer = http.post(f"/v2/models/{NAME}/infer", content=body if isinstance(body, bytes) else json.dumps(body).encode())
    assert answer.status_code == 400 and words in answer.json()["error"] and "Traceback" not in answer.text, answer.text
    assert len(http.engine.log) == 0


def test_wrong_columns_values_and_shapes_are_400s(world, http):
    names = [t["name"] for t in good(world)["inputs"]]
    km, at, night = (names.index(n) for n in ("km", "at", "night"))
    cases = [(change(good(world), night, name="nigth"), "Did you mean 'night'"), (change(good(world), km, shape=[2, 2]), "Allowed are [n] and [n, 1]"),
             (change(good(world), km, datatype="BYTES", data=["a", "b"]), "Send it as FP64"), (change(good(world), km, data=["x", 1]), "row 0: 'x' is no FP64"),
             (change(good(world), km, datatype="FP65"), "Allowed: BOOL"), (change(good(world), km, shape=[1], data=[1]), "differ in their number of rows"),
             (change(good(world), at, data=["yesterday", "today"]), "time"), (change(good(world), at, datatype="FP64", data=[1.0, 2.0]), "ISO 8601"),
             (change(good(world), km, data=[[1], {"a": 1}]), "is no FP64"), ({"inputs": good(world)["inputs"] * 2}, "there twice"),
             ({"inputs": [t for t in good(world)["inputs"] if t["name"] != "km"]}, "'km' is missing")]
    for doc, words in cases:
        answer = http.post(f"/v2/models/{NAME}/infer", json=doc)
        assert answer.status_code == 400 and words in answer.json()["error"], (words, answer.text)
    for body, words in [({"rows": []}, "needs one of"), ({"dataframe_records": [{"km": "x", "night": True, "항공사": "UA", "at": "2013-01-01"}]}, "km"),
                        ({"dataframe_records": [{"km": 1}]}, "is missing"), ({"inputs": {"km": [[{}]]}}, "no value of a table")]:
        answer = http.post("/invocations", json=body)
        assert answer.status_code == 400 and answer.json()["error_code"] == "BAD_REQUEST" and words in answer.json()["message"], answer.text
    assert len(http.engine.log) == 0


def test_other_models_methods_encodings_and_sizes(world, http, monkeypatch):
    import mlwb.serve.app as app
    assert http.post("/v2/models/other/infer", json=good(world)).status_code == 404
    assert "version 1 is" in http.post(f"/v2/models/{NAME}/versions/9/infer", json=good(world)).json()["error"]
    assert http.post(f"/v2/models/{NAME}/versions/1/infer", json=good(world)).status_code == 200
    assert http.delete(f"/v2/models/{NAME}").status_code == 405 and http.get("/docs").status_code == 404
    assert http.post("/invocations", content=b"x", headers={"content-encoding": "gzip"}).status_code == 415
    monkeypatch.setattr(app, "MAX_BODY", 1000)
    assert http.post(f"/v2/models/{NAME}/infer", json=good(world, 100)).status_code == 413


def test_missing_values_arrive_as_missing(world, http):
    row = world.rows.head(1)
    empty = row.assign(km=np.nan, **{"항공사": None})
    wanted = world.model.score(empty).tolist()
    for km, carrier in ((None, None), (math.nan, "None")):
        new = {"km": {"data": [km]}, "항공사": {"data": [carrier]}}
        doc = {"inputs": [t | new.get(t["name"], {}) for t in tensors(row, world.model.columns)]}
        answer = http.post(f"/v2/models/{NAME}/infer", content=json.dumps(doc).encode())
        assert answer.json()["outputs"][0]["data"] == wanted, answer.text
    assert http.engine.log.read().inputs[0]["km"] is None


def test_nothing_is_answered_that_is_not_logged(world, http, tmp_path):
    (tmp_path / "file").write_text("")
    http.engine.log = PredictionLog(tmp_path / "file" / "predictions.db")
    answer = http.post(f"/v2/models/{NAME}/infer", json=good(world))
    assert answer.status_code in (500, 503) and "outputs" not in answer.text


def test_a_model_that_fails_leaks_nothing(http, monkeypatch, caplog):
    monkeypatch.setattr(type(http.engine.model), "score", lambda self, df: 1 / 0)
    answer = http.post("/invocations", json={"inputs": {c: ["2013-01-01" if k == "time" else 1] for c, k in http.engine.columns.items()}})
    assert answer.status_code == 500 and "division by zero" not in answer.text and "Traceback" not in answer.text
    assert "ZeroDivisionError" in caplog.text and len(http.engine.log) == 0


def test_which_model(world, tmp_path):
    folder = world.model.save(tmp_path / "m")
    assert load_engine(world.project, "1").version == "1" and load_engine(world.project, str(folder)).version == world.model.digest()[:19]
    with pytest.raises(InputError, match="registered model version"): load_engine(world.project, "7")
    publish(tmp_path / "e" / "settings.ini", "[workbench]\nname = a\ntarget = b\nsource = c.csv\n")
    with pytest.raises(InputError, match="mlwb run"): load_engine(Project(tmp_path / "e"))


def test_several_classes_and_numbers():
    df = frame().assign(y=lambda d: np.where(d.km > 800, "far", np.where(d.km > 400, "mid", "near")))
    from fastapi.testclient import TestClient
    for task, target in (("classification", df.y), ("regression", df.km.fillna(0) * 2)):
        s = split(df.assign(y=target).drop(columns="late"), "y", "at", task)
        m = fit_final(s, plan(s), "hgb", {})
        http = TestClient(make_app(Engine(m, "m", "1")), raise_server_exceptions=False)
        rows = s.frame("test").head(3)
        out = {o["name"]: o for o in http.post("/v2/models/m/infer", json={"inputs": tensors(rows, m.columns)}).json()["outputs"]}
        np.testing.assert_array_equal(np.array(out["score"]["data"]).reshape(out["score"]["shape"]), m.score(rows))
        assert out["prediction"]["datatype"] == ("BYTES" if task == "classification" else "FP64")
        assert http.get("/v2/models/m").json()["outputs"][0]["shape"] == ([-1, 3] if task == "classification" else [-1])


# --- the log -----------------------------------------------------------------------------------------------------------

RECORD = {"model": "m", "version": "1", "inputs": {"a": 1.5, "국가": None}, "score": .25, "prediction": "no"}


def _write(path, name, n):
    log = PredictionLog(path)
    for i in range(n): log.append([RECORD | {"id": f"{name}-{i}-{j}"} for j in range(5)])


def test_four_processes_write_side_by_side(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write, args=(tmp_path, k, 50)) for k in range(4)]
    for w in workers: w.start()
    for w in workers: w.join(60)
    assert [w.exitcode for w in workers] == [0] * 4 and len(PredictionLog(tmp_path)) == 1000


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path):
    code = f"""
import sys; from pathlib import Path; from mlwb.serve.predlog import PredictionLog
log, i = PredictionLog(Path({str(tmp_path)!r})), 0
while True:
    ids = log.append([dict({RECORD!r}, id=f"{{i}}-{{j}}") for j in range(3)])
    print(*ids, flush=True); i += 1
"""
    for attempt in range(3):
        child = subprocess.Popen([sys.executable, "-c", code.replace("id=f\"", f"id=f\"{attempt}-")], stdout=subprocess.PIPE, text=True)
        seen = [child.stdout.readline().split() for _ in range(20 + 30 * attempt)]
        threading.Timer(.05, os.kill, (child.pid, signal.SIGKILL)).start()
        seen += [line.split() for line in child.stdout.read().splitlines()]
        child.wait()
        there = set(PredictionLog(tmp_path).read()["id"])
        assert child.returncode == -9 and {i for ids in seen for i in ids} <= there
        assert all(sum(f"{attempt}-{k}-{j}" in there for j in range(3)) in (0, 3) for k in range(len(seen) + 2))  # whole batches


def test_ids_retries_and_hostile_text(tmp_path):
    log = PredictionLog(tmp_path)
    hostile = ["'; DROP TABLE predictions; --", "../../etc/passwd", "a\x00b", "\ud800", "국가\n" * 100, ""]
    ids = log.append([RECORD | {"id": h, "prediction": h, "inputs": {h: h}} for h in hostile])
    assert len(set(ids)) == len(log) == 6 and all(len(i) <= 240 for i in ids)
    assert log.append([RECORD | {"id": "same"}]) == ["same"] == log.append([RECORD | {"id": "same"}]) and len(log) == 7
    other = log.append([RECORD | {"id": "same", "inputs": {"a": 2}}])
    assert other[0].startswith("same~") and len(log) == 8
    df = log.read()
    assert list(df) == ["id", "time", "model", "version", "inputs", "score", "prediction", "source"] and df.inputs.iloc[-1] == {"a": 2}
    assert len(log.read(since=df.time.iloc[-1])) >= 1 and log.read(until=df.time.iloc[0]).empty and log.read(version="2").empty


def test_a_log_survives_fork_close_and_damage(tmp_path):
    log = PredictionLog(tmp_path)
    log.append([RECORD])
    if (pid := os.fork()) == 0:
        try: log.append([RECORD]); os._exit(0)
        except BaseException: os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    log.append([RECORD]); log.close(); log.append([RECORD])
    assert len(log) == 4
    (tmp_path / "bad.db").write_text("no database " * 500)
    with pytest.raises(MlwbError, match="can't be used"): PredictionLog(tmp_path / "bad.db").append([RECORD])
