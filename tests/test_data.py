"""The data room on real tables: what pandas and scipy say, must be what mlwb says."""

import json
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.stats

from mlwb.core.errors import InputError
from mlwb.core.messages import say, use_language
from mlwb.data.notes import AcquisitionNote, save_note
from mlwb.data.profile import Profile, document, profile
from mlwb.data.questions import ask
from mlwb.data.schema import check_target, from_yaml, infer, to_yaml, validate
from mlwb.data.sources import acquire, frame, read
from mlwb.data.store import Store, digest, to_pandas

SETS = {"hotel_bookings": ("is_canceled", "booking_date"), "bike_hourly": ("cnt", "ts"), "adult": ("class", ""),
        "dirty_hospital": (None, ""), "dirty_beers": (None, "")}


@pytest.fixture(scope="module")
def flights():
    return read("demo:flights")


@pytest.fixture(scope="module")
def flights_profile(flights): return profile(flights[0], target="late")


@pytest.fixture(params=list(SETS))
def real(request, data_dir):
    return request.param, pl.read_parquet(data_dir / f"{request.param}.parquet"), *SETS[request.param]


class TestProfileAgainstPandas:
    def test_every_number(self, real):
        name, df, target, _ = real
        p, wide = profile(df, target=target, name=name), df.to_pandas()
        assert p.rows == len(wide) and p.duplicates == int(wide.duplicated().sum())
        for c in p.columns:
            s = wide[c.name]
            assert not c.error and c.missing == int(s.isna().sum()) and c.distinct == s.nunique()
            if c.type in ("number", "integer"):
                x = s.dropna().astype(float).to_numpy()
                assert np.allclose([c.stats["mean"], c.stats["sd"]], [x.mean(), x.std(ddof=1)])
                assert [c.quantiles[q] for q in ("min", "0.25", "0.5", "0.99", "max")] == pytest.approx(np.quantile(x, [0, .25, .5, .99, 1]))
                if c.distinct > 1:
                    assert [c.stats["skewness"], c.stats["kurtosis"]] == pytest.approx([scipy.stats.skew(x), scipy.stats.kurtosis(x)], rel=1e-6)
                h = c.histogram
                inside = x[(x >= h.edges[0]) & (x <= h.edges[-1])]
                assert h.counts == np.histogram(inside, h.edges)[0].tolist() and h.below + h.above == len(x) - len(inside)
            if c.type in ("category", "text"):
                counts = s.value_counts()
                shown = [n for n in sorted(counts, reverse=True)[:20] if n > 1 or c.type != "text"]  # of text, none that is there once
                assert [n for _, n in c.top] == shown and all(counts[v] == n for v, n in c.top)
                assert c.other == counts.sum() - sum(n for _, n in c.top)

    def test_survives_json_and_repeats(self, real):
        _, df, target, _ = real
        p = profile(df, target=target)
        assert Profile.from_json(json.loads(json.dumps(p.to_json()))).digest() == p.digest() == profile(df, target=target).digest()
        assert len(json.dumps(p.to_json())) < 250_000 and 2 <= len(p.headlines) + (target is None) <= 6

    def test_pandas_gives_the_same(self, real):
        _, df, target, _ = real
        a, b = profile(df, target=target), profile(df.to_pandas(), target=target)
        facts = [[(c.name, c.missing, c.distinct, c.quantiles, c.top) for c in p.columns] for p in (a, b)]
        assert facts[0] == facts[1]


