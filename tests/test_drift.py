"""Drift: silent when nothing happened, loud when something did, and never an exception for odd data."""

import datetime
import math

import numpy as np
import pandas as pd
import polars as pl
import pytest

from mlwb.core.errors import InputError, UsageError
from mlwb.monitor import distance
from mlwb.monitor.drift import Drift, Reference, compare, document


def table(rng, n, shift=0.0):
    """Nine columns of the kinds that break drift tests: ties, rare categories, mostly zeros, missing values, ids."""
    return pl.DataFrame({
        "normal": rng.normal(shift, 1, n), "skewed": rng.exponential(1, n), "count": rng.poisson(2, n),
        "category": rng.choice(list("abcdefgh"), n, p=[.3, .2, .2, .1, .1, .05, .03, .02]),
        "many": rng.zipf(1.5, n).clip(0, 5000).astype(str), "rare": rng.random(n) < .03,
        "gaps": np.where(rng.random(n) < .1, np.nan, rng.normal(size=n)), "zeros": np.where(rng.random(n) < .97, 0, rng.normal(size=n)),
        "id": rng.integers(0, 10**9, n).astype(str)}, nan_to_null=True)


@pytest.mark.parametrize("n, m", [(100, 100), (2000, 100), (100, 2000), (500, 500), (2000, 2000)])
def test_false_alarms_stay_below_alpha(n, m):
    """200 pairs of tables without drift: any significant column at all is a false alarm (effect limits not even counted)."""
    rng = np.random.default_rng(n * 10_000 + m)
    alarms = verdicts = 0
    for _ in range(200):
        d = compare(table(rng, n), table(rng, m))
        alarms += any(c.p_adjusted is not None and c.p_adjusted < .05 for c in d.columns)
        verdicts += d.verdict != "ok"
    assert alarms <= 19, f"{alarms} of 200"  # binomial(200, .05): P(> 19) = .3 %
    assert verdicts <= alarms + 3            # unseen categories have a rule of their own


@pytest.mark.parametrize("n, m, power", [(500, 500, .98), (2000, 200, .95), (100, 2000, .8)])
def test_half_a_standard_deviation_is_found(n, m, power):
    rng = np.random.default_rng(1)
    found = [compare(table(rng, n), table(rng, m, .5))["normal"].verdict == "drift" for _ in range(50)]
    assert np.mean(found) >= power


def test_small_samples_do_not_fire_on_the_effect_alone():
    """Reference 2000, current 100, no drift: fixed thresholds fire in 70 % (Wasserstein) and 37 % (JS) of the cases."""
    rng = np.random.default_rng(2)
    raw, net = [], []
    for _ in range(200):
        a, b = np.sort(rng.normal(size=2000)), np.sort(rng.normal(size=100))
        w = distance.wasserstein(a, b)
        raw.append(w[0] >= .1); net.append(w[1] >= .1)
    assert np.mean(raw) > .55 and np.mean(net) < np.mean(raw) / 1.5
    assert sum(compare(table(rng, 2000), table(rng, 100)).verdict != "ok" for _ in range(100)) <= 11


def test_goldens():
    assert distance.hellinger([16, 18, 16, 14, 12, 12], [16, 16, 16, 16, 16, 8]) == pytest.approx(.06812, abs=1e-5)
    assert distance.js_divergence([.5, .5, 0, 0], [0, .25, .25, .5]) == pytest.approx(.65563906222, abs=1e-10)
    assert distance.linf([.5, .3, .2], [.3, .5, .2]) == pytest.approx(.2) and distance.linf([1, 0], [.7, .3]) == pytest.approx(.3)


