"""Approval and registry: nothing is released that is not better beyond chance, nothing is loaded that was tampered with."""

import json
import os
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from mlwb.core.errors import InputError, MlwbError, UsageError
from mlwb.core.goal import Acceptance
from mlwb.core.results import dumps, loads
from mlwb.core.workspace import Project, publish
from mlwb.model.evaluate import evaluate
from mlwb.model.features import plan
from mlwb.model.search import fit_final
from mlwb.model.split import split
from mlwb.release import registry
from mlwb.release.gate import approve
from mlwb.serve.batch import predict_table


def frame(n=4000, seed=0):
    rng = np.random.default_rng(seed)
    df = pd.DataFrame({"at": pd.date_range("2013-01-01", periods=n, freq="h"), "km": rng.gamma(2., 300., n), "carrier": rng.choice(["UA", "AA", "대한"], n)})
    df["late"] = (df.km / 300 - 2) ** 2 + (df.carrier == "UA") + rng.normal(size=n) > 2
    return df


@pytest.fixture
def project(tmp_path):
    publish(tmp_path / "p" / "settings.ini", "[workbench]\nname = demo-도시\ntarget = late\ntime = at\nsource = x.csv\n")
    return Project(tmp_path / "p")


@pytest.fixture(scope="module")
def world():
    s = split(frame(), "late", "at")
    good, weak = (fit_final(s, plan(s), name, {}) for name in ("hgb", "logistic"))
    return SimpleNamespace(split=s, good=good, weak=weak, e_good=evaluate(good, s, None, 100), e_weak=evaluate(weak, s, None, 100))


def test_the_first_good_model_is_approved_released_and_met_again(project, world):
    first = approve(Acceptance(True, "beat", {"auc": .6}, {"ece": .5}), world.e_good, world.good, world.split, project)
    assert first.decision == "approved" and [g.name for g in first.gates] == ["dummy", "least auc", "most ece", "champion"]
    assert not (project.workspace / "mlflow.db").exists()  # asking for a champion makes nothing
    a = registry.release(project, world.good, {"run": "r1"}, world.split.frame("test").head())
    assert (a.decision, a.version, a.previous) == ("released", "1", "") and a.aliases == ["champion"]
    assert registry.champion(project).tags["mlwb.run"] == "r1" and "run" not in a.tags  # who released it is no part of what was released
    again = approve(Acceptance(), world.e_good, world.good, world.split, project)
    assert again.decision == "already champion" and again.champion == "1"
    b = registry.release(project, world.good, {"run": "r2"})
    assert (b.decision, b.version) == ("already champion", "1") and len(registry.versions(project)) == 1
    assert loads(dumps(first)).digest() == first.digest() and loads(dumps(a)).digest() == a.digest()
    assert "r1" not in str(a.to_json())


def test_a_worse_or_equal_model_does_not_replace_the_champion(project, world):
    registry.release(project, world.good)
    worse = approve(Acceptance(), world.e_weak, world.weak, world.split, project)
    gate = worse.gates[-1]
    assert worse.decision == "rejected" and gate.name == "champion" and not gate.passed and gate.value < 0
    assert "Not better than the champion" in str(worse.because)
    assert approve(Acceptance(champion="not-worse"), world.e_weak, world.weak, world.split, project).decision == "rejected"
    assert approve(Acceptance(champion="ignore"), world.e_weak, world.weak, world.split, project).decision == "approved"
    with pytest.raises(UsageError, match="Did you mean 'beat'"):
        approve({"champion": "beet"}, world.e_weak, world.weak, world.split, project)


def test_a_better_model_becomes_champion_and_the_old_one_previous(project, world):
    registry.release(project, world.weak)
    assert approve(Acceptance(), world.e_good, world.good, world.split, project).decision == "approved"
    now = registry.release(project, world.good)
    assert (now.version, now.previous) == ("2", "1") and registry.find(project, "previous").digest == world.weak.digest()
    rows = world.split.frame("test")
    np.testing.assert_array_equal(registry.champion(project).load().score(rows), world.good.score(rows))
    back = registry.promote(project, "1")
    assert back.version == "1" and registry.find(project, "previous").version == "2"


