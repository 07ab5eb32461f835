"""Every figure of a profile against an independent computation (pandas, scipy, numpy), on real tables and on hostile ones."""

import itertools
import math

import hostile
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.stats

import mlwb
from mlwb.data.associations import LEVELS
from mlwb.data.frames import frame
from mlwb.data.merge import merge
from mlwb.data.profile import profile

SETS = {"hotel_bookings": "is_canceled", "bike_hourly": "cnt", "adult": "class", "dirty_hospital": "", "dirty_beers": "", "clean_hospital": ""}
TABLES = [*SETS, *(f"hostile {n}" for n in hostile.TABLES)]


@pytest.fixture(params=TABLES)
def described(request, data_dir):
    """(profile, the table as it was read): without a target, for that is no figure of the table's own."""
    name = request.param
    if name in SETS:
        df = pl.read_parquet(data_dir / f"{name}.parquet")
    else:
        df = hostile.TABLES[name.removeprefix("hostile ")]()
        if isinstance(df, pd.DataFrame) or not isinstance(df, pl.DataFrame): df = frame(df, [])
    if df.width > 300: df = df[:, :300]
    return profile(df), frame(df, [])


def values(s: pl.Series) -> np.ndarray:
    """Numbers of a column, with NaN where there is none, by Python alone."""
    def one(v):
        if v is None: return math.nan
        if hasattr(v, "total_seconds"): return v.total_seconds()
        if hasattr(v, "hour") and not hasattr(v, "year"): return v.hour * 3600 + v.minute * 60 + v.second + v.microsecond / 1e6
        return float(v)
    return np.array([one(v) for v in s.to_list()], float)


def exact(s: pl.Series) -> np.ndarray:
    """Numbers of a column, whole ones of 64 bits without rounding."""
    return np.array([math.nan if v is None else v for v in s.to_list()], np.longdouble) if s.dtype.is_integer() else values(s)


def microseconds(s: pl.Series) -> np.ndarray:
    return s.cast(pl.Datetime("us")).to_physical().cast(pl.Float64).fill_null(math.nan).to_numpy()


def described_numbers(described):
    p, df = described
    for c in p.columns:
        if c.type in ("number", "integer") and not c.error: yield c, values(df[c.name])


class TestColumns:
    def test_counts(self, described):
        p, df = described
        assert (p.rows, len(p.columns)) == df.shape
        for c in p.columns:
            if c.error: continue
            there = [v for v in df[c.name].to_list() if v is not None and v == v]
            assert c.missing == df.height - len(there), c.name
            different = len({v if v.__hash__ else repr(v) for v in there})
            if c.distinct_exact: assert c.distinct == different, c.name
            else: assert abs(c.distinct - different) <= 4 * .0326 * different, c.name

    def test_moments_and_quantiles(self, described):
        for c, x in described_numbers(described):
            x = x[np.isfinite(x)]
            if not len(x): continue
            with np.errstate(all="ignore"):
                exact = x.astype(np.longdouble)
                mean, sd = exact.mean(), exact.std(ddof=1) if len(x) > 1 else None
            near = np.abs(x).max() * 1e-12
            if c.stats["mean"] is not None: assert abs(c.stats["mean"] - float(mean)) <= near, c.name
            if c.stats.get("sd") is not None: assert c.stats["sd"] == pytest.approx(float(sd), rel=1e-6, abs=near), c.name
            if c.stats.get("skewness") is not None and float(sd) > 1e-9 * abs(float(mean)) + 1e-290:
                z = ((exact - mean) / sd).astype(float)
                assert [c.stats["skewness"], c.stats["kurtosis"]] == pytest.approx([scipy.stats.skew(z), scipy.stats.kurtosis(z)], rel=1e-4, abs=1e-4), c.name
            if np.abs(x).max() < 1e300:
                want = np.quantile(x, [0, .01, .05, .25, .5, .75, .95, .99, 1])
                found = [c.quantiles[q] for q in ("min", "0.01", "0.05", "0.25", "0.5", "0.75", "0.95", "0.99", "max")]
                assert found == pytest.approx(want, rel=1e-9, abs=near), c.name

    def test_histogram_and_signs(self, described):
        for c, x in described_numbers(described):
            assert c.stats["infinite"] == np.isinf(x).sum(), c.name
            x = x[np.isfinite(x)]
            assert c.stats["zeros"] == (x == 0).sum() and c.stats["negatives"] == (x < 0).sum(), c.name
            if not len(x): continue
            h = c.histogram
            inside = x[(x >= h.edges[0]) & (x <= h.edges[-1])]
            assert sum(h.counts) + h.below + h.above == len(x) and len(inside) == sum(h.counts) and h.below == (x < h.edges[0]).sum(), c.name
            counts = [((x >= a) & ((x < b) if i < len(h.counts) - 1 else (x <= b))).sum() for i, (a, b) in enumerate(zip(h.edges, h.edges[1:]))]
            assert h.counts == counts, c.name

    def test_times(self, described):
        p, df = described
        for c in p.columns:
            if c.type != "time" or c.error or c.distinct == 0: continue
            us = df[c.name].cast(pl.Datetime("us") if df[c.name].dtype == pl.Date else df[c.name].dtype)
            us = us.dt.convert_time_zone("UTC").dt.replace_time_zone(None) if getattr(us.dtype, "time_zone", None) else us
            us = us.dt.cast_time_unit("us").drop_nulls().to_physical().to_numpy()
            assert sum(c.histogram.counts) + c.histogram.below + c.histogram.above == len(us), c.name
            for q, v in c.quantiles.items():
                want = np.quantile(us.astype(np.longdouble), {"min": 0., "max": 1.}.get(q) if q in ("min", "max") else float(q))
                assert abs(np.datetime64(v.lstrip("+"), "us").astype(int) - float(want)) <= max(2, abs(float(want)) * 1e-15), (c.name, q)

    def test_texts(self, described):
        p, df = described
        for c in p.columns:
            if "length_mean" not in c.stats or c.error or df[c.name].dtype != pl.String: continue
            s = pd.Series(df[c.name].to_list(), dtype=object).dropna()
            n = s.map(len)
            assert [c.stats[f"length_{k}"] for k in ("min", "mean", "median", "max")] == pytest.approx([n.min(), n.mean(), n.median(), n.max()]), c.name
            counts = s.value_counts()
            whole = [(v, k) for v, k in c.top if not v.endswith("…")]
            assert all(counts[v] == k for v, k in whole) and [k for _, k in c.top] == sorted(counts, reverse=True)[:len(c.top)], c.name
            assert c.other == counts.sum() - sum(k for _, k in c.top) and c.stats["blank"] == (s.str.strip() == "").sum(), c.name


