"""Databases as sources: a real PostgreSQL and SQLite, read in a stream, changed by nobody, and noticed when one row changes."""

import json
import logging
import os
import sqlite3
import subprocess
import sys
import traceback
from contextlib import closing
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from types import SimpleNamespace

import polars as pl
import pytest

from mlwb.core.errors import InputError, MissingExtra
from mlwb.core.states import state
from mlwb.core.workspace import Project, publish
from mlwb.data import databases
from mlwb.data.databases import opened, spool, sql_state

PLAIN = "hunter22"  # a password where none may stand


@pytest.fixture
def pg(postgres):
    """The server with nothing in it."""
    postgres.run("DROP SCHEMA IF EXISTS sales, public CASCADE", "CREATE SCHEMA public")
    return postgres


@pytest.fixture
def read(pg, tmp_path):
    """`read("orders")`: a table or query of the server as a frame; `.said` what was said last."""
    def read(what):
        read.said = []
        return spool(f"{pg.source}#{what}", tmp_path / "scratch", read.said).collect()
    return read


@pytest.fixture
def now(pg, tmp_path): return lambda what: sql_state(SimpleNamespace(root=tmp_path), f"{pg.source}#{what}")


@pytest.fixture
def shop(tmp_path):
    """`shop(statements)`: an SQLite file beside the project."""
    def run(script):
        with closing(sqlite3.connect(tmp_path / "shop.db")) as db: db.executescript(script)
        return "sqlite:///shop.db"
    return run


def orders(pg, n=3): pg.run("CREATE TABLE orders (id int PRIMARY KEY, price float8, day date)",
                            f"INSERT INTO orders SELECT i, i * 1.5, date '2024-01-01' + i FROM generate_series(1, {n}) i")


# --- values ------------------------------------------------------------------------------------------------------------

TYPES = [  # SQL's type, a value in SQL, the column's type, the value
    ("smallint", "-7", pl.Int64, -7), ("bigint", str(2**63 - 1), pl.Int64, 2**63 - 1),
    ("real", "1.5", pl.Float64, 1.5), ("double precision", "'-Infinity'", pl.Float64, float("-inf")), ("double precision", "'NaN'", pl.Float64, None),
    ("numeric(10,2)", "5", pl.Decimal(38, 2), Decimal("5.00")),
    ("numeric", "12345678901234567890.123456789", pl.Decimal(38, 9), Decimal("12345678901234567890.123456789")),
    ("numeric", "1234567890123456789012345678901234567890.5", pl.String, "1234567890123456789012345678901234567890.5"),
    ("boolean", "true", pl.Boolean, True), ("text", "'한글 \U0001f600 '''", pl.String, "한글 \U0001f600 '"), ("char(3)", "'a'", pl.String, "a  "),
    ("date", "'0001-01-01'", pl.Date, date(1, 1, 1)), ("date", "'9999-12-31'", pl.Date, date(9999, 12, 31)),
    ("time", "'23:59:59.5'", pl.Time, time(23, 59, 59, 500000)), ("timetz", "'12:00+09'", pl.String, "12:00:00+09:00"),
    ("timestamp", "'2024-02-29 12:00:00.000001'", pl.Datetime("us"), datetime(2024, 2, 29, 12, 0, 0, 1)),
    ("timestamptz", "'2024-11-03 01:30:00-05'", pl.Datetime("us", "UTC"), datetime(2024, 11, 3, 6, 30, tzinfo=UTC)),
    ("interval", "'1 day 00:00:01.5'", pl.Duration("us"), timedelta(days=1, seconds=1.5)),
    ("json", """'{"a": 1.10}'""", pl.String, '{"a": 1.10}'), ("jsonb", """'{"b":12345678901234567890.10}'""", pl.String, '{"b": 12345678901234567890.10}'),
    ("jsonb", """'"x"'""", pl.String, '"x"'), ("int[]", "'{1,NULL,3}'", pl.String, "[1, null, 3]"), ("text[][]", "'{{a,한}}'", pl.String, '[["a", "한"]]'),
    ("bytea", r"'\x00ff'", pl.Binary, b"\x00\xff"), ("uuid", "'00000000-0000-0000-0000-000000000007'", pl.String, "00000000-0000-0000-0000-000000000007"),
    ("mood", "'좋음'", pl.String, "좋음"), ("inet", "'10.0.0.1/8'", pl.String, "10.0.0.1/8"), ("int4range", "'[1,3)'", pl.String, "[1, 3)"),
    ("point", "'(1,2)'", pl.String, "(1,2)"), ("bit(3)", "'101'", pl.String, "101"), ("xml", "'<a/>'", pl.String, "<a/>"),
]