def test_noise_is_rejected_by_the_dummy_gate():
    rng = np.random.default_rng(1)
    df = frame(); df["late"] = rng.random(len(df)) < .3
    s = split(df, "late", "at")
    m = fit_final(s, plan(s), "logistic", {})
    a = approve(Acceptance(), evaluate(m, s, None, 100), m, s)
    assert a.decision == "rejected" and not a.gates[0].passed and "not better than the dummy" in str(a.because)


def test_thresholds_are_read_and_checked(world):
    high = approve(Acceptance(least={"auc": .999}), world.e_good, world.good, world.split)
    assert high.decision == "rejected" and "at least 0.999" in str(high.because)
    with pytest.raises(UsageError, match="Did you mean 'auc'"):
        approve(Acceptance(least={"acu": .5}), world.e_good, world.good, world.split)


def test_an_evaluation_of_another_model_is_refused_and_models_are_read_only_when_met(project, world):
    with pytest.raises(UsageError, match="Run the stage evaluate again"): approve(Acceptance(), world.e_good, world.weak, world.split, project)
    read = []
    model, split_ = (lambda: read.append("model") or world.good), (lambda: read.append("split") or world.split)
    first = approve(Acceptance(), world.e_good, model, split_, project)
    registry.release(project, world.good)
    again = approve(Acceptance(), world.e_good, model, split_, project)
    assert (first.decision, again.decision, first.model_digest) == ("approved", "already champion", world.good.digest()) and read == []
    registry.release(project, world.weak)
    assert approve(Acceptance(), world.e_good, model, split_, project) == approve(Acceptance(), world.e_good, world.good, world.split, project)
    assert read == ["model", "split"]


def test_a_champion_that_can_not_be_compared(project, world):
    registry.release(project, world.good)
    s = split(frame().rename(columns={"km": "distance"}), "late", "at")
    m = fit_final(s, plan(s), "hgb", {})
    a = approve(Acceptance(), evaluate(m, s, None, 50), m, s, project)
    assert a.decision == "rejected" and "needs the column 'km'" in str(a.because) and "ignore" in str(a.because)
    t = split(frame().assign(late=lambda d: np.where(d.late, "yes", "no")), "late", "at")
    n = fit_final(t, plan(t), "hgb", {})
    assert "something else" in str(approve(Acceptance(), evaluate(n, t, None, 50), n, t, project).because)


def test_regression_and_several_classes():
    df = frame()
    for target, task in ((df.km * 2 + df.late * 300, "regression"), (np.where(df.km > 800, "far", np.where(df.km > 400, "mid", "near")), "classification")):
        s = split(df.assign(y=target), "y", "at", task)
        m = fit_final(s, plan(s), "hgb", {})
        a = approve(Acceptance(), evaluate(m, s, None, 50), m, s)
        assert a.decision == "approved" and a.metric == ("rmse" if task == "regression" else "log_loss")
        table = predict_table(m, s.frame("test"))
        assert list(table)[0] == "row" and "prediction" in table and len(table) == len(s.rows("test"))


def test_nothing_tampered_with_is_loaded(project, world):
    registry.release(project, world.good)
    registry.release(project, world.weak)
    files = {}
    for f in project.artifacts.rglob("*.skops"): files[f.stat().st_size] = f
    small, large = (files[k] for k in (min(files), max(files)))
    shutil.copy(large, small)  # the champion's file replaced by another model
    with pytest.raises(InputError, match="digest"): registry.champion(project).load()
    small.write_bytes(b"nothing")
    with pytest.raises(InputError): registry.champion(project).load()
    shutil.rmtree(small.parent)
    with pytest.raises(MlwbError): registry.champion(project).load()


def test_a_draft_is_not_promoted_unless_named(project, world):
    stage = SimpleNamespace(project=project, run=SimpleNamespace(name="draft-1", draft=True))
    approval = approve(Acceptance(), world.e_good, world.good, world.split, project)
    no = registry.release_model(stage, world.good, approval, world.e_good, world.split)
    assert (no.decision, no.version) == ("not released", "") and registry.champion(project) is None
    with pytest.raises(UsageError, match="approve again"): registry.release_model(
        SimpleNamespace(project=project, run=SimpleNamespace(name="r", draft=False)), world.weak, approval, world.e_weak, world.split)
    yes = registry.release_model(stage, world.good, approval, world.e_good, world.split, "draft-1")
    assert yes.decision == "released" and registry.champion(project).tags["mlwb.run"] == "draft-1" and float(yes.tags["metric.test_auc"]) > .6
    rejected = SimpleNamespace(decision="rejected", model_digest=world.weak.digest())
    assert registry.release_model(stage, world.weak, rejected, world.e_weak, world.split, "draft-1").decision == "not released"


