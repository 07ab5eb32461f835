"""Planted anomalies, each found as what it is, and none in the clean next period: on Adult, bike rentals and hotel bookings.

A schema is inferred from one period and held against the next: Adult's own train and test parts, the bikes' 2011 and the first nine months of 2012, the
hotels' 2016 and 2017. `PLANTED` is the table: what is planted where, and as what it has to be found.
"""

import datetime as dt

import polars as pl
import pytest

from mlwb.data.schema import infer, validate
from mlwb.data.sqlchecks import parse_check

FACTS = {"adult": ("class", ""), "bike": ("cnt", "ts"), "hotel": ("is_canceled", "arrival_date")}
STAY = parse_check("""-- lead time is not the days between booking and arrival
SELECT _row, lead_time FROM data WHERE lead_time <> date_diff('day', booking_date, arrival_date)""", "lead.sql")
N = pl.int_range(pl.len())


def some(column, value, every=50, at=7):
    """Every so many rows hold another value."""
    return lambda df: df.with_columns(pl.when(N % every == at).then(value).otherwise(pl.col(column)).alias(column))


def text(column, value): return lambda df: df.with_columns(pl.when(N % 100 == 3).then(pl.lit(value)).otherwise(pl.col(column).cast(pl.String)).alias(column))
def drop(column): return lambda df: df.drop(column)
def empty(column): return lambda df: df.with_columns(pl.lit(None, df.schema[column]).alias(column))
def keep(condition): return lambda df: df.filter(condition)
def put(**columns): return lambda df: df.with_columns(**columns)
def day(y, m, d): return pl.datetime(y, m, d)
def twice(part): return lambda df: pl.concat([df, df.filter(part)])


