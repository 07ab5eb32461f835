"""The model room on real data: leaks, splits, search against a plain gradient boosting, files, explanations."""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from mlwb.core.errors import InputError
from mlwb.core.results import dumps, loads
from mlwb.model.artifact import Model
from mlwb.model.evaluate import compare, evaluate
from mlwb.model.explain import explain
from mlwb.model.features import plan
from mlwb.model.leaks import find_leaks
from mlwb.model.search import fit_final, search
from mlwb.model.split import split

LEAKS = ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"]
PROXIES = ["year", "month", "time_hour"]


# --- flights, the main job -----------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def flights():
    from mlwb.data.sources import read
    table, note = read("demo:flights")
    return split(table.to_pandas(), "late", "sched_dep", cuts="2013-04-01, 2013-05-01, 2013-07-01"), note


def plain_hgb(s, columns):
    """A gradient boosting as anybody would write it: the same columns, categories as such, the same months."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    X = s.all[columns].copy()
    for c in X:
        if not pd.api.types.is_numeric_dtype(X[c]):
            top = X[c].value_counts().index[:254]
            X[c] = pd.Categorical(X[c].where(X[c].isin(top)), categories=top)
    at = s.rows("train+validation")
    fitted = HistGradientBoostingClassifier(random_state=0).fit(X.iloc[at], s.y("train+validation"))
    return lambda part: fitted.predict_proba(X.iloc[s.rows(part)])[:, 1]


def test_flights_leaks_are_the_five(flights):
    s, note = flights
    assert find_leaks(s, note).dropped == LEAKS
    assert find_leaks(s).dropped == LEAKS  # by the pattern of missing values, with no note at all
    f = plan(s, find_leaks(s, note))
    assert set(LEAKS + PROXIES + ["late"]) <= {d.column for d in f.dropped}
    assert [p.rows for p in s.parts] == [80789, 28330, 57039, 170618] and s.kind == "time"
    assert [p[0] for p in s.periods("monitor")] == [f"2013-{m:02}" for m in range(7, 13)]


def test_flights_search_beats_a_plain_gradient_boosting(flights):
    from sklearn.metrics import roc_auc_score
    s, note = flights
    f = plan(s, find_leaks(s, note))
    found = search(s, f)
    plain = plain_hgb(s, [c.name for c in f.columns if c.kind != "time"])
    for part in ("test", "monitor"):
        ours, theirs = (roc_auc_score(s.y(part), p) for p in (found.best.score(s.frame(part)), plain(part)))
        assert ours >= theirs - .005, (part, ours, theirs)
    assert not set(found.best.columns) & set(LEAKS + PROXIES)
    assert len(found.leaderboard.trials) == 13 and {t.model for t in found.leaderboard.trials} >= {"dummy", "logistic", "hgb"}
    e = evaluate(found.best, s, {"costs": {"hit": 5, "false_alarm": 10, "miss": 40}, "currency": "USD"})
    assert e.scalars["test_auc"] > .73 and e.baseline["auc"].better and e.kpi["total"] < min(e.kpi["never"], e.kpi["always"])
    assert e.metrics["test"]["auc"].n == 55203 and e.slices[0].worse
    x = explain(found.best, s.frame("test"), s.frame("test")["late"], n=300)
    assert {c.name for c in x.columns} == set(found.best.columns) and x.unit == "log-odds"
    for result in (found.leaderboard, e, x, s, f): assert dumps(loads(dumps(result))) == dumps(result)
    assert len(dumps(x)) < 1_000_000


# --- adult and bike --------------------------------------------------------------------------------------------------------

def test_adult(data_dir):
    from sklearn.metrics import roc_auc_score
    s = split(pd.read_parquet(data_dir / "adult.parquet"), "class")
    assert s.classes == ["<=50K", ">50K"] and s.kind == "random" and s.parts[3].rows == 0
    leaks = find_leaks(s)
    assert leaks.dropped == []
    m = search(s, plan(s, leaks), "logistic, hgb", 2).best
    te = s.frame("test")
    assert roc_auc_score(te["class"] == ">50K", m.score(te)) > .92
    assert set(m.predict(te)) == {"<=50K", ">50K"}
    e = evaluate(m, s, n_boot=50)
    assert e.positive == ">50K" and e.kpi == {} and any(x.column == "sex" for x in e.slices) or len({x.column for x in e.slices}) == 8


def test_bike_leaks_are_both_parts_of_the_sum(data_dir):
    s = split(pd.read_parquet(data_dir / "bike_hourly.parquet"), "cnt", "ts", "regression")
    leaks = find_leaks(s)
    assert leaks.dropped == ["casual", "registered"] and "casual + registered = cnt" in str(leaks.columns[0].evidence)
    f = plan(s, leaks)
    assert {"instant", "dteday", "yr"} <= {d.column for d in f.dropped} and "hr" in f.names()
    found = search(s, f, "ridge, hgb", 4)
    e = evaluate(found.best, s, {"costs": {"per_unit": 2.0}, "currency": "USD"}, 50)
    assert e.primary == "rmse" and e.metrics["test"]["rmse"].value < 160 and e.baseline["rmse"].better and "rmsle" in e.metrics["test"]
    assert e.kpi["total"] < e.kpi["dummy"]


def test_hotel_hard_leak(data_dir):
    s = split(pd.read_parquet(data_dir / "hotel_bookings.parquet"), "is_canceled", "booking_date")
    assert "reservation_status" in find_leaks(s).dropped


# --- small tables ----------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def trips():
    rng = np.random.default_rng(0)
    n = 3000
    df = pd.DataFrame({"출발": pd.date_range("2013-01-01", periods=n, freq="h"), "km": pd.array(rng.gamma(2., 300., n).round(), dtype="Float64"),
                       "carrier": rng.choice(["UA", "대한항공", None], n), "tail": rng.choice([f"N{i}" for i in range(200)], n),
                       "night": pd.array(rng.random(n) < .3, dtype="boolean"), "stops": pd.array(rng.integers(0, 3, n), dtype="Int64")})
    df.loc[::40, ["km", "night", "stops"]] = pd.NA
    late = df.km.astype(float).fillna(0) / 600 + (df.carrier == "UA") + rng.normal(size=n) > 1.5
    df["late"] = late.astype("boolean").mask(rng.random(n) < .02)
    return df


def small(trips, name="hgb", seed=0):
    s = split(trips, "late", "출발")
    return fit_final(s, plan(s), name, {}, seed), s


@pytest.mark.parametrize("name", ["logistic", "hgb", "mlp"])
def test_model_survives_its_file_and_another_process(trips, name, tmp_path):
    m, s = small(trips, name)
    m.save(tmp_path / "m")
    te = s.frame("test")
    again = Model.load(tmp_path / "m")
    assert again.digest() == m.digest() and (again.score(te) == m.score(te)).all()
    trips.to_parquet(tmp_path / "t.parquet")
    code = f"""