# --- a run that dies while it releases, and is run again under its name ------------------------------------------------

class Dies(Exception): pass


class Mortal:
    """An MLflow client that dies before or after its n-th step that writes."""
    def __init__(self, at, after): self.real, self.left, self.after = None, at, after

    @classmethod
    def of(cls, at, after):
        one = cls(at, after)
        return lambda real: setattr(one, "real", real) or one

    def __getattr__(self, name):
        call = getattr(self.real, name)
        if not name.startswith(("create_", "set_", "delete_")): return call

        def step(*args, **options):
            self.left -= 1
            if self.left < 0 and not self.after: raise Dies(name)
            done = call(*args, **options)
            if self.left < 0: raise Dies(name)
            return done
        return step


@pytest.fixture(scope="module")
def base(tmp_path_factory, world):
    """A project whose champion is the weak model, released by r1; an alias too many is to be left as it is."""
    folder = tmp_path_factory.mktemp("base") / "p"
    publish(folder / "settings.ini", "[workbench]\nname = demo\ntarget = late\ntime = at\nsource = x.csv\n")
    registry.release(Project(folder), world.weak, {"run": "r1"})
    registry.challenge(Project(folder), "1")
    return folder


def released(base, folder, world, mortal=lambda client: client, monkeypatch=None):
    """What r2's release of the good model leaves in a copy of `base`, after r2 has died of a mortal client; and whether it died."""
    project, died = Project(shutil.copytree(base, folder)), False
    with monkeypatch.context() as m:
        real = registry.client
        m.setattr(registry, "client", lambda project: mortal(real(project)))
        try: registry.release(project, world.good, {"run": "r2"})
        except Dies: died = True
    done = registry.release(project, world.good, {"run": "r2"})
    assert registry.champion(project, "r2").version == "1" and registry.champion(project).version == "2"
    return (done.to_json(), [(v.version, v.digest, v.aliases, v.tags["mlwb.run"]) for v in registry.versions(project)]), died


def test_a_release_that_died_at_any_step_is_repaired_by_running_it_again(base, tmp_path, world, monkeypatch):
    whole, _ = released(base, tmp_path / "whole", world, monkeypatch=monkeypatch)
    assert [whole[0][k] for k in ("decision", "version", "previous")] == ["released", "2", "1"]
    assert [aliases for _, _, aliases, _ in whole[1]] == [["champion"], ["challenger", "previous"]]
    for after in (False, True):
        for steps in range(10):
            found, died = released(base, tmp_path / f"{steps}-{after}", world, Mortal.of(steps, after), monkeypatch)
            assert found == whole, (steps, after)
            if not died: break
        assert steps == 5, "registered model, version, mark, previous, champion: five steps that write"


def test_a_resumed_run_meets_the_champion_that_it_met_the_first_time(base, tmp_path, world):
    project = Project(shutil.copytree(base, tmp_path / "p"))
    first = approve(Acceptance(), world.e_good, world.good, world.split, project, 50, run="r2")
    registry.release(project, world.good, {"run": "r2"})
    assert approve(Acceptance(), world.e_good, world.good, world.split, project, 50, run="r2") == first and first.champion == "1"
    assert approve(Acceptance(), world.e_good, world.good, world.split, project, 50, run="r3").decision == "already champion"


def test_whoever_moved_the_champion_meanwhile_is_not_overruled_unseen(project, world):
    registry.release(project, world.weak, {"run": "r1"})
    registry.release(project, world.good, {"run": "r2"})
    assert registry.promote(project, "1").version == "1"  # a person goes back
    assert registry.champion(project, "r2").version == "1" and registry.promoted(registry.find(project, "1"))["run"] == ""
    again = registry.release(project, world.good, {"run": "r3"})
    assert (again.decision, again.version, again.previous) == ("released", "2", "1") and len(registry.versions(project)) == 2
    assert registry.release(project, world.good, {"run": "r4"}).decision == "already champion"


