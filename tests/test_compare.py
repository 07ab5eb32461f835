"""Two profiles side by side, against pandas, numpy and scipy on the rows: exact, or within the bounds that are stated."""

import warnings

import hostile
import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy.stats import ks_2samp
from test_hostile import looks_whole

from mlwb.core.errors import InputError
from mlwb.core.messages import say
from mlwb.data.compare import Comparison, compare, compare_any, document
from mlwb.data.frames import frame
from mlwb.data.merge import merge
from mlwb.data.profile import Profile, profile
from mlwb.show.explore import explore

PAIRS = {"bike": ("bike_hourly", "yr", "cnt"), "adult": ("adult", "split", "class"), "hotel": ("hotel_bookings", "hotel", "is_canceled")}


@pytest.fixture(scope="module", params=PAIRS)
def real(request, data_dir):
    """Two halves of a real table (2011 and 2012, test and train, city and resort), and their profiles."""
    table, by, target = PAIRS[request.param]
    df = pl.read_parquet(data_dir / f"{table}.parquet")
    sides = [df.filter(pl.col(by) == v) for v in sorted(df[by].unique())]
    return sides, [profile(s, target=target, name=n) for s, n in zip(sides, "ab")]


def numbers(s: pl.Series) -> np.ndarray:
    s = s.drop_nulls()
    v = s.cast(pl.Datetime("us")).to_physical().to_numpy() if s.dtype.is_temporal() else s.to_numpy()
    return v[np.isfinite(v.astype(float))]


def check(d, a: pl.Series, b: pl.Series):
    """Every figure of a column of both sides, from the rows."""
    for s, side in ((a, d.a), (b, d.b)):
        assert (side.rows, side.missing) == (len(s), s.null_count())
        if side.distinct_exact: assert side.distinct == s.drop_nulls().n_unique()
    assert d.missing_change() == pytest.approx(b.null_count() / len(b) - a.null_count() / len(a), abs=1e-15)
    if d.distance is None: return
    assert 0 <= d.low <= d.distance <= d.high <= 1
    if d.measure == "variation":
        x, y = ({str(v).lower() if s.dtype == pl.Boolean else v: n for v, n in s.drop_nulls().value_counts().rows()} for s in (a, b))
        n, m = sum(x.values()), sum(y.values())
        true = sum(abs(x.get(v, 0) / n - y.get(v, 0) / m) for v in x.keys() | y.keys()) / 2
        values(d, x, y)
    else:
        v, w = (numbers(s) for s in ((s.drop_nulls().cast(pl.String).str.len_chars() for s in (a, b)) if d.measure == "length" else (a, b)))
        true = ks_2samp(v, w, method="asymp").statistic
        if d.measure == "ks" and d.a.type != "time":
            at = d.at
            for share, x in zip(d.shares, (v, w)): assert share == pytest.approx((x <= at).mean(), abs=d.high - d.low + 1e-12)
            for side, x in ((d.a, v), (d.b, w)): assert side.stats["mean"] == pytest.approx(x.mean(), rel=1e-9, abs=1e-9)
        aligned(d.histogram, v, w)
    assert d.low - 1e-9 <= true <= d.high + 1e-9
    if d.low == d.high: assert d.distance == pytest.approx(true, abs=1e-9)


def values(d, x, y):
    for found, here, there, hidden in ((d.new, y, x, d.unlisted[0]), (d.vanished, x, y, d.unlisted[1])):
        assert all(here[v] == n and there.get(v, 0) <= hidden for v, n in found)
        if found and hidden: assert min(n for _, n in found) / sum(here.values()) > hidden / sum(there.values())
        if not any(d.unlisted): assert {v for v, _ in found} == here.keys() - there.keys()
    for v, n, m in d.values: assert (n is None or x.get(v, 0) == n) and (m is None or y.get(v, 0) == m)