import pandas as pd
from mlwb.model.split import split; from mlwb.model.features import plan; from mlwb.model.search import fit_final
from mlwb.model.artifact import Model
s = split(pd.read_parquet({str(tmp_path / 't.parquet')!r}), "late", "출발")
m = fit_final(s, plan(s), {name!r}, {{}})
m.save({str(tmp_path / 'n')!r})
print(m.digest(), Model.load({str(tmp_path / 'm')!r}).digest())
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8")
    assert out.returncode == 0, out.stderr
    assert out.stdout.split() == [m.digest()] * 2
    assert (tmp_path / "n" / "model.skops").read_bytes() == (tmp_path / "m" / "model.skops").read_bytes()


def test_model_takes_rows_in_any_form(trips):
    import polars as pl
    m, s = small(trips)
    te = s.frame("test")
    want = m.score(te)
    records = json.loads(te.to_json(orient="records", date_format="iso"))
    for rows in (pl.from_pandas(te), records, {k: [r[k] for r in records] for k in records[0]}, te.astype(object), te[reversed(te.columns)]):
        assert np.allclose(m.score(rows), want)
    odd = {"출발": "2014-02-28", "km": "", "carrier": "처음 보는 항공사", "tail": None, "night": "true", "stops": "2"}
    assert 0 < m.score([odd])[0] < 1
    with pytest.raises(InputError, match="column 'km' holds 'far'"): m.score([odd | {"km": "far"}])
    with pytest.raises(InputError, match="lack the column 'tail'"): m.score(te.drop(columns="tail"))


def test_a_tampered_model_is_not_loaded(trips, tmp_path):
    m, _ = small(trips, "logistic")
    m.save(tmp_path)
    other, _ = small(trips.assign(km=1.0), "logistic")
    other.save(tmp_path / "other")
    (tmp_path / "model.skops").write_bytes((tmp_path / "other" / "model.skops").read_bytes())
    with pytest.raises(InputError, match="digest does not match"): Model.load(tmp_path)


def test_search_is_deterministic_and_works_without_torch(trips, monkeypatch):
    from mlwb.model.estimators import Estimator
    s = split(trips, "late", "출발")
    f = plan(s)
    monkeypatch.setattr(Estimator, "missing", lambda self: list(self.needs))
    a, b = search(s, f, trials=5), search(s, f, trials=5)
    assert dumps(a.leaderboard) == dumps(b.leaderboard) and a.best.digest() == b.best.digest()
    assert "pip install" in str(a.leaderboard.left_out[0]) and {t.model for t in a.leaderboard.trials} == {"dummy", "logistic", "hgb"}
    with pytest.raises(InputError, match="Did you mean 'hgb'"): search(s, f, "hbg")


def test_compare_is_paired(trips):
    (a, s), (b, _) = small(trips), small(trips.assign(km=1.0))
    assert compare(a, b, s)["better"] and compare(b, a, s)["worse"]
    same = compare(a, a, s)
    assert same["difference"] == 0 and not same["better"] and not same["worse"]


@pytest.mark.parametrize("change, words", [
    (dict(late=True), "one class only"), (dict(late=None), "is empty in all"), (dict(late=range(3000)), "too many to be classes"),
    (dict(출발="2013-01-01"), "different times")])
def test_tables_that_nothing_can_be_learnt_from(trips, change, words):
    with pytest.raises(InputError, match=words): split(trips.assign(**change), "late", "출발")


def test_hostile_column_names(trips):
    bad = trips.rename(columns={"km": "<b>km</b>", "tail": "a=b: c", "carrier": "{x}"})
    m, s = small(bad)
    e = explain(m, s.frame("test"), n=50)
    assert {"<b>km</b>", "a=b: c", "{x}"} <= {c.name for c in e.columns}
    notes = find_leaks(s, SimpleNamespace(unknown_at_prediction=["{x}"]))
    assert [str(d.reason) for d in plan(s, notes).dropped if d.column == "{x}"][0].startswith("It knows the label")


def test_every_module_imports_by_itself():
    import mlwb.model
    names = sorted(p.stem for p in map(__import__("pathlib").Path, mlwb.model.__path__) for p in p.glob("*.py") if p.stem != "__init__")
    assert len(names) >= 16
    code = "import importlib, sys\nfor n in sys.argv[1:]: importlib.import_module('mlwb.model.' + n)\n" \
           "print([m for m in ('torch', 'mlflow', 'shap', 'optuna', 'skops') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert out.stdout.strip() == "[]"