def test_every_type_of_postgresql(pg, read):
    pg.run("DROP TYPE IF EXISTS mood CASCADE", "CREATE TYPE mood AS ENUM ('좋음', 'bad')",
           f"CREATE TABLE kinds (n int PRIMARY KEY, {', '.join(f'c{i} {t[0]}' for i, t in enumerate(TYPES))})",
           f"INSERT INTO kinds VALUES (1, {', '.join(t[1] for t in TYPES)}), (2{', NULL' * len(TYPES)})")
    df = read("kinds")
    for i, (sql, text, kind, value) in enumerate(TYPES):
        assert (df[f"c{i}"].dtype, df[f"c{i}"].to_list()) == (kind, [value, None]), f"{sql} {text}"


def test_a_column_without_values_has_the_type_that_the_server_says(pg, read):
    pg.run(f"CREATE TABLE kinds ({', '.join(f'c{i} {t[0]}' for i, t in enumerate(TYPES) if t[0] not in ('mood', 'numeric', 'numeric(10,2)'))})")
    for rows in (0, 3):
        df = read("kinds")
        assert df.height == rows and all(df[f"c{i}"].dtype == t[2] for i, t in enumerate(TYPES) if f"c{i}" in df.columns)
        pg.run("INSERT INTO kinds DEFAULT VALUES", "INSERT INTO kinds DEFAULT VALUES", "INSERT INTO kinds DEFAULT VALUES")


def test_types_agree_over_batches(shop, tmp_path):
    """A thousand nulls first, whole numbers that become fractions, texts among numbers: SQLite allows it all in one column."""
    url = shop("""CREATE TABLE t (late, widening, mixed, big);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000)
        INSERT INTO t SELECT CASE WHEN i > 55000 THEN i END, CASE WHEN i > 55000 THEN i + .5 ELSE i END,
                             CASE WHEN i = 60000 THEN x'ff' WHEN i > 55000 THEN 'a' ELSE i END,
                             CASE WHEN i > 1000 THEN 9223372036854775807 ELSE 1 END FROM n;""")
    said = []
    df = spool(f"{url}#t", tmp_path / "s", said, base=tmp_path).collect()
    assert df.schema == {"late": pl.Int64, "widening": pl.Float64, "mixed": pl.String, "big": pl.Int64} and len(list((tmp_path / "s").iterdir())) == 3
    assert df["late"].null_count() == 55000 and df["widening"].sum() == 60000 * 60001 / 2 + 2500
    assert df["mixed"].to_list() == [*map(str, range(1, 55001)), *["a"] * 4999, "ff"] and df["big"].max() == 2**63 - 1
    assert len(said) == 1 and str(said[0]).endswith(": mixed")


def test_dates_that_no_date_holds_are_an_error_that_says_which(pg, read):
    with pytest.raises(InputError, match="'infinity'.* A query after # can cast"): read("SELECT timestamp 'infinity' AS t")
    assert read("SELECT nullif(timestamp 'infinity', 'infinity') AS t")["t"].dtype == pl.Datetime("us")


# --- reading -----------------------------------------------------------------------------------------------------------

STREAM = """
import json, resource, sys
from pathlib import Path
from mlwb.data.databases import spool
source, scratch, n = sys.argv[1:]
steps = []
query = f"SELECT i, repeat(md5(i::text), 32) AS text, i * 0.5 AS half FROM generate_series(1, {n}) i"
table = spool(f"{source}#{query}", Path(scratch), [], lambda *a: steps.append(a))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
ids = table.select("i").collect()["i"]
print(json.dumps([len(ids), ids.is_sorted(), steps[-1], len(steps), peak]))
"""