def aligned(h, v, w):
    edges = np.array(h.edges) * (1e6 if h.unit == "time" else 1)
    for i, (counts, x) in enumerate(((h.a, v), (h.b, w))):
        true, off = np.histogram(x, edges)[0], h.error[i] * len(x) + 1e-6
        assert sum(counts) + h.below[i] + h.above[i] == len(x)
        assert np.abs(np.array(counts) - true).max() <= off and abs(h.below[i] - (x < edges[0]).sum()) <= off
        assert h.error[i] < (.12 if h.unit == "length" else .06)  # of lengths, a profile keeps at most 32 bins


class TestReal:
    def test_every_figure_is_that_of_the_rows(self, real):
        (a, b), sides = real
        c = compare(*sides)
        assert {d.name for d in c.columns} == set(a.columns) and all(d.status == "same" for d in c.columns) and c.rows == [a.height, b.height]
        for d in c.columns: check(d, a[d.name], b[d.name])

    def test_what_differs_most_comes_first(self, real):
        weights = [d.weight() for d in compare(*real[1]).columns]
        assert weights == sorted(weights, reverse=True) and weights[0] == 1

    def test_a_saved_profile_is_as_good_as_its_rows(self, real, tmp_path):
        (a, b), (p, q) = real
        saved = Profile.load(p.save(tmp_path / "a.json"))
        assert compare(saved, q) == compare(p, q)
        for c, d in zip(saved.columns, p.columns): assert list(c.quantiles) == list(d.quantiles) and list(c.stats)[:4] == list(d.stats)[:4]

    def test_exact_where_all_values_are_known(self, real):
        for d in compare(*real[1]).columns:
            if d.measure == "ks" and max(d.a.distinct, d.b.distinct) <= 128: assert d.low == d.high and d.histogram.error == [0, 0]
            if d.measure == "variation" and max(d.a.distinct, d.b.distinct) <= 20: assert d.low == d.high and d.unlisted == [0, 0]

    def test_a_side_beside_itself(self, real):
        p = real[1][0]
        c = compare(p, p)
        assert all(not d.low and not d.distance and not d.new and not d.vanished for d in c.columns) and c.names == ["a (A)", "a (B)"]
        assert say(c.headlines[-1]) == "No column differs by .05 or more."

    def test_headlines_hold(self, real):
        (a, b), (p, q) = real
        c = compare(p, q)
        told = [say(h) for h in c.headlines]
        assert 1 <= len(told) <= 5 and len(set(told)) == len(told)
        target = c.target
        if p.task == "regression": share = f"{a[target].mean():.4g} on average in a and {b[target].mean():.4g} in b"
        else:
            shares = [(s[target].cast(pl.String) == p.target_summary["positive"]).mean() for s in (a, b)]
            share = "{:.1%} of the labelled rows of a and {:.1%} of b".format(*shares)
        assert any(share in t for t in told), told


def mixed(n: int, r) -> pl.DataFrame:
    gaps = lambda v, share: pl.Series(v).scatter(np.flatnonzero(r.random(n) < share), None)
    return pl.DataFrame({
        "normal": r.normal(size=n), "heavy": gaps(np.where(r.random(n) < .4, 0, r.lognormal(0, 2, n)), .2),
        "infinite": np.where(r.random(n) < .02, np.inf, r.normal(size=n)),
        "code": r.integers(0, 30, n), "many": r.integers(-5000, 5000, n), "large": pl.Series((2**62 + r.integers(0, 10**6, n)).tolist(), dtype=pl.Int64),
        "flag": gaps(r.random(n) < .3, .1), "word": gaps(r.choice(["서울", "Busan", "", "N/A"], n), .1), "levels": r.zipf(1.3, n).astype(str),
        "text": [f"{'x' * int(k)} {i}" for i, k in enumerate(r.integers(1, 60, n))],
        "when": pl.Series(np.datetime64("2024-01-01", "us") + (r.integers(0, 10**8, n) * 1_000_000).astype("timedelta64[us]"))})


@pytest.mark.parametrize("seed", range(12))
def test_bounds_hold_for_random_splits(seed):
    r = np.random.default_rng(seed)
    df = mixed(int(r.integers(40, 6000)), r)
    order = df["normal"].to_numpy() * r.normal() + r.normal(size=df.height)     # not at random: the sides differ
    first = pl.Series(order < np.quantile(order, r.uniform(.1, .9)))
    a, b = df.filter(first), df.filter(~first)
    c = compare(profile(a), profile(b))
    for d in c.columns: check(d, a[d.name], b[d.name])
    assert not [d.error for d in c.columns if d.error] and Comparison.from_json(c.to_json()) == c