def groups(s: pl.Series):
    """Categories as the profile takes them: the 30 most frequent, ties by value, and the rest together."""
    v = pd.Series([None if x is None else str(x).lower() if isinstance(x, bool) else str(x) for x in s.to_list()], dtype=object)
    counts = v.value_counts()
    order = sorted(counts.index, key=lambda k: (-counts[k], k))[:LEVELS]
    return v.where(v.isna() | v.isin(order), "\0rest")


class TestTogether:
    def test_duplicates(self, described):
        p, df = described
        if p.duplicates is None: return
        rows = [tuple(repr(v) for v in row) for row in df.rows()]
        assert p.duplicates == len(rows) - len(set(rows))

    def test_correlations(self, described):
        p, df = described
        if p.rows > 100_000: return
        for a in p.associations:
            if "pearson" not in a: continue
            x, y = (microseconds(df[c]) if df[c].dtype == pl.Date or isinstance(df[c].dtype, pl.Datetime) else exact(df[c]) for c in (a["a"], a["b"]))
            both = np.isfinite(x) & np.isfinite(y)
            x, y = x[both].astype(np.longdouble), y[both].astype(np.longdouble)
            if a["pearson"] is not None and np.abs([x, y]).max() < 1e150:
                d = x - x.mean(), y - y.mean()
                assert a["pearson"] == pytest.approx(float((d[0] * d[1]).sum() / np.sqrt((d[0] ** 2).sum() * (d[1] ** 2).sum())), abs=1e-6), a
            if a["spearman"] is None: continue
            assert a["spearman"] == pytest.approx(scipy.stats.pearsonr(scipy.stats.rankdata(x), scipy.stats.rankdata(y)).statistic, abs=1e-9), a

    def test_categories(self, described):
        p, df = described
        if p.rows > 100_000: return
        for a in itertools.islice((a for a in p.associations if a["measure"] == "Cramér's V"), 12):
            t = pd.crosstab(groups(df[a["a"]]), groups(df[a["b"]]))
            n, (r, k) = t.to_numpy().sum(), t.shape
            phi2 = max(0, scipy.stats.chi2_contingency(t, correction=False).statistic / n - (r - 1) * (k - 1) / (n - 1))
            v = math.sqrt(phi2 / (min(r - (r - 1) ** 2 / (n - 1), k - (k - 1) ** 2 / (n - 1)) - 1))
            assert a["value"] == pytest.approx(min(1, v), abs=1e-9) and a["n"] == n, a

    def test_numbers_by_category(self, described):
        p, df = described
        if p.rows > 100_000: return
        for a in itertools.islice((a for a in p.associations if a["measure"] == "correlation ratio"), 12):
            if not df[a["b"]].dtype.is_numeric(): continue
            x, g = values(df[a["b"]]), groups(df[a["a"]])
            use = np.isfinite(x) & g.notna().to_numpy()
            parts = [v for _, v in pd.Series(x[use]).groupby(g[use].to_numpy())]
            f, n, k = scipy.stats.f_oneway(*parts).statistic, use.sum(), len(parts)
            eta2 = 1 if math.isinf(f) else f * (k - 1) / (f * (k - 1) + n - k)
            assert a["value"] == pytest.approx(math.sqrt(max(0, 1 - (1 - eta2) * (n - 1) / (n - k))), abs=1e-6) and a["n"] == n, a