def test_statistics_agree_with_scipy():
    from scipy import stats
    rng = np.random.default_rng(3)
    for a, b in [(rng.normal(size=300), rng.normal(.2, 1, 120)), (rng.integers(0, 4, 200), rng.integers(0, 5, 90)), (rng.random(1000), rng.random(1000))]:
        a, b = np.sort(a.astype(float)), np.sort(b.astype(float))
        d, p = distance.ks(a, b)
        assert d == pytest.approx(stats.ks_2samp(a, b).statistic)
        assert p == pytest.approx(stats.kstwobign.sf(math.sqrt(len(a) * len(b) / (len(a) + len(b))) * d), abs=1e-9)
    from scipy.spatial.distance import jensenshannon
    assert math.sqrt(distance.js_divergence([3, 2, 0, 5], [1, 4, 4, 1])) == pytest.approx(jensenshannon([3, 2, 0, 5], [1, 4, 4, 1], 2))


def test_psi_survives_an_outlier():
    rng = np.random.default_rng(4)
    a, b = np.sort(rng.normal(size=20000)), np.sort(rng.normal(1, 1, 20000))
    with_outlier = np.sort(np.append(b, 1e6))
    assert distance.psi(a, b) == pytest.approx(1, abs=.15) and distance.psi(a, with_outlier) == pytest.approx(distance.psi(a, b), abs=.01)


def test_one_outlier_is_no_drift():
    rng = np.random.default_rng(5)
    a = pl.DataFrame({"x": rng.normal(size=1000)})
    b = pl.DataFrame({"x": np.append(rng.normal(size=999), 1e9)})
    assert compare(a, b).verdict == "ok" and compare(b, a).verdict == "ok"
    shifted = pl.DataFrame({"x": np.append(rng.normal(.5, 1, 999), -1e9)})
    assert compare(a, shifted)["x"].verdict == "drift" and .3 < compare(b, shifted)["x"].effect < .7


def test_new_missing_values_are_drift():
    rng = np.random.default_rng(6)
    x = rng.normal(size=1000)
    d = compare({"x": x}, {"x": np.where(rng.random(1000) < .6, np.nan, x)})
    assert d.verdict == "drift" and d["x"].missing_delta == pytest.approx(.6, abs=.05) and "Missing" in str(d["x"].because)
    assert compare({"x": [1.0] * 200}, {"x": [None] * 200}).verdict == "drift"
    assert compare({"x": [None] * 200}, {"x": [None] * 100})["x"].verdict == "ok"


def test_new_categories():
    a = pl.DataFrame({"c": ["a", "b"] * 500})
    d = compare(a, pl.DataFrame({"c": ["a", "b", "새것", "<b>"] * 100}))
    assert d.verdict == "drift" and d["c"].new_categories == ["<b>", "새것"]
    rng = np.random.default_rng(7)  # every tail number replaced by another: as many, as often
    old, new = ([f"{x}{i}" for i in rng.integers(0, 300, 900)] for x in "NM")
    assert compare({"t": old}, {"t": new})["t"].verdict == "drift"
    assert compare({"t": old}, {"t": rng.permutation(old)})["t"].verdict == "ok"


def test_schema():
    a = pl.DataFrame({"same": [1, 2, 3], "gone": [1, 2, 3], "typed": [1, 2, 3], "float": [1, 2, 3]})
    d = compare(a, pl.DataFrame({"same": [1, 2, 3], "typed": ["1", "2", "3"], "float": [1.0, None, 3.0], "new": [0, 0, 0]}))
    assert {(s["column"], s["kind"]) for s in d.schema} == {("gone", "missing column"), ("typed", "type changed"), ("new", "new column")}
    assert d.verdict == "drift" and {c.name for c in d.columns} == {"same", "float"}
    only = compare(a.select("same"), pl.DataFrame({"same": [1, 2, 3], "new": [0, 0, 0]}))
    assert only.verdict == "warn"
    assert ("same", "constant") in {(s["column"], s["kind"]) for s in compare(a.select("same"), pl.DataFrame({"same": [2, 2, 2]})).schema}