class TestRelations:
    def test_hotel_leaks_are_seen(self, data_dir):
        p = profile(data_dir / "hotel_bookings.parquet", target="is_canceled")
        kinds = {(a.column, a.kind) for a in p.alerts}
        assert ("reservation_status", "leak") in kinds and ("booking_id", "id") in kinds
        assert p.target_summary["classes"][-1][0] == "1" and p.column("booking_id").relation["strength"] < .7
        again = next(a for a in p.alerts if a.kind == "duplicates-but-id")
        assert again.message.args["n"] == 31_994

    def test_correlations_are_those_of_pandas(self, data_dir):
        df = pd.read_parquet(data_dir / "bike_hourly.parquet")
        p = profile(df, target="cnt")
        numbers = [r for r in p.associations if "pearson" in r]
        assert len(numbers) > 20
        for r in numbers:
            a, b = (df[c].astype("int64") if df[c].dtype.kind == "M" else df[c] for c in (r["a"], r["b"]))
            assert r["pearson"] == pytest.approx(a.corr(b), abs=1e-6) and r["spearman"] == pytest.approx(a.corr(b, method="spearman"), abs=1e-6)
        assert p.task == "regression" and p.column("registered").relation["strength"] > .9

    def test_one_column_auc(self, data_dir):
        from sklearn.metrics import roc_auc_score
        df = pd.read_parquet(data_dir / "adult.parquet")
        p, y = profile(df, target="class"), df["class"] == ">50K"
        assert p.target_summary["positive"] == ">50K"
        for c in ("education-num", "capital-gain", "hours-per-week"):
            assert p.column(c).relation["strength"] == pytest.approx(roc_auc_score(y, df[c]), abs=.04), c
        bins = {b["label"]: b for b in p.column("sex").relation["bins"]}
        share = y.groupby(df["sex"]).mean()
        assert all(bins[s]["value"] == pytest.approx(share[s]) for s in share.index)


class TestFlights:
    def test_the_join(self, flights):
        df, note = flights
        assert df.shape == (336_776, 38) and df["late"].null_count() == 9_430 and df["late"].mean() == pytest.approx(.237, abs=5e-4)
        assert sorted(note.unknown_at_prediction) == ["air_time", "arr_delay", "arr_time", "dep_delay", "dep_time"] and note.licence == "CC0"
        assert df["sched_dep"].is_sorted() and str(df["sched_dep"][0]) == "2013-01-01 05:15:00"

    def test_what_the_profile_finds(self, flights_profile):
        p = flights_profile
        kinds = {(a.column, a.kind) for a in p.alerts}
        assert {("air_time", "missing-with-label"), ("arr_delay", "leak"), ("year", "constant")} <= kinds
        assert not {k for k in kinds if k[1] == "unreadable"} and any("100,000" in str(m) for m in p.notes)
        assert p.column("dep_delay").relation["strength"] > .85 and p.column("tailnum").relation["strength"] < .6
        assert len(json.dumps(p.to_json())) < 7_000 * len(p.columns)  # with what merging needs, 6.75 KB a column

    def test_questions(self, flights):
        q = ask(*flights, "late", "sched_dep")
        assert [x.state for x in q.questions] == ["ok", "ok", "ok", "ok", "warn"]
        assert q["available"].evidence["declared"][0] == "dep_time" and q["updated"].evidence["periods"] == 12
        assert q["relevant"].evidence["strongest"][0]["column"] in ("sched_dep_time", "hour")

    def test_stored_and_read(self, flights, tmp_path):
        df, note = flights
        store = Store(tmp_path / "data")
        ref = store.write("flights", df, note, time="sched_dep")
        assert store.write("flights", df, note, time="sched_dep") == ref and len(store.versions("flights")) == 1
        assert store.read(ref).equals(df) and digest(store.read(ref)) == ref.digest and store.note("flights") == note
        assert ref.url == "data/flights" and ref.time_start == "2013-01-01T05:15:00" and ref.rows == 336_776