@pytest.mark.parametrize("seed", range(4))
def test_bounds_hold_for_merged_profiles(seed):
    r = np.random.default_rng(100 + seed)
    a, b = mixed(5000, r), mixed(3000, r).with_columns(normal=pl.col("normal") + .5)
    p = merge([profile(part) for part in a.iter_slices(1000)])
    for d in compare(p, profile(b)).columns:
        if d.name not in ("levels", "large"): check(d, a[d.name], b[d.name])
    d = compare(p, profile(b)).column("levels")
    shares = [dict((s[d.name].value_counts(normalize=True)).rows()) for s in (a, b)]
    true = sum(abs(shares[0].get(v, 0) - shares[1].get(v, 0)) for v in shares[0].keys() | shares[1].keys()) / 2
    assert d.low - 1e-9 <= true <= d.high + 1e-9


class TestStructure:
    def test_columns_of_one_side_and_other_types(self):
        a = pl.DataFrame({"x": [1, 2, 3] * 30, "old": ["p", "q", "r"] * 30, "code": ["1", "2", "3"] * 30, "none": [None, 1., 2.] * 30})
        b = pl.DataFrame({"code": [1, 2, 3] * 40, "x": [1., 2, 3] * 40, "fresh": [True, False, None] * 40, "none": pl.Series([None] * 120, dtype=pl.Float64)})
        c = compare_any(a, b)
        assert {d.name: d.status for d in c.columns} == {"old": "a", "fresh": "b", "code": "type", "x": "same", "none": "same"} and c.names == ["A", "B"]
        assert c.column("x").distance == 0 and c.column("none").distance is None and c.column("none").missing_change() == pytest.approx(2 / 3)
        assert c.column("old").b is None and c.column("old").missing_change() is None and c.column("none").kind() == "missing"
        told = " ".join(map(say, c.headlines))
        assert "Only in A: old." in told and "Only in B: fresh." in told
        assert "code is read as category in A and as integer in B." in told and "none (33.3% → 100.0%)" in told
        assert document(c)["columns"][0]["status"] in ("a", "b", "type")

    def test_text_that_became_rarer_is_still_the_same_type(self):
        a, b = pl.DataFrame({"t": [f"note {i}" for i in range(30)]}), pl.DataFrame({"t": [f"note {i % 15}" for i in range(400)]})
        c = compare_any(a, b)
        assert {c.columns[0].a.type, c.columns[0].b.type} == {"text", "category"} and c.columns[0].status == "same"

    def test_a_broken_column_says_so_and_no_more(self):
        p = profile(pl.DataFrame({"x": [1, 2, 3], "y": [1., 2, 3]}))
        q = Profile.from_json(p.to_json())
        q.column("x").bins = [["a", "b", 3]]
        c = compare(p, q)
        assert c.column("x").error and c.column("x").distance is None and c.column("y").distance == 0

    def test_empty_tables(self):
        a, b = pl.DataFrame({"x": pl.Series([], dtype=pl.Int64), "s": pl.Series([], dtype=pl.String)}), pl.DataFrame({"x": [1, 2], "s": ["a", "b"]})
        assert [d.distance for d in compare_any(a, b).columns] == [None, None] and compare_any(a, a).rows == [0, 0]

    def test_the_other_side_may_lack_the_target(self):
        a = pl.DataFrame({"x": range(200), "y": [0, 1] * 100})
        for b in (a.drop("y"), a.with_columns(y=pl.lit(None, pl.Int64)), a.with_columns(y=pl.lit("one"))):
            c = compare_any(a, b, target="y")
            assert c.column("x").distance == 0 and not [h for h in c.headlines if "labelled" in h.text]
        assert compare_any(a, a, target="y").target == "y" and not compare_any(a, a.drop("y"), target="y").target

    def test_paths_are_read_and_give_the_names(self, tmp_path):
        a = pl.DataFrame({"x": range(300), "y": [0, 1, 1] * 100})
        a.write_parquet(tmp_path / "a.parquet"); a.head(200).write_csv(tmp_path / "b.csv")
        c = compare_any(tmp_path / "a.parquet", str(tmp_path / "b.csv"), target="y")
        assert c.names == ["a.parquet", "b.csv"] and c.rows == [300, 200] and c.target == "y"
        assert compare_any(tmp_path / "b.csv", tmp_path / "a.parquet", ("old", "")).names == ["old", "a.parquet"]

    def test_pandas_and_numpy_integers(self):
        a = pd.DataFrame({"x": np.arange(300, dtype=np.int16), "u": np.arange(300).astype(np.uint64) + 2**63, "c": pd.Categorical(["a", "b", None] * 100)})
        c = compare_any(a, a.assign(x=a.x + 100))
        assert c.column("x").distance == pytest.approx(ks_2samp(a.x, a.x + 100).statistic, abs=.01) and c.column("c").distance == 0
        assert not c.column("u").error

    @pytest.mark.parametrize("make, words", [
        (lambda a, f: compare_any(a, "y"), ["column of the first", "target='y'"]),
        (lambda a, f: compare_any(a, f / "none.json"), ["no file", "none.json"]),
        (lambda a, f: compare_any(a, f / "none.csv"), ["no file", "none.csv"]),
        (lambda a, f: compare_any(a, a, target="z"), ["'z'", "Allowed"]),
        (lambda a, f: compare_any(profile(a), a, target="y"), ["no target", "Give the table"]),
        (lambda a, f: compare(profile(a), profile(a), ("only",)), ["two names"]),
        (lambda a, f: compare(profile(a), profile(a)).column("zz"), ["'zz'"])])
    def test_bad_input_is_one_sentence(self, make, words, tmp_path):
        with pytest.raises(InputError) as e: make(pl.DataFrame({"x": range(50), "y": [0, 1] * 25}), tmp_path)
        assert all(w in str(e.value) for w in words), e.value