def test_a_column_that_orders_rows_is_no_drift():
    day = [datetime.datetime(2013, 1, 1) + datetime.timedelta(hours=h) for h in range(2000)]
    d = compare({"at": day[:1000]}, {"at": day[1000:]})
    assert d.verdict == "ok" and "ordered" in str(d["at"].because) and d["at"].edges[0] >= day[0].timestamp() - 86400 * 2
    assert compare({"at": day[:1000]}, {"at": day[500:1500]}).verdict == "drift"


def test_bins_hold_every_row_and_are_aligned():
    rng = np.random.default_rng(8)
    d = compare({"i": rng.integers(0, 200, 5000), "x": np.append(rng.normal(size=4999), np.inf), "c": rng.choice(list("abcdefghijklmnopqrstuvwxyz"), 5000)},
                {"i": rng.integers(50, 300, 700), "x": rng.normal(2, 1, 700), "c": rng.choice(list("abcxyz"), 700)})
    for c in d.columns:
        for side, n in ((c.reference, 5000), (c.current, 700)):
            assert sum(side["counts"]) == n == side["n"]
            assert len(side["counts"]) == (len(c.edges) - 1 if c.edges else len(c.labels))
    assert all(e % 1 == .5 for e in d["i"].edges) and len({round(b - a) for a, b in zip(d["i"].edges, d["i"].edges[1:])}) == 1
    assert len(d["c"].labels) == 21 and d["c"].labels[-1] == "other"


def test_odd_data_is_compared_or_refused_in_words():
    odd = pd.DataFrame({"none": [None] * 8, "inf": [math.inf, -math.inf, 1, 2, 3, 4, 5, 6], "mixed": [1, "x", None, 2.5, "y", 3, "x", "x"], "big": [2**70] * 8,
                        "list": [[1], [2]] * 4, "한국 '\"<script>": list("abcdabcd"), "bool": [True, None] * 4, "cat": pd.Categorical(list("aabbccdd")),
                        "delta": pd.to_timedelta(range(8), unit="h"), "tz": pd.date_range("2020", periods=8, tz="Asia/Seoul")})
    d = compare(odd, odd)
    assert d.verdict == "ok" and len(d.columns) == 10 and Drift.from_json(d.to_json()).digest() == d.digest()
    for empty in (odd.head(0), pd.DataFrame()):
        with pytest.raises(InputError): compare(odd, empty)
        with pytest.raises(InputError): compare(empty, odd)
    with pytest.raises(UsageError, match="Did you mean 'mixed'"): compare(odd, odd, columns=["mixd"])
    assert compare(odd.head(1), odd.head(1)).verdict == "ok"


def test_the_same_tables_give_the_same_digest_and_document():
    rng = np.random.default_rng(9)
    a, b = table(rng, 800), table(rng, 300, 1.0)
    d, e = compare(a, b), Reference(a).compare(b)
    assert d.digest() == e.digest() == compare(a.to_pandas(), b.to_pandas()).digest()
    doc = document(d)
    assert doc["verdict"] == "drift" and doc["rows"] == {"reference": 800, "current": 300} and doc["columns"][0]["name"] == "normal"
    assert {"name", "verdict", "effect", "p_adjusted", "method", "missing_delta", "new_categories"} <= set(doc["columns"][0])
    assert isinstance(doc["columns"][0]["because"], str) and isinstance(doc["notes"][0], str)


def test_a_million_rows():
    rng = np.random.default_rng(10)
    a, b = (pl.DataFrame({"x": rng.normal(size=10**6), "i": rng.integers(0, 1000, 10**6), "c": rng.integers(0, 3000, 10**6).astype(str)}) for _ in "ab")
    assert compare(a, b).verdict == "ok"


def test_eight_months_of_flights():
    from mlwb.data.sources import read
    df, _ = read("demo:flights")
    month = df["sched_dep"].dt.month()
    reference = Reference(df.filter(month <= 4), name="January to April")
    months = [reference.compare(df.filter(month == m)) for m in range(5, 13)]
    assert all(d["temp"].verdict == "drift" for d in months[:6]) and all(d["carrier"].verdict == "ok" for d in months)