class TestSources:
    def test_csv_of_every_kind(self, data_dir, tmp_path):
        hotel = pd.read_parquet(data_dir / "hotel_bookings.parquet").head(3000)
        for name, options in {"a.csv": {}, "b.csv": {"sep": ";"}, "c.tsv": {"sep": "\t"}, "d.csv": {"encoding": "utf-8-sig"},
                              "e.csv": {"encoding": "utf-16"}, "f.csv.gz": {}}.items():
            hotel.to_csv(tmp_path / name, index=False, **options)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                df, _ = read(name, base=tmp_path)
            assert df.columns == list(hotel.columns) and df.height == 3000, name
            assert df["adr"].to_list() == pytest.approx(hotel["adr"].tolist()) and df["arrival_date"].dtype.is_temporal(), name

    def test_korean(self, tmp_path):
        text = "날짜,고객명,연체 여부\n2024-03-01,김철수,예\n2024-03-02,이영희,아니오\n" * 1
        (tmp_path / "대출.csv").write_bytes(text.encode("cp949"))
        said = []
        df, _ = read("대출.csv", base=tmp_path, said=said)
        assert df.columns == ["날짜", "고객명", "연체 여부"] and df["고객명"].to_list() == ["김철수", "이영희"] and "CP949" in str(said[0])
        ref = Store(tmp_path / "data").write("대출 원장", df)
        assert Store(tmp_path / "data").read(ref).equals(df) and "대출" in ref.url

    def test_note_of_the_project(self, tmp_path):
        (tmp_path / "t.csv").write_text("a,b\n1,2\n")
        save_note(AcquisitionNote(owner="me", known_at={"b": "after"}), tmp_path)
        _, note = acquire("t.csv", tmp_path)
        assert note.unknown_at_prediction == ["b"] and note.source == "t.csv"
        save_note(AcquisitionNote(known_at={"bb": "after"}), tmp_path)
        with pytest.raises(InputError, match="bb"): acquire("t.csv", tmp_path)

    @pytest.mark.parametrize("content, words", [(b"", "it is empty"), (b"a,b\n", "no rows"), (b"a,b\n1,2\n1,2,3\n", "line 3 has 3 fields")])
    def test_bad_files(self, tmp_path, content, words):
        (tmp_path / "x.csv").write_bytes(content)
        with pytest.raises(InputError, match=words): read("x.csv", tmp_path)
        with pytest.raises(InputError, match="directory"): read(str(tmp_path))
        with pytest.raises(InputError, match="Did you mean 'x.csv'"): read("xx.csv", tmp_path)

    def test_frames_that_nothing_else_reads(self):
        said = []
        odd = pd.DataFrame([[1, 2**70, "a\ud800", [1]], ["x", 1, None, None]], columns=["a", "a", "", ("t", 1)], dtype=object)
        df = frame(odd, said)
        assert df.columns == ["a", "a_2", "column_3", "t.1"] and df["a_2"].to_list() == [2.0**70, 1.0] and len(said) == 2
        json.dumps(document(profile(odd)))


class TestSchema:
    def test_a_table_is_valid_against_itself(self, real):
        _, df, target, order = real
        schema = infer(df)
        assert from_yaml(to_yaml(schema)) == schema
        v = validate(df, schema, target or "", order)
        assert v.valid and not [a for a in v.anomalies if a.kind in ("domain", "range", "type", "missing", "unique", "missing-column", "new-column")]

    def test_later_bookings_differ(self, data_dir):
        df = pl.read_parquet(data_dir / "hotel_bookings.parquet").sort("booking_date")
        schema = infer(df.head(60_000))
        kinds = {a.kind for a in validate(df.tail(30_000).drop("meal"), schema).anomalies}
        assert {"range", "missing-column"} <= kinds
        assert not validate(df.with_columns(adr=pl.col("adr").cast(pl.String)), schema).valid

    def test_dirty_cells_are_new_values(self, data_dir):
        clean, dirty = (pl.read_parquet(data_dir / f"{k}_hospital.parquet") for k in ("clean", "dirty"))
        found = {a.column for a in validate(dirty, infer(clean)).anomalies if a.kind == "domain"}
        assert {"State", "HospitalType", "EmergencyService"} <= found

    def test_targets(self, data_dir):
        adult, bike = (pl.read_parquet(data_dir / f"{k}.parquet") for k in ("adult", "bike_hourly"))
        assert check_target(adult, "class")[1] == "classification" and check_target(bike, "cnt", time="ts")[1] == "regression"
        for df, target, task, when, words in [(adult, "klass", "", "", "Did you mean 'class'"), (adult, "class", "regression", "", "is no number"),
                                              (bike, "cnt", "classification", "", "set task = regression"), (bike, "cnt", "", "hr", "Columns with times"),
                                              (adult.filter(pl.col("class") == ">50K"), "class", "", "", "one class only")]:
            with pytest.raises(InputError, match=words): check_target(df, target, task, when)


