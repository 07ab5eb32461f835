"""Approval and registry: nothing is released that is not better beyond chance, nothing is loaded that was tampered with."""

import shutil
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
    assert (a.decision, a.version, a.previous, a.tags["run"]) == ("released", "1", "", "r1") and a.aliases == ["champion"]
    again = approve(Acceptance(), world.e_good, world.good, world.split, project)
    assert again.decision == "already champion" and again.champion == "1"
    b = registry.release(project, world.good, {"run": "r2"})
    assert (b.decision, b.version) == ("already champion", "1") and len(registry.versions(project)) == 1
    assert loads(dumps(first)).digest() == first.digest() and loads(dumps(a)).digest() == a.digest()
    assert "run" not in str(a.to_json()).replace("'run': 'r1'", "")


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
    assert yes.decision == "released" and yes.tags["run"] == "draft-1" and float(yes.tags["metric.test_auc"]) > .6
    rejected = SimpleNamespace(decision="rejected", model_digest=world.weak.digest())
    assert registry.release_model(stage, world.weak, rejected, world.e_weak, world.split, "draft-1").decision == "not released"


def test_batch_predictions_repeat(world):
    rows = world.split.frame("test", labelled=False)
    a, b = predict_table(world.good, rows, "1"), predict_table(world.good, rows, "1")
    pd.testing.assert_frame_equal(a, b)
    np.testing.assert_array_equal(a.score, world.good.score(rows))
    assert list(a) == ["row", "score", "prediction"] and a.attrs["version"] == "1" and (a.prediction == (a.score >= .5)).all()