def test_what_a_column_says_of_the_target(data_dir):
    """Held-out AUC by bins, against scikit-learn's AUC of the same bins' means learnt on the other half; R² likewise."""
    from sklearn.metrics import r2_score, roc_auc_score

    from mlwb.data.relations import halves
    for name, target in (("adult", "class"), ("bike_hourly", "cnt")):
        df = pl.read_parquet(data_dir / f"{name}.parquet")
        p, half = profile(df, target=target), halves(df.height)
        y = (df[target] == p.target_summary["positive"]).to_numpy() * 1. if p.task == "classification" else df[target].to_numpy().astype(float)
        for c in ("education", "marital-status", "sex") if name == "adult" else ("weathersit", "hr", "season"):
            g, parts = np.array([str(v) for v in df[c].to_list()]), []
            if df[c].null_count(): continue
            for a, b in ((0, 1), (1, 0)):
                mean = pd.Series(y[half == a]).groupby(g[half == a]).mean()
                score = pd.Series(g[half == b]).map(mean).fillna(y[half == a].mean())
                parts.append(roc_auc_score(y[half == b], score) if p.task == "classification" else r2_score(y[half == b], score))
            assert p.column(c).relation["strength"] == pytest.approx(np.mean(parts), abs=2e-3), (name, c)


def test_whole_numbers_that_a_float_would_round_keep_every_digit(tmp_path):
    n, path = 3000, tmp_path / "t.parquet"
    r = np.random.default_rng(0).permutation(n)
    plus = lambda low, dtype, sign=1: pl.Series([low + sign * int(i) for i in r], dtype=dtype)
    df = pl.DataFrame({"u": plus(2**63, pl.UInt64), "i": 10**18 + r, "d": plus(2**64 - 1, pl.Int128, -1), "wide": plus(10**25, pl.Int128),
                       "money": plus(0, pl.Int128).cast(pl.Decimal(38, 0)), "few": 2**60 + r % 3, "lowest": np.where(r == 0, -2**63, r), "y": r % 3 == 2})
    df.write_parquet(path)
    df.write_csv(tmp_path / "t.csv")
    for table in (df, path, tmp_path / "t.csv"):
        p = profile(table, target="y")
        assert [c.type for c in p.columns[:7]] == ["text", "text", "text", "text", "integer", "category", "integer"]
        assert [c.distinct for c in p.columns[:7]] == [n, n, n, n, n, 3, n] and "constant" not in {a.kind for a in p.alerts} and p.duplicates == 0
        assert p.column("few").relation["strength"] == 1 and [s.column for s in p.suspects] == ["few"] and "digit by digit" in " ".join(map(str, p.notes))
        assert p.column("few").top[0] == [str(2**60), 1000]
        ranks = next(a for a in p.associations if {a["a"], a["b"]} == {"money", "lowest"})
        assert ranks["spearman"] == pytest.approx(scipy.stats.spearmanr(r, df["lowest"].to_numpy()).statistic, abs=1e-9)
    merged = merge([profile(df[:1000]), profile(df[1000:])])
    assert [c.distinct for c in merged.columns] == [c.distinct for c in profile(df).columns] or all(
        abs(c.distinct - n) <= 4 * c.distinct_error * n for c in merged.columns if not c.distinct_exact)
    assert merged.column("few").top == profile(df).column("few").top and not any(c.error for c in merged.columns)
    view = mlwb.explore(df)
    for values in ([2**60 + 2], [str(2**60 + 2)], [np.int64(2**60 + 2)]):
        view.selection = {"rows": {"column": "few", "values": values}}
        assert view.rows()["few"].unique().to_list() == [2**60 + 2] and view.rows().height == 1000
    view.selection = {"rows": {"column": "money", "low": 0, "high": 300}}
    assert sum(k for _, k in view.subset.counts["few"].top) == 300


def test_a_saved_profile_names_no_text_that_is_there_once(tmp_path):
    mails = [f"person{i}@example.org" for i in range(120)] + ["info@example.org"] * 3
    p = profile(pl.DataFrame({"mail": mails, "kind": ["a"] * 122 + ["b"]}))
    saved = p.save(tmp_path / "p.json").read_text()
    assert "info@example.org" in saved and "person" not in saved and p.column("kind").top == [["a", 122], ["b", 1]]
    assert (p.column("mail").other, p.column("mail").unlisted, p.column("mail").distinct) == (120, 1, 121)