def test_messages_of_all_results_show_in_both_languages(flights, flights_profile):
    df, note = flights
    for language in ("en", "ko"):
        with use_language(language):
            for a in flights_profile.alerts: assert say(a.message) and (a.action is None or say(a.action))
            for m in flights_profile.headlines: assert say(m)
            for x in ask(df, note, "late", "sched_dep").questions: assert say(x.question) and say(x.answer) and all(map(say, x.details))


def test_to_pandas_keeps_values(real):
    _, df, _, _ = real
    back = to_pandas(df)
    pd.testing.assert_frame_equal(back, df.to_pandas(), check_dtype=False)
    back.iloc[0, 0] = back.iloc[1, 0]


@pytest.mark.parametrize("module", ["frames", "notes", "sources", "demo", "store", "targets", "columns", "relations", "alerts", "profile",
                                    "expectations", "schema", "questions"])
def test_imports_alone_and_lean(module):
    """Each module imports in a fresh process, and brings neither pandas nor what only writing needs."""
    code = f"import sys, mlwb.data.{module}; print(sorted({{'pandas', 'deltalake', 'sklearn', 'scipy', 'pyarrow', 'yaml'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "[]", done.stdout + done.stderr


WRITERS = """
import os, random, signal, sys, time
from pathlib import Path
import polars as pl, deltalake
from mlwb.data.store import Store, digest

store, random = Store(Path(sys.argv[1])), random.Random(0)
content = lambda i: pl.DataFrame({"i": [i] * 20_000, "text": [f"{i} 행"] * 20_000})

def child(work):  # polars and deltalake have threads: they are used in children only
    pid = os.fork()
    if pid: return pid
    try: work(); os._exit(0)
    except BaseException: import traceback; traceback.print_exc()
    os._exit(1)

def done(pid):
    if (code := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])): sys.exit(f"a process that nobody killed ended with {code}")
"""


class TestWriters:
    """The store in several processes, and in processes that are killed."""

    def run(self, tmp_path, code):
        done = subprocess.run([sys.executable, "-c", WRITERS + code, str(tmp_path / "data")], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]

    def test_four_at_once(self, tmp_path):
        self.run(tmp_path, """
def five(n):
    for i in range(5):
        ref = store.write("t", content(5 * n + i))
        assert store.read(ref).equals(content(5 * n + i)), (n, i)  # the version it was given is the one it wrote
for pid in [child(lambda n=n: five(n)) for n in range(4)]: done(pid)
""")
        store = Store(tmp_path / "data")
        refs = store.versions("t")
        assert [r.version for r in refs] == list(range(20)) and {store.read(r)["i"][0] for r in refs} == set(range(20))
        assert all(digest(store.read(r)) == r.digest for r in refs)

    def test_killed_at_random_moments(self, tmp_path):
        self.run(tmp_path, """
def endless(start):
    for i in range(start, start + 1000): store.write("t", content(i))
def check():
    if not list(store.path.glob("t/_delta_log/*.json")): return
    refs = store.versions("t")
    assert [r.version for r in refs] == list(range(len(refs))) and digest(store.read("t")) == refs[-1].digest
for n in range(15):
    pid = child(lambda: endless(1000 * n))
    time.sleep(random.uniform(.02, .3)); os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
    done(child(check))
done(child(lambda: store.write("t", content(7))))
""")
        store = Store(tmp_path / "data")
        assert len(store.versions("t")) > 5 and store.read("t")["i"].unique().to_list() == [7]

    def test_a_first_write_that_left_a_log_without_a_commit(self, tmp_path):
        (tmp_path / "data" / "t" / "_delta_log").mkdir(parents=True)
        store = Store(tmp_path / "data")
        with pytest.raises(InputError, match="mlwb run --until extract"): store.read("t")
        assert store.write("t", pl.DataFrame({"a": [1]})).version == 0

    def test_a_writer_that_never_ends_is_named(self, tmp_path):
        from filelock import FileLock

        from mlwb.core.errors import MlwbError
        store = Store(tmp_path / "data")
        store.write("t", pl.DataFrame({"a": [1]}))
        with FileLock(store.path / ".t.lock"), pytest.raises(MlwbError, match="being written by another process"):
            with store._lock("t", seconds=.1): pass