def test_memory_does_not_grow_with_the_table(pg, tmp_path):
    def peak(n):
        done = subprocess.run([sys.executable, "-c", STREAM, pg.source, tmp_path / str(n), str(n)], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        rows, ordered, last, steps, mib = json.loads(done.stdout)
        assert (rows, ordered, last) == (n, True, [n, None]) and (n < 100_000 or steps > 5)
        return mib
    small, large = peak(20_000), peak(200_000)  # 20 and 200 MB of text
    assert large < small + 90, f"{small:.0f} MiB, {large:.0f} MiB"


def test_tables_views_and_schemas(pg, read):
    orders(pg)
    pg.run("CREATE SCHEMA sales", "CREATE TABLE sales.items AS SELECT * FROM orders", "CREATE VIEW cheap AS SELECT * FROM orders WHERE price < 2",
           "CREATE MATERIALIZED VIEW made AS SELECT * FROM orders")
    for what in ("orders", "public.orders", "sales.items", '"sales"."items"', "made", "TABLE orders", "VALUES (1,2,3), (4,5,6), (7,8,9);"):
        assert read(what).shape == (3, 3), what
    assert read("cheap").height == 1 and read("-- the first\nSELECT 1 AS a; -- that's it\n").to_dict(as_series=False) == {"a": [1]}
    assert read("SELECT 'a%' AS \"100%\", ':x' AS \"a:b\"").rows() == [("a%", ":x")]
    with pytest.raises(InputError, match="There is no table 'item'.*sales.items"): read("item")
    with pytest.raises(InputError, match="does not say what to read.*Tables here: cheap, made, orders, sales.items"): read("")


def test_the_socket_is_as_good_as_the_port(pg, tmp_path):
    orders(pg)
    assert spool(f"postgresql+psycopg://ada:env:TEST_PG_PASSWORD@/postgres?host={pg.folder}&port={pg.port}#orders", tmp_path).collect().height == 3


def test_rows_come_in_the_order_of_the_query_and_of_the_key(pg, read):
    orders(pg, 2000)
    pg.run("UPDATE orders SET price = 0 WHERE id = 5")  # PostgreSQL puts it at the end
    assert read("orders")["id"].to_list() == list(range(1, 2001))
    assert read("SELECT id FROM orders ORDER BY id DESC")["id"].to_list() == list(range(2000, 0, -1))


HOSTILE = ['t;drop table orders; --', 'q"uote', "ap'os", "표 이름", "100%s", "a.b", ":bind", "select", "Upper", " lead", "back\\slash", "x" * 63]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names(pg, read, now, shop, tmp_path, name):
    orders(pg)
    quoted = '"' + name.replace('"', '""') + '"'
    pg.run(f'CREATE TABLE {quoted} ({quoted} int PRIMARY KEY, "%(x)s" text)'.encode(), f"INSERT INTO {quoted} VALUES (1, 'a'), (2, 'b')".encode())
    url = shop(f"CREATE TABLE {quoted} ({quoted} int PRIMARY KEY, \"%(x)s\" text); INSERT INTO {quoted} VALUES (1, 'a'), (2, 'b')")
    for what in (quoted, name.strip() if name == name.strip() else quoted):
        for df in (read(what), spool(f"{url}#{what}", tmp_path / "s", [], base=tmp_path).collect()):
            assert (df.columns, df.rows()) == ([name.strip(), "%(x)s"], [(1, "a"), (2, "b")]), what
    assert now(quoted).startswith("2 rows") and read("orders").height == 3


def test_column_names_that_are_there_twice(pg, read):
    df = read("SELECT 1 AS a, 2 AS a, 4, 5")
    assert df.columns == ["a", "a_2", "?column?", "?column?_2"] and df.row(0) == (1, 2, 4, 5) and "a_2" in str(read.said[0])


# --- nobody's data is changed ------------------------------------------------------------------------------------------

def test_read_only(pg, read):
    orders(pg)
    pg.run("CREATE SEQUENCE seq", "CREATE FUNCTION grow() RETURNS int LANGUAGE sql AS $$ INSERT INTO orders VALUES (99, 0, now()) RETURNING id $$")
    for what in ("SELECT grow()", "SELECT nextval('seq')", "WITH gone AS (DELETE FROM orders RETURNING id) SELECT * FROM gone",
                 "SELECT 1; COMMIT; DROP TABLE orders",
                 "SELECT set_config('transaction_read_only', 'off', false), pg_sleep(0)", "SELECT 1 INTO other", "DELETE FROM orders"):
        with pytest.raises(InputError): read(what)
    with pytest.raises(InputError, match="read-only transaction"): read("SELECT grow()")
    assert read("orders").height == 3 and read("SELECT is_called FROM seq").item() is False


def test_sqlite_is_neither_changed_nor_made(shop, tmp_path):
    url = shop("CREATE TABLE t (a); INSERT INTO t VALUES (1)")
    before = (tmp_path / "shop.db").read_bytes()
    with pytest.raises(InputError, match="readonly database"):
        with opened(f"{url}#t", tmp_path) as (connection, _): connection.exec_driver_sql("DELETE FROM t")
    with pytest.raises(InputError, match="Did you mean 'shop.db'"): spool("sqlite:///shopp.db#t", tmp_path / "s", base=tmp_path)
    assert (tmp_path / "shop.db").read_bytes() == before and not (tmp_path / "shopp.db").exists()


# --- what it holds now -------------------------------------------------------------------------------------------------

CHANGES = ["UPDATE orders SET price = price + 1 WHERE id = 2", "UPDATE orders SET price = CASE id WHEN 1 THEN 3 WHEN 2 THEN 1.5 ELSE price END",
           "UPDATE orders SET day = NULL WHERE id = 1", "DELETE FROM orders WHERE id = 3", "INSERT INTO orders VALUES (9, 1, NULL)",
           "ALTER TABLE orders RENAME price TO cost", "ALTER TABLE orders ALTER price TYPE numeric", "ALTER TABLE orders ADD more int"]


@pytest.mark.parametrize("change", CHANGES)
def test_one_changed_row_or_column_is_noticed(pg, now, change):
    orders(pg)
    sources = ("orders", "SELECT * FROM orders", "SELECT * FROM orders ORDER BY id;")
    before = [now(s) for s in sources]
    assert [now(s) for s in sources] == before
    pg.run(change)
    after = [now(s) for s in sources]
    assert not set(before) & set(after)


def test_what_changes_no_row_is_no_change(pg, now):
    orders(pg, 500)
    before, ordered = now("orders"), now("SELECT id FROM orders ORDER BY price")
    pg.run("UPDATE orders SET price = price WHERE id < 100", "VACUUM FULL orders", "CREATE INDEX ON orders (price)", "CREATE TABLE others (a int)")
    assert (now("orders"), now("SELECT id FROM orders ORDER BY price")) == (before, ordered)
    pg.run("UPDATE orders SET price = -price")
    assert now("SELECT id FROM orders ORDER BY price") != ordered and now("SELECT id FROM orders").split()[2] != before.split()[2]


def test_a_column_named_like_the_hashed_row(pg, now):
    pg.run("CREATE TABLE t (mlwb int, t int, h int)", "INSERT INTO t VALUES (1, 1, 1)")
    before = now("t")
    pg.run("UPDATE t SET h = 2")
    assert now("t") != before


def test_equal_rows_count(pg, now):
    pg.run("CREATE TABLE t (a int)", "INSERT INTO t VALUES (1), (1), (2)")
    before = now("t")
    pg.run("DELETE FROM t", "INSERT INTO t VALUES (2), (1), (1)")
    assert now("t") == before
    pg.run("DELETE FROM t WHERE a = 2", "INSERT INTO t VALUES (1)")
    assert now("t") != before


def test_a_server_that_can_not_hash_is_read(pg, now, monkeypatch):
    orders(pg)
    monkeypatch.setattr(databases, "_on_server", lambda connection, text, ordered: connection.exec_driver_sql("SELECT nosuch()"))
    before = now("orders")
    assert now("orders") == before and before.startswith("3 rows")
    pg.run("UPDATE orders SET price = 0 WHERE id = 2")
    assert now("orders") != before


def test_a_projects_source(pg, tmp_path):
    orders(pg)
    publish(tmp_path / "settings.ini", f"[workbench]\nname = shop\ntarget = y\nsource = {pg.source}#orders\n")
    before = state(Project(tmp_path), "source")
    assert state(Project(tmp_path), "source") == before and before.startswith(f"{pg.source}#orders 3 rows ")
    pg.run("UPDATE orders SET price = 0 WHERE id = 2")
    assert state(Project(tmp_path), "source") != before


# --- secrets and errors ------------------------------------------------------------------------------------------------

def said_by(call):
    """All that an error says, chained ones included."""
    try: call()
    except Exception as e: return "".join(traceback.format_exception(e)) + repr(e) + repr(vars(e))
    return ""


def test_a_password_is_nowhere(pg, tmp_path, caplog, monkeypatch):
    from mlwb.core.secrets import Mask
    caplog.set_level(logging.DEBUG)
    orders(pg)
    at, said = f"127.0.0.1:{pg.port}", []
    name = "ada:env:TEST_PG_PASSWORD"
    bad = [f"{pg.source}#nope", f"{pg.source}#", f"{pg.source}#SELECT nope", f"postgresql://{name}@127.0.0.1:1/postgres#t",
           f"postgresql://bob:env:TEST_PG_PASSWORD@{at}/postgres#t", f"postgresql://{name}@{at}/nope#t",
           f"postgresql://{name}@{at}/postgres?sslmode=env:TEST_PG_PASSWORD#t", f"postgresql://{name}@{at}/postgres?nope=1#t",
           f"postgresql+nope://{name}@{at}/postgres#t", f"postgresql://ada:{pg.password}@{at}/postgres#orders", f"postgresql://ada:{PLAIN}@{at}/postgres#orders"]
    texts = [said_by(lambda s=s: spool(s, tmp_path / "s", said)) for s in bad]
    texts += [said_by(lambda s=s: sql_state(SimpleNamespace(root=tmp_path), s)) for s in bad]
    assert all(texts), texts
    table = spool(f"{pg.source}#orders", tmp_path / "s", said)
    texts += [caplog.text, *map(str, said), table.explain(), sql_state(SimpleNamespace(root=tmp_path), f"{pg.source}#orders"), *map(str, tmp_path.rglob("*"))]
    assert not Mask(["TEST_PG_PASSWORD"]).found("\n".join(texts)) and not [t for t in texts if PLAIN in t]
    assert not any(Mask(["TEST_PG_PASSWORD"]).found(p.read_bytes()) for p in (tmp_path / "s").iterdir())


@pytest.mark.parametrize("source, words", [
    ("postgresql://bob:env:TEST_PG_PASSWORD@{at}/postgres#t", "can't be opened: .*authentication failed"),
    ("postgresql://ada@{at}/postgres#t", "no password supplied"),
    ("postgresql://ada:env:TEST_PG_PASSWORD@{at}/nope#t", 'database "nope" does not exist'),
    ("postgresql://ada:env:TEST_PG_PASSWORD@127.0.0.1:1/postgres#t", "refused"),
    ("postgresql://ada:env:TEST_PG_NONE@{at}/postgres#t", "TEST_PG_NONE is not set"),
    ("postgresql://ada:{plain}@{at}/postgres#t", "plain text"),
    ("postgresq://ada@{at}/postgres#t", "Did you mean 'postgresql'"),
    ("postgresql://ada:env:TEST_PG_PASSWORD@{at}/postgres#SELECT pg_size FROM pg_class", "does not exist"),
])
def test_errors_are_one_paragraph(pg, tmp_path, source, words):
    with pytest.raises(InputError, match=words) as e: spool(source.format(at=f"127.0.0.1:{pg.port}", plain=PLAIN), tmp_path)
    assert "\n" not in str(e.value) and "DECLARE" not in str(e.value)


def test_a_missing_driver_is_named(tmp_path):
    with pytest.raises(MissingExtra, match="pip install oracledb"): spool("oracle+oracledb://host/db#t", tmp_path)
    code = ("import sys\nsys.modules['psycopg'] = None\nfrom mlwb.data.databases import spool\n"
            "try: spool('postgresql://host/db#t', '.')\nexcept Exception as e: print(type(e).__name__, e)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=os.environ)
    assert done.stdout.startswith("MissingExtra ") and 'pip install "mlwb[sql]"' in done.stdout