NULL = pl.lit(None)
IN_JUNE = pl.col("ts").is_between(day(2012, 6, 4), day(2012, 6, 18), closed="left")
ARRIVED = pl.col("arrival_date")
IN_MAY = ARRIVED.is_between(day(2017, 5, 1), day(2017, 5, 12))
PLANTED = [  # data, what is planted, how, the column that it has to be found in, the kind
    ("adult", "ages with a digit too many", some("age", pl.col("age") * 10 + 100), "age", "range"),
    ("adult", "a negative number of hours", some("hours-per-week", -pl.col("hours-per-week"), 500), "hours-per-week", "range"),
    ("adult", "an occupation nobody has", some("occupation", pl.lit("Influencer"), 300), "occupation", "domain"),
    ("adult", "blanks behind a value", some("education", pl.col("education") + " "), "education", "domain"),
    ("adult", "years that don't go with the degree", some("education-num", pl.col("education-num") % 16 + 1), "education-num", "dependency"),
    ("adult", "no sex at all", empty("sex"), "sex", "empty"),
    ("adult", "relationships missing", some("relationship", NULL), "relationship", "missing"),
    ("adult", "many more workclasses missing", some("workclass", NULL, 4, 1), "workclass", "missing"),
    ("adult", "no label", drop("class"), "class", "missing-column"),
    ("adult", "a column from elsewhere", put(score=pl.lit(.5)), "score", "new-column"),
    ("adult", "hours as text", text("hours-per-week", "40h"), "hours-per-week", "type"),
    ("adult", "gains lost", put(**{"capital-gain": pl.lit(0)}), "capital-gain", "constant"),
    ("adult", "everybody eight years older", put(age=pl.col("age") + 8), "age", "distribution"),
    ("adult", "whole numbers with a fraction", put(fnlwgt=pl.col("fnlwgt") / 7), "fnlwgt", "type"),
    ("adult", "half of the rows loaded twice", twice(N % 2 == 0), "", "duplicates"),
    ("adult", "a hundred rows only", keep(N < 100), "", "rows"),
    ("bike", "an hour after the last", some("hr", pl.lit(24), 200), "hr", "domain"),
    ("bike", "temperatures in Fahrenheit", put(temp=pl.col("temp") * 41 * 1.8 + 32), "temp", "range"),
    ("bike", "negative counts", some("cnt", -pl.col("cnt") - 1, 200), "cnt", "range"),
    ("bike", "humidity missing", some("hum", NULL, 100), "hum", "missing"),
    ("bike", "infinite wind", some("windspeed", pl.lit(float("inf")), 300), "windspeed", "infinite"),
    ("bike", "no weather", drop("weathersit"), "weathersit", "missing-column"),
    ("bike", "a sensor's column", put(sensor=pl.col("hum")), "sensor", "new-column"),
    ("bike", "counts as text", text("casual", "n/a"), "casual", "type"),
    ("bike", "every day a working day", put(workingday=pl.lit(1)), "workingday", "constant"),
    ("bike", "a tenth of the subscribers", put(registered=pl.col("registered") // 10), "registered", "distribution"),
    ("bike", "two seasons in a day", some("season", pl.col("season") % 4 + 1, 40), "season", "dependency"),
    ("bike", "times repeated", some("ts", pl.col("ts").shift(1), 100), "ts", "unique"),
    ("bike", "rows out of order", lambda df: df.sample(fraction=1, shuffle=True, seed=0), "ts", "order"),
    ("bike", "two weeks lost", keep(~IN_JUNE), "ts", "gap"),
    ("bike", "two weeks thinned", keep(~IN_JUNE | (pl.col("hr") == 12)), "ts", "period-rows"),
    ("bike", "times from the epoch", some("ts", day(1970, 1, 1), 500, 499), "ts", "range"),
    ("hotel", "negative rates", some("adr", -pl.col("adr") - 1, 100), "adr", "range"),
    ("hotel", "rates in another currency", put(adr=pl.col("adr") * 3), "adr", "distribution"),
    ("hotel", "a meal nobody serves", some("meal", pl.lit("XX"), 300), "meal", "domain"),
    ("hotel", "countries in full", some("country", pl.lit("Portugal"), 100), "country", "length"),
    ("hotel", "bookings with one number", some("booking_id", pl.col("booking_id").shift(1), 1000), "booking_id", "unique"),
    ("hotel", "children missing", some("children", NULL, 20), "children", "missing"),
    ("hotel", "agents lost", some("agent", NULL, 2, 1), "agent", "missing"),
    ("hotel", "no label", drop("is_canceled"), "is_canceled", "missing-column"),
    ("hotel", "months that don't go with the date", some("arrival_date_month", pl.lit("January"), 80), "arrival_date_month", "dependency"),
    ("hotel", "one deposit type", put(deposit_type=pl.lit("No Deposit")), "deposit_type", "constant"),
    ("hotel", "lead times as text", text("lead_time", "7 days"), "lead_time", "type"),
    ("hotel", "bookings from the epoch", some("booking_date", day(1970, 1, 1), 200), "booking_date", "range"),
    ("hotel", "eleven days lost", keep(~IN_MAY), "arrival_date", "gap"),
    ("hotel", "a day loaded ten times over", lambda df: pl.concat([df, *[df.filter(ARRIVED == day(2017, 5, 5))] * 9]), "arrival_date", "period-rows"),
    ("hotel", "unknown customers", some("customer_type", pl.lit("Transient "), 100), "customer_type", "reference"),
    ("hotel", "lead times that are off", some("lead_time", pl.col("lead_time") + 1, 500), "", "check"),
]


@pytest.fixture(scope="module")
def periods(data_dir):
    """Data set → schema of a period, the next period."""
    adult, bike, hotel = (pl.read_parquet(data_dir / f"{n}.parquet") for n in ("adult", "bike_hourly", "hotel_bookings"))
    hotel = hotel.sort("arrival_date")
    year = lambda c: pl.col(c).dt.year()
    parts = {"adult": (adult.filter(pl.col("split") == "train"), adult.filter(pl.col("split") == "test")),
             "bike": (bike.filter(year("ts") == 2011), bike.filter((year("ts") == 2012) & (pl.col("ts") < day(2012, 10, 1)))),
             "hotel": (hotel.filter(year("arrival_date") == 2016), hotel.filter(year("arrival_date") == 2017))}
    out = {n: (infer(a, *FACTS[n]), b) for n, (a, b) in parts.items()}
    out["hotel"][0].references = {"customer_type": "types.name"}
    return out


def found(schema, df): return validate(df, schema, checks=[STAY] if "lead_time" in df.columns and df.schema["lead_time"].is_integer() else [],
                                       tables={"types": pl.DataFrame({"name": ["Transient", "Contract", "Transient-Party", "Group"]})})


@pytest.mark.parametrize("name", FACTS)
def test_the_clean_next_period_raises_nothing(periods, name):
    assert [(a.column, a.kind, str(a.message)) for a in found(*periods[name]).anomalies if a.severity != "info"] == []


@pytest.mark.parametrize("name, what, plant, column, kind", PLANTED, ids=[f"{n}: {w}" for n, w, *_ in PLANTED])
def test_what_is_planted_is_found_as_what_it_is(periods, name, what, plant, column, kind):
    schema, df = periods[name]
    anomalies = [a for a in found(schema, plant(df)).anomalies if a.severity != "info"]
    assert (column, kind) in {(a.column, a.kind) for a in anomalies}, [(a.column, a.kind, str(a.message)) for a in anomalies]
    a = next(a for a in anomalies if (a.column, a.kind) == (column, kind))
    assert (a.rows > 0 or kind == "gap") and 0 < a.share <= 1 and len(str(a.message)) > 10


def test_there_are_enough_of_them():
    """Forty at least, on each table more than ten, of all kinds that a table can show."""
    kinds = {k for *_, k in PLANTED}
    assert len(PLANTED) >= 40 and all(sum(p[0] == n for p in PLANTED) >= 14 for n in FACTS)
    assert kinds >= {"missing-column", "new-column", "type", "empty", "missing", "domain", "range", "length", "infinite", "constant", "unique", "distribution",
                     "duplicates", "order", "rows", "gap", "period-rows", "dependency", "reference", "check"}


@pytest.mark.parametrize("seed", range(3))
def test_random_halves_agree(data_dir, seed):
    df = pl.read_parquet(data_dir / "adult.parquet").sample(fraction=1, shuffle=True, seed=seed)
    schema = infer(df.head(df.height // 2), "class")
    assert [a for a in validate(df.tail(df.height // 2), schema).anomalies if a.severity != "info"] == []


def test_alternate_weeks_agree(data_dir):
    df = pl.read_parquet(data_dir / "bike_hourly.parquet")
    week = pl.col("ts").dt.epoch("s") // 604800 % 2
    schema = infer(df.filter(week == 0), "cnt", "ts")
    assert [a for a in validate(df.filter(week == 1), schema).anomalies if a.severity != "info"] == []


def test_a_hurricane_is_an_anomaly(data_dir):
    """On 29 October 2012 Washington's bikes stood still: the one finding in the clean year 2012, and it is right."""
    df = pl.read_parquet(data_dir / "bike_hourly.parquet")
    schema = infer(df.filter(pl.col("ts").dt.year() == 2011), "cnt", "ts")
    a, = [a for a in validate(df.filter(pl.col("ts").dt.year() == 2012), schema).anomalies if a.severity != "info"]
    assert a.kind == "period-rows" and a.examples == [[None, ["2012-10-29", 1]]]


def test_cells_are_those_that_were_planted(periods):
    from mlwb.data.schema import cells
    schema, df = periods["adult"]
    rows = [i for i in range(df.height) if i % 50 == 7]
    assert cells(validate(some("age", pl.lit(999))(df), schema)) == [[i, "age"] for i in rows]
    changed = some("education-num", pl.col("education-num") % 16 + 1)(df)
    assert {(r, c) for r, c in cells(validate(changed, schema))} >= {(i, "education-num") for i in rows}


def test_wrong_cells_of_the_hospital(data_dir):
    """Cells that a schema of the clean table suspects in the dirty one, against the truth."""
    from mlwb.data.schema import cells
    clean, dirty = (pl.read_parquet(data_dir / f"{k}_hospital.parquet") for k in ("clean", "dirty"))
    suspected = {(r, c) for r, c in cells(validate(dirty, infer(clean)))}
    truth = {(i, c) for c in clean.columns for i in range(clean.height) if clean[c][i] != dirty[c][i]}
    assert len(suspected & truth) >= .75 * len(truth) and len(suspected & truth) >= .75 * len(suspected), (len(suspected), len(truth), len(suspected & truth))


def test_times_are_of_one_kind():
    assert infer(pl.DataFrame({"t": [dt.datetime(2024, 1, 1) + dt.timedelta(days=i) for i in range(100)]}))["t"].max > "2024-06"
