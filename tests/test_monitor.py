"""Monitoring: what became of a model after its test, and what to do about it."""

import numpy as np
import pandas as pd
import pytest

from mlwb.core.errors import InputError, UsageError
from mlwb.core.goal import Goal
from mlwb.core.results import dumps, loads
from mlwb.model.evaluate import evaluate
from mlwb.model.features import plan
from mlwb.model.search import fit_final
from mlwb.model.split import split
from mlwb.monitor.performance import document, monitor
from mlwb.monitor.windows import decayed
from mlwb.serve.predlog import PredictionLog

GOAL = Goal("late", "classification", "be on time", "USD", {"hit": 5., "false_alarm": 10., "miss": 40., "rest": 0.})
CUTS = "2013-04-01, 2013-05-01, 2013-07-01"


def frame(change=None, n=8760, seed=0):
    """A year of hours; `change(df, later)` acts on the rows from July on."""
    rng = np.random.default_rng(seed)
    df = pd.DataFrame({"at": pd.date_range("2013-01-01", periods=n, freq="h"), "km": rng.gamma(2., 300., n), "carrier": rng.choice(["UA", "AA"], n)})
    signal = (df.km / 300 - 2) + (df.carrier == "UA")
    later = df["at"] >= "2013-07-01"
    df["late"] = pd.array(np.where(later & (change == "concept"), -signal, signal) + rng.normal(size=n) > .5, dtype="boolean")
    if change == "shift": df.loc[later, "km"] += 400
    return df


def world(df):
    s = split(df, "late", "at", cuts=CUTS)
    m = fit_final(s, plan(s), "logistic", {})
    return s, m, evaluate(m, s, GOAL, 100)


def test_nothing_happened():
    s, m, e = world(frame())
    drift, mon = monitor(m, s, e, GOAL)
    assert mon.decision == "ok" and drift.verdict == "ok" and mon.alerts == [] and "holds" in str(mon.because)
    assert [p.label for p in mon.periods] == [f"2013-{k:02}" for k in range(7, 13)] == [h["label"] for h in drift.history]
    assert mon.window["rows"] == sum(p.rows for p in mon.periods) == len(s.rows("monitor", labelled=False))
    assert mon.test == e.metrics["test"]["auc"] and mon.realized.low < mon.realized.value < mon.realized.high
    assert mon.kpi["total"] == pytest.approx(sum(p.cost for p in mon.periods)) and mon.scalars == {"monitor_auc": mon.realized.value}
    assert loads(dumps(mon)).digest() == mon.digest() and monitor(m, s, e, GOAL)[1].digest() == mon.digest()
    doc = document(mon, drift)
    assert {"window", "drift", "performance", "kpi", "alerts", "decision", "because"} <= set(doc) and {"realized", "estimated"} <= set(doc["performance"])
    assert isinstance(doc["because"], str) and doc["drift"]["columns"]


def test_concept_drift_asks_for_training():
    s, m, e = world(frame("concept"))
    drift, mon = monitor(m, s, e, GOAL)
    assert mon.decision == "retrain" and drift.verdict == "ok" and all(p.decayed for p in mon.periods) and "worse than the test's" in str(mon.because)
    assert {a["kind"] for a in mon.alerts} >= {"decay"}


def test_a_previous_model_that_would_do_better_is_gone_back_to():
    s, m, e = world(frame("concept"))
    later = s.all[s.all["at"] >= "2013-07-01"]
    r = split(later.reset_index(drop=True), "late", "at")
    previous = fit_final(r, plan(r), "logistic", {})
    assert monitor(m, s, e, GOAL, previous=previous)[1].decision == "rollback"
    assert monitor(m, s, e, GOAL, previous=m)[1].decision == "retrain"


def test_drift_without_decay_is_to_be_looked_into():
    s, m, e = world(frame("shift"))
    drift, mon = monitor(m, s, e, GOAL)
    assert drift.verdict == "drift" and mon.periods[-1].drifted == ["km"] and mon.decision == "investigate" and "km" in str(mon.because)