@pytest.mark.parametrize("name", sorted(set(hostile.TABLES) - {"five_thousand_columns", "million_distinct_texts"}))
def test_hostile_tables_in_two_parts(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        df = frame(hostile.TABLES[name](), [])
        view = explore(df.head(df.height // 3), df)
        c = view.result
        assert not [d.error for d in c.columns if d.error] and len(c.columns) == df.width and hostile.plain(document(c))
        assert Comparison.from_json(c.to_json()).digest() == c.digest()
        for language in ("en", "ko"): looks_whole(view.document(language))


def test_only_one_side_with_a_zone_is_told_first():
    days = pl.datetime_range(pl.datetime(2024, 1, 1), pl.datetime(2024, 2, 1), "1h", eager=True, time_zone="Asia/Seoul")
    zoned, naive = pl.DataFrame({"left": days, "n": range(len(days))}), pl.DataFrame({"left": days.dt.replace_time_zone(None), "n": range(len(days))})
    for a, b in ((zoned, naive), (naive, zoned)):
        c = compare(profile(a, name="a"), profile(b, name="b"))
        d = c.columns[0]
        assert (d.name, d.kind(), d.status, d.measure) == ("left", "type", "same", "ks") and d.distance > 0
        with_zone, without = "ab" if a is zoned else "ba"
        assert say(c.headlines[1]) == f"left has times with a zone (Asia/Seoul) in {with_zone} and without one in {without}, which are taken for UTC."
        assert say(c.headlines[1]) in explore(a, b, name=("a", "b")).document()
    with_zones = compare(profile(zoned), profile(zoned.with_columns(pl.col("left").dt.convert_time_zone("UTC"), pl.col("n").cast(pl.Int32))), ("a", "b"))
    assert [d.kind() for d in with_zones.columns] == ["alike"] * 2 and with_zones.column("left").distance == 0
    assert "Stored as another type, from a to b: left (Datetime Asia/Seoul → Datetime UTC), n (Int64 → Int32)." in map(say, with_zones.headlines)
