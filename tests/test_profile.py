"""The profile's engine against pandas, numpy and scipy: what a column says, what merging gives, what a file read by column gives."""

import json
import re
from collections import Counter

import hostile as hostile_tables
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
import scipy.stats

from mlwb.core.errors import InputError
from mlwb.data import profile as engine
from mlwb.data.frames import frame
from mlwb.data.merge import merge
from mlwb.data.profile import Profile, profile
from mlwb.data.sketches import ERROR
from mlwb.data.tables import Table

SETS = ["hotel_bookings", "bike_hourly", "adult", "dirty_hospital", "dirty_beers"]
TIMES = np.datetime64("2024-01-01", "us")


@pytest.fixture(params=SETS)
def real(request, data_dir): return pl.read_parquet(data_dir / f"{request.param}.parquet")


def hostile(n: int = 4000) -> pl.DataFrame:
    r = np.random.default_rng(1)
    gaps = lambda v, share=.1: pl.Series(v).scatter(np.flatnonzero(r.random(n) < share), None)
    return pl.DataFrame({
        "constant": [7] * n, "empty": pl.Series([None] * n, dtype=pl.Float64), "null": pl.Series([None] * n),
        "infinite": gaps(np.where(r.random(n) < .01, np.inf, r.normal(size=n))),
        "heavy": gaps(np.where(r.random(n) < .4, 0, r.lognormal(0, 2, n)).round(3)), "far": r.normal(size=n) + 1e9, "tiny": r.normal(size=n) * 1e-300,
        "large": pl.Series((2**62 + r.integers(0, 10**6, n)).tolist(), dtype=pl.Int64), "code": np.where(r.random(n) < .05, -999, r.integers(0, 300, n)),
        "flag": gaps(r.random(n) < .3), "word": gaps(r.choice(["서울", "Busan", "N/A", "", "없음", "<b>x</b>"], n)), "id": [f"K-{i:05d}" for i in range(n)],
        "many": r.integers(0, 900, n).astype(str), "when": pl.Series(TIMES + (r.integers(0, 10**6, n) * 1_000_000).astype("timedelta64[us]")),
        "hour": pl.Series(TIMES + (np.arange(n) * 3600 * 1_000_000).astype("timedelta64[us]")), "path": [f"img/{i % 500}.png" for i in range(n)]})