def test_no_labels_no_performance():
    df = frame("shift")
    df.loc[df["at"] >= "2013-07-01", "late"] = pd.NA
    s, m, e = world(df)
    _, mon = monitor(m, s, e, GOAL)
    assert mon.realized is None and mon.window["labelled"] == 0 and mon.decision == "investigate" and "no labels" in str(mon.because)
    assert mon.periods[0].metric is None and mon.periods[0].mean_score > 0 and "unknown" in str(mon.notes[0])
    assert document(mon)["performance"]["realized"] is None


def test_nothing_later():
    s, m, e = world(frame())
    s.positions = {**s.positions, "monitor": np.array([], dtype=int)}
    drift, mon = monitor(m, s, e, GOAL)
    assert mon.decision == "ok" and "nothing to monitor" in str(mon.because) and drift.verdict == "ok" and mon.periods == []
    assert document(mon, drift)["window"]["rows"] == 0


def test_the_log_as_source(tmp_path):
    s, m, e = world(frame("shift"))
    log = PredictionLog(tmp_path)
    with pytest.raises(InputError, match="holds nothing"): monitor(m, s, e, GOAL, source="log", log=log)
    with pytest.raises(UsageError, match="Did you mean 'score'"): monitor(m, s, e, GOAL, source="scroe")
    rows = s.frame("monitor", labelled=False).head(1500)
    score = m.score(rows)
    inputs = rows[list(m.columns)].to_dict("records")
    ids = log.append([{"id": f"r{i}", "time": t.strftime("%Y-%m-%dT%H:%M:%SZ"), "model": "demo", "version": "1", "inputs": x, "score": p, "prediction": p > .5}
                      for i, (t, x, p) in enumerate(zip(rows["at"], inputs, score))])
    drift, mon = monitor(m, s, e, GOAL, source="log", log=log, version="1")
    assert mon.window["rows"] == 1500 and mon.realized is None and mon.decision == "investigate"
    assert drift["km"].verdict == "drift" and drift["carrier"].verdict == "ok"
    labels = pd.Series(rows["late"].to_numpy()[:1000], index=ids[:1000])
    _, known = monitor(m, s, e, GOAL, source="log", log=log, version="1", labels=labels)
    assert known.window["labelled"] == 1000 and known.realized.n == 1000 and known.kpi["total"] > 0


def test_regression_over_time():
    df = frame().assign(y=lambda d: d.km * 2 + d.late.astype(float) * 50)
    df.loc[df["at"] >= "2013-10-01", "y"] *= 2
    s = split(df.drop(columns="late"), "y", "at", "regression", cuts=CUTS)
    m = fit_final(s, plan(s), "hgb", {})
    e = evaluate(m, s, {"costs": {"per_unit": 2.}, "currency": "km"}, 50)
    _, mon = monitor(m, s, e, Goal("y", "regression", "x", "km", {"per_unit": 2.}))
    assert mon.metric == "rmse" and mon.decision == "retrain" and [p.decayed for p in mon.periods] == [False] * 3 + [True] * 3
    assert mon.periods[0].cost > 0 and mon.periods[0].positive_rate > 100


def test_bike_loses_its_grip(data_dir):
    """Trained on 2011, judged on 2012: demand grew, RMSE 125 against less than 100 in the test."""
    df = pd.read_parquet(data_dir / "bike_hourly.parquet")
    time = next(c for c in df.columns if pd.api.types.is_datetime64_any_dtype(df[c]))
    df = df.drop(columns=["casual", "registered"])
    s = split(df, "cnt", time, "regression", cuts="2011-09-01, 2011-11-01, 2012-01-01")
    m = fit_final(s, plan(s), "hgb", {})
    _, mon = monitor(m, s, evaluate(m, s, None, 50))
    assert mon.decision == "retrain" and mon.realized.value > mon.test.high


def test_decay_needs_tolerance_and_certainty():
    from mlwb.model.metrics import Metric
    test = Metric(100., 95., 105., 5000, "rmse")
    assert decayed(Metric(120., 115., 125., 5000, "rmse"), test, .05) and not decayed(Metric(108., 106., 110., 5000, "rmse"), test, .05)
    assert not decayed(Metric(150., 90., 210., 10, "rmse"), test, .05)