KILLED = """
import json, os, random, shutil, signal, sys, time
from pathlib import Path
import numpy as np, pandas as pd
import mlflow.sklearn, mlflow.store.tracking.sqlalchemy_store, mlflow.store.model_registry.sqlalchemy_store
import skops.io
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from mlwb.core.workspace import Project, publish
from mlwb.model.artifact import Model
from mlwb.release.registry import release, versions

def model(seed):
    df = pd.DataFrame({"km": np.random.default_rng(seed).normal(size=100)})
    pipe = Pipeline([("prepare", make_column_transformer((StandardScaler(), ["km"]))), ("model", LogisticRegression())])
    return Model(pipe.fit(df, df.km > seed / 10), {"km": "number"}, "classification", "y", [False, True], "True", "logistic")

def child(work, kill=None):  # work in a process of its own; killed after so many seconds; the seconds it took
    start, pid = time.perf_counter(), os.fork()
    if not pid:
        try: work(); os._exit(0)
        except BaseException: import traceback; traceback.print_exc(); os._exit(1)
    if kill is not None: time.sleep(kill); os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if kill is None and status: sys.exit("a release failed that nobody killed")
    return time.perf_counter() - start

def run(folder, kill):
    project, new = Project(shutil.copytree(base, folder)), model(1)
    seconds = child(lambda: release(project, new, {"run": "r2"}), kill)
    child(lambda: publish(folder / "out.json", json.dumps(release(project, new, {"run": "r2"}).to_json())))
    state = [(v.version, v.digest, v.aliases, v.tags["mlwb.run"]) for v in versions(project)]
    return seconds, json.loads((folder / "out.json").read_text()), state

root, times, random = Path(sys.argv[1]), int(sys.argv[2]), random.Random(0)
base = root / "base"
publish(base / "settings.ini", "[workbench]\\nname = demo\\ntarget = y\\nsource = x.csv\\n")
child(lambda: release(Project(base), model(0), {"run": "r1"}))
seconds, *whole = run(root / "whole", None)
odd = [i for i in range(times) if run(root / str(i), random.uniform(.05, 1) * seconds)[1:] != tuple(whole)]
print(json.dumps({"release": whole[0], "state": whole[1], "odd": odd}))
"""


def test_a_release_killed_at_random_moments_ends_like_one_that_was_not(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), "12"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["odd"] == [] and (found["release"]["decision"], found["release"]["version"], found["release"]["previous"]) == ("released", "2", "1")
    assert [(v, aliases, run) for v, _, aliases, run in found["state"]] == [("2", ["champion"], "r2"), ("1", ["previous"], "r1")]


def test_batch_predictions_repeat(world):
    rows = world.split.frame("test", labelled=False)
    a, b = predict_table(world.good, rows, "1"), predict_table(world.good, rows, "1")
    pd.testing.assert_frame_equal(a, b)
    np.testing.assert_array_equal(a.score, world.good.score(rows))
    assert list(a) == ["row", "score", "prediction"] and a.attrs["version"] == "1" and (a.prediction == (a.score >= .5)).all()


FIRST = "import sys; from pathlib import Path; from mlwb.core.tracking import client, experiment; from mlwb.core.workspace import Project\n" \
        "project = Project(Path(sys.argv[1])); print(experiment(project), [e.name for e in client(project).search_experiments()])"


def first_use(root):
    publish(root / "settings.ini", "[workbench]\nname = first\ntarget = y\nsource = data.csv\n")
    return subprocess.Popen([sys.executable, "-c", FIRST, str(root)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_several_processes_that_use_the_database_first(tmp_path):
    """papermill's and MLflow's users know it as `table experiments already exists`."""
    started = [first_use(tmp_path) for _ in range(4)]
    said = [p.communicate(timeout=300) for p in started]
    assert [p.returncode for p in started] == [0] * 4, said
    assert len({out for out, _ in said}) == 1 and "'first'" in said[0][0]


@pytest.mark.parametrize("size", [1, 200_000, 400_000])
def test_one_that_is_killed_while_it_makes_the_database(tmp_path, size):
    """MLflow refuses a database in which some of its migrations were made, for ever."""
    process = first_use(tmp_path)
    def made(path):
        try: return os.stat(path).st_size >= size
        except FileNotFoundError: return False  # it has just got its name
    while process.poll() is None and not any(made(p) for p in tmp_path.glob("workspace/**/mlflow.db")): time.sleep(.002)
    process.kill()
    process.communicate()
    again = first_use(tmp_path)
    out, err = again.communicate(timeout=300)
    assert again.returncode == 0 and "'first'" in out, err