def cuts(n, r):
    for ends in ([1], [3, n // 2], [n // 100, n // 99, n - 5], sorted(r.choice(np.arange(1, n), min(11, n // 3), replace=False).tolist())):
        yield list(zip([0, *ends], [*ends, n]))


# --- columns -----------------------------------------------------------------------------------------------------------

class TestColumns:
    def test_disguised_missing_values_are_counted_as_pandas_counts_them(self, data_dir):
        for table, column, value in (("adult", "capital-gain", 99999), ("dirty_beers", "ibu", "N/A"), ("hotel_bookings", "meal", "Undefined")):
            s = pd.read_parquet(data_dir / f"{table}.parquet")[column]
            p = profile(data_dir / f"{table}.parquet")
            assert dict(map(tuple, p.column(column).disguised))[value] == int((s == value).sum())
            alert = next(a for a in p.alerts if a.column == column and a.kind == "disguised")
            assert alert.action is not None and str(value) in str(alert.message)

    def test_shapes_are_those_of_a_plain_loop(self, real):
        def shape(t):
            t = re.sub("[가-힣]+", "가", t[:200])
            t = "".join(c if c == "가" else "A" if c.isupper() else "a" if c.islower() else "9" if c.isdigit() else c for c in t)
            t = re.sub(r"\s+", " ", re.sub("9{13,}", "9…", re.sub("a+", "a", re.sub("A+", "A", t))))
            return t if len(t) <= 40 else t[:39] + "…"
        for c in profile(real).columns:
            if not c.shapes or c.shapes_rows < c.rows - c.missing: continue
            counts = Counter(shape(t) for t in real[c.name].drop_nulls().cast(pl.String).to_list())
            assert c.shapes == [list(r) for r in sorted(counts.items(), key=lambda r: (-r[1], r[0]))[:20]], c.name

    def test_steps_are_those_of_pandas(self, data_dir):
        c = profile(data_dir / "bike_hourly.parquet").column("ts")
        t = pd.read_parquet(data_dir / "bike_hourly.parquet")["ts"].drop_duplicates().sort_values()
        d = t.diff().dropna().dt.total_seconds()
        assert c.steps["step"] == d.mode()[0] == 3600 and c.steps["gaps"] == int((d > 3600).sum()) and c.steps["gap_max"] == d.max()
        assert pd.Timestamp(c.steps["gap_to"]) == t[d.idxmax()] and c.steps["step_share"] == pytest.approx((d == 3600).mean())

    def test_lengths_and_frequent_numbers(self, real):
        wide = real.to_pandas()
        for c in profile(real).columns:
            s = wide[c.name].dropna()
            if "length_max" in c.stats:
                n = s.astype(str).str.len()
                assert [c.stats[f"length_{k}"] for k in ("min", "mean", "median", "max")] == pytest.approx([n.min(), n.mean(), n.median(), n.max()])
            if c.type in ("number", "integer") and c.top:
                counts = s.astype(float).value_counts()
                assert [n for _, n in c.top] == counts.head(len(c.top)).tolist() and all(counts[float(v)] == n for v, n in c.top)

    def test_one_bad_column_is_an_error_and_no_failure(self, monkeypatch):
        describe = engine._described
        def broken(s):
            if s.name == "far": raise MemoryError("too much")
            return describe(s)
        monkeypatch.setattr(engine, "_described", broken)
        p = profile(hostile(), target="flag")
        assert {c.name: c.error for c in p.columns if c.error} == {"far": "MemoryError: too much"} and p.column("heavy").relation
        assert [a.kind for a in p.alerts if a.column == "far"] == ["unreadable"]

    def test_at_most_ten_kilobytes_a_column(self, real):
        for table in (real, hostile()):
            p = profile(table)
            sizes = {c.name: len(json.dumps(c.to_json(), ensure_ascii=False).encode()) for c in p.columns}
            assert max(sizes.values()) < 10_000, sizes
            assert len(json.dumps(p.to_json())) < 12_000 * len(p.columns)


# --- merging -----------------------------------------------------------------------------------------------------------

def same_counts(whole, merged, df):
    for a, b in zip(whole.columns, merged.columns):
        where, s = (a.name, a.type), df[a.name]
        assert not b.error and (a.rows, a.missing) == (b.rows, b.missing), where
        n = a.rows - a.missing
        if b.distinct_exact: assert a.distinct == b.distinct, where
        else: assert abs(a.distinct - b.distinct) <= 4 * ERROR * a.distinct, where
        for key in ("min", "max", "infinite", "zeros", "negatives", "length_min", "length_max", "blank"):
            assert a.stats.get(key) == b.stats.get(key), (where, key)
        sd = abs(a.stats.get("sd") or 0)
        digit = 8 * np.finfo(float).eps * abs(a.stats.get("mean") or 0) / sd if sd else 0  # a mean is kept to its last digit, and deviations from it no better
        for key in ("mean", "sd", "skewness", "kurtosis", "length_mean"):
            if b.stats.get(key) is None and digit > 1e-3: continue  # the mean of parts, a float, is not exact enough to tell
            slack = max(1e-9, digit) * (sd if key in ("mean", "sd") else 1)
            if a.stats.get(key) is not None: assert b.stats[key] == pytest.approx(a.stats[key], rel=1e-9, abs=slack), (where, key)
        exact = dict(map(tuple, s.drop_nulls().cast(pl.String).value_counts().rows())) if "length_mean" in a.stats or a.type == "boolean" else None
        for v, k in b.top if exact else (): assert k <= exact[v] <= k + b.top_error, (where, v)
        if a.type != "time": assert sum(k for _, k in b.top) + b.other == n, where
        if b.top_error == 0 and not a.sketch and a.type not in ("number", "integer"): assert a.top == b.top, where


def same_ranks(whole, merged, df):
    for a, b in zip(whole.columns, merged.columns):
        if not b.quantiles: continue
        x = df[a.name].drop_nulls()
        x = np.sort(x.cast(pl.Datetime("us")).to_physical().to_numpy() if a.type == "time" else x.to_numpy().astype(float))
        x = x[np.isfinite(x)]
        assert sum(k for *_, k in b.bins) == len(x) and all(np.sum((x >= lo) & (x <= hi)) >= k for lo, hi, k in b.bins if a.name != "large")
        assert b.quantile_error < .05 and sum(b.histogram.counts) + b.histogram.below + b.histogram.above == len(x)
        for q, v in b.quantiles.items():
            if q in ("min", "max"): assert a.quantiles[q] == v
            elif not b.quantile_error and a.type != "time": assert v == pytest.approx(a.quantiles[q], rel=1e-12)
            else:
                v = np.datetime64(v, "us").astype(int) if a.type == "time" else v
                slack = abs(v) * 1e-12 + (1 if a.type == "time" else 0)
                low, high = np.searchsorted(x, v - slack, "left") / len(x), np.searchsorted(x, v + slack, "right") / len(x)
                assert low - b.quantile_error - 1.01 / len(x) <= float(q) <= high + b.quantile_error + 1.01 / len(x), (a.name, q)
        if a.name != "large":
            at = np.array(b.histogram.edges) * (1e6 if a.type == "time" else 1)
            true = np.array([b.histogram.below, *b.histogram.counts]).cumsum() - np.searchsorted(x, at, "left")
            assert np.abs(true[:-1]).max() <= .05 * len(x) + 1


def same_pearson(whole, merged, df):
    found = {(r["a"], r["b"]): r for r in merged.associations}
    for r in whole.associations:
        if r.get("pearson") is not None and abs(r["pearson"]) >= .05: assert abs(found[r["a"], r["b"]]["pearson"] - r["pearson"]) < 1e-9, r


@pytest.mark.parametrize("which", [*SETS, "hostile"])
def test_merged_parts_are_the_whole(which, request):
    df = hostile() if which == "hostile" else pl.read_parquet(request.getfixturevalue("data_dir") / f"{which}.parquet")
    whole = profile(df)
    for parts in cuts(df.height, np.random.default_rng(0)):
        merged = merge([profile(df[a:b]) for a, b in parts])
        assert merged.rows == df.height and merged.names() == whole.names()
        for check in (same_counts, same_ranks, same_pearson): check(whole, merged, df)


@pytest.mark.parametrize("name", [n for n in hostile_tables.TABLES if n != "five_thousand_columns"])
def test_merged_halves_of_hostile_tables(name, tmp_path):
    df = frame(hostile_tables.TABLES[name](), [])
    df, k = df[:, :300], df.height // 2
    whole, merged = profile(df), merge([profile(df[:k]), profile(df[k:])] if k else [profile(df)])
    assert Profile.load(merged.save(tmp_path / "p.json")).digest() == merged.digest() and merged.names() == whole.names()
    for a, b in zip(whole.columns, merged.columns):
        if a.error: continue
        assert (a.rows, a.missing, a.type) == (b.rows, b.missing, b.type) and not b.error, b
        assert a.distinct == b.distinct if b.distinct_exact else abs(a.distinct - b.distinct) <= 4 * ERROR * a.distinct, a.name


def test_merging_in_steps_stays_within_what_it_says():
    r = np.random.default_rng(0)
    df = pl.DataFrame({"x": r.lognormal(size=60_000), "y": r.normal(size=60_000).round(2), "w": r.integers(0, 9000, 60_000).astype(str)})
    whole, merged = profile(df), profile(df[:5000])
    for at in range(5000, 60_000, 5000): merged = merge([merged, profile(df[at:at + 5000])])
    assert merged.parts == 12 and len(merged.column("x").bins) <= 128
    same_counts(whole, merged, df)
    for name in ("x", "y"):
        c, x = merged.column(name), np.sort(df[name].to_numpy())
        for q in ("0.05", "0.5", "0.95"): assert abs(np.searchsorted(x, c.quantiles[q]) / len(x) - float(q)) <= c.quantile_error + 1e-3, (name, q)


def test_saved_and_merged_is_merged(tmp_path, real):
    parts = [profile(real[:1000], name="t"), profile(real[1000:], name="t")]
    loaded = [Profile.load(p.save(tmp_path / f"{i}.json")) for i, p in enumerate(parts)]
    assert merge(loaded).digest() == merge(parts).digest() and merge(loaded).digest() == Profile.load(merge(parts).save(tmp_path / "m.json")).digest()


def test_moments_of_parts_are_those_of_scipy():
    r = np.random.default_rng(3)
    x = np.concatenate([r.normal(1e6, 1, 5), r.exponential(1, 9000), [1e7]])
    p = merge([profile({"x": part}) for part in np.split(x, [5, 6, 4000, 9005])]).column("x")
    assert [p.stats["skewness"], p.stats["kurtosis"]] == pytest.approx([scipy.stats.skew(x), scipy.stats.kurtosis(x)], rel=1e-9)


def test_parts_that_do_not_fit_say_so():
    p = merge([profile({"a": [1, 2, 3], "b": ["x"] * 3}), profile({"a": ["u", "v", "w"]}), profile({"a": [None] * 3, "c": [1.5] * 3})])
    assert "number" in p.column("a").error and p.column("b").rows == 3 and p.rows == 9
    assert "b (" not in str(p.notes[-1]) and any("b, c" in str(m) for m in p.notes)
    assert [a.kind for a in p.alerts if a.column == "a"] == ["unreadable"]


# --- the target --------------------------------------------------------------------------------------------------------

class TestTarget:
    @pytest.mark.parametrize("asked, words", [
        (dict(target="when"), "holds times"), (dict(target="when", task="regression"), "holds times"), (dict(target="day"), "give it as `time`"),
        (dict(target="x", task="classification"), "too many to be classes"), (dict(target="id"), "group its values"),
        (dict(target="code"), "look like numbers")])
    def test_what_cannot_be_predicted_is_refused_in_words(self, asked, words):
        n = 3000
        df = pl.DataFrame({"when": TIMES + np.arange(n).astype("timedelta64[h]"), "day": TIMES + (np.arange(n) // 40).astype("timedelta64[D]"),
                           "x": np.random.default_rng(0).normal(size=n), "id": [f"K-{i}" for i in range(n)], "code": [f"{i / 7:.3f}" for i in range(n)]})
        with pytest.raises(InputError, match=words): profile(df.with_columns(pl.col("day").cast(pl.Date)), **asked)

    def test_durations_and_decimals_are_numbers(self):
        n, r = 3000, np.random.default_rng(0)
        hours = r.integers(0, 500, n)
        df = pl.DataFrame({"took": pl.Series(hours).cast(pl.Int64) * 3_600_000_000, "hours": hours, "price": pl.Series(hours / 4).cast(pl.Decimal(9, 2))})
        df = df.with_columns(pl.col("took").cast(pl.Duration("us")))
        for target in ("took", "price"):
            p = profile(df, target=target)
            assert p.task == "regression" and p.column("hours").relation["strength"] > .99
            assert p.target_summary["mean"] == pytest.approx(p.column(target).stats["mean"])

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("task", ["regression", "classification"])
    def test_infinite_ones_are_counted_said_and_left_out(self, task):
        n, r = 3000, np.random.default_rng(0)
        x = r.normal(size=n)
        y = np.where(np.arange(n) < 20, np.where(np.arange(n) % 2, np.inf, -np.inf), x * 2 if task == "regression" else x > .5).astype(float)
        p = profile({"x": x, "y": y}, target="y", time="")
        assert p.task == task and p.target_summary["labelled"] == n - 20 == p.column("x").relation["n"] and p.column("x").relation["strength"] > .95
        assert any("y is infinite in 20 rows" in str(m) for m in p.notes)
        assert any(a.kind == "unlabelled" and "infinite one in 20" in str(a.message) for a in p.alerts)
        if task == "regression": assert p.target_summary["mean"] == pytest.approx(y[20:].mean()) and "in 2,980 labelled rows" in " ".join(map(str, p.headlines))
        else: assert [k for k, _ in p.target_summary["classes"]] == ["0", "1"]
        assert hostile_tables.plain(p.to_json())


def test_associations_say_that_rare_values_count_as_one():
    r = np.random.default_rng(0)
    df = pl.DataFrame({name: [f"{name}{i}" for i in r.integers(0, k, 2000)] for name, k in (("town", 40), ("shop", 35), ("few", 30))})
    assert [str(m) for m in profile(df).notes] == ["Associations of 2 columns of text count all values but the 30 most frequent as one: town, shop."]
    assert not profile(df[["few"]]).notes and not profile(df[["town"]]).notes


def test_one_is_no_plural_and_what_occurs_is_not_nothing():
    p = profile(pl.DataFrame({"y": [None, *([True, False] * 5000)], "x": [None, *range(10_000)], "k": [1] * 10_001}), target="y")
    told = " ".join([*map(str, p.headlines), *(str(a.message) for a in p.alerts)])
    assert "1 row has no label (<0.1%)" in told and " 1 rows" not in told and "0.0%" not in told.replace("50.0%", ""), told
    assert str(profile({"x": [1]}).headlines[-1]) == "1 row and 1 column; no value is missing."


# --- by column ---------------------------------------------------------------------------------------------------------

class TestByColumn:
    @pytest.mark.parametrize("name", SETS)
    def test_a_file_by_column_says_what_a_frame_says(self, name, data_dir):
        from mlwb.data.sources import read
        path, target = data_dir / f"{name}.parquet", {"adult": "class", "bike_hourly": "cnt", "hotel_bookings": "is_canceled"}.get(name)
        a, b = profile(path, target=target), profile(read(str(path))[0], target=target, name=path.name)
        b.memory = a.memory
        assert a.to_json() == b.to_json()

    def test_never_more_than_a_few_columns_in_memory(self, tmp_path, monkeypatch):
        import weakref
        path, alive, most = tmp_path / "t.parquet", [], []
        hostile().write_parquet(path)
        read = Table._read
        def counted(self, *args):
            s = read(self, *args)
            alive.append(weakref.ref(s)); most.append(sum(r() is not None for r in alive))
            return s
        monkeypatch.setattr(Table, "_read", counted)
        profile(path, target="flag")
        assert len(most) > 16 and max(most) <= 3

    def test_a_damaged_column_is_an_error_and_no_failure(self, tmp_path):
        path, n = tmp_path / "t.parquet", 50_000
        df = pl.DataFrame({"good": np.arange(n), "bad": np.random.default_rng(0).normal(size=n), "last": ["a", "b"] * (n // 2)})
        df.write_parquet(path, use_pyarrow=True)
        chunk = pq.ParquetFile(path).metadata.row_group(0).column(1)
        with path.open("r+b") as f: f.seek((chunk.dictionary_page_offset or chunk.data_page_offset) + 5); f.write(b"\xff" * 2000)
        p = profile(path)
        assert p.column("bad").error and not p.column("good").error and p.column("last").distinct == 2 and p.duplicates is None
        assert [a.kind for a in p.alerts if a.column == "bad"] == ["unreadable"]

    def test_beyond_100k_rows_the_sample_is_named_and_pearson_is_exact(self, tmp_path):
        r = np.random.default_rng(0)
        x = r.normal(size=250_000)
        df = pl.DataFrame({"x": x, "y": x + r.normal(size=250_000), "w": np.where(x > 0, "up", "down")})
        df.write_parquet(tmp_path / "t.parquet")
        p = profile(tmp_path / "t.parquet")
        by = {(a["a"], a["b"]): a for a in p.associations}
        assert by["x", "y"]["n"] == 250_000 and by["x", "y"]["pearson"] == pytest.approx(np.corrcoef(df["x"], df["y"])[0, 1], abs=1e-12)
        assert abs(by["x", "y"]["spearman"] - scipy.stats.spearmanr(df["x"], df["y"]).statistic) < .02 and by["w", "x"]["n"] == 100_000
        assert any("100,000" in str(m) and "250,000" in str(m) for m in p.notes)
