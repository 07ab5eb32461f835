"""Schemas: their files, hostile tables, environments, references, SQL checks, the stage, the history, and what pandera makes of them."""

import datetime as dt
import json
import random
import warnings

import hostile
import numpy as np
import pandas as pd
import polars as pl
import pytest

from mlwb.core.errors import InputError
from mlwb.core.messages import say, use_language
from mlwb.core.results import dumps, loads
from mlwb.data.notes import AcquisitionNote
from mlwb.data.schema import cells, document, from_yaml, infer, load_schema, save_schema, to_yaml, validate
from mlwb.data.schemadiff import diff_schemas
from mlwb.data.sqlchecks import parse_check, run_checks

pytestmark = pytest.mark.filterwarnings("ignore::mlwb.data.frames.DataWarning")
OF_CONTENT = {"changed", "name", "odd-time", "no-rows"}  # what a table is told of whatever its schema says


def found(df, schema, **more): return {(a.column, a.kind, a.severity) for a in validate(df, schema, **more).anomalies}


@pytest.fixture(scope="module")
def loans():
    rng = np.random.default_rng(0)
    n = 5000
    when = [dt.datetime(2024, 1, 1) + dt.timedelta(minutes=53 * i) for i in range(n)]
    branch = rng.integers(0, 30, n)
    return pl.DataFrame(dict(id=range(n), when=when, branch=[f"B-{i:03d}" for i in branch], city=[f"c{i % 7}" for i in branch], amount=rng.gamma(2, 50, n),
                             mail=[f"user{i}@example.com" for i in range(n)], ip=[f"10.0.{i % 256}.{i // 256}" for i in range(n)], grade=rng.integers(1, 6, n),
                             income=[None if x < .1 else float(x) for x in rng.random(n)], paid=rng.random(n) > .3))


@pytest.fixture(scope="module")
def schema(loans): return infer(loans, "paid", "when")


class TestHostile:
    @pytest.mark.parametrize("name", hostile.TABLES)
    def test_a_table_agrees_with_its_own_schema(self, name, tmp_path):
        """Infer, write, read, validate: nothing is lost, and the table breaks no expectation that it suggested itself."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            df = hostile.TABLES[name]()
            schema = infer(df)
            assert from_yaml(to_yaml(schema)) == schema and dumps(loads(dumps(schema))) == dumps(schema)
            save_schema(schema, tmp_path / "schema.yaml")
            again = load_schema(tmp_path / "schema.yaml")
            assert again == schema and again.shapes == schema.shapes
            v = validate(df, again)
        assert [(a.column[:40], a.kind, str(a.message)[:80]) for a in v.anomalies if a.severity != "info" and a.kind not in OF_CONTENT] == []
        assert hostile.plain(document(v, True)) and dumps(loads(dumps(v))) == dumps(v)
        if name != "five_thousand_columns": assert diff_schemas(schema, again).changes == []

    @pytest.mark.parametrize("name", sorted(set(hostile.TABLES) - {"five_thousand_columns", "million_distinct_texts"}))
    def test_any_table_is_held_against_any_schema(self, name, schema):
        """A table of another kind altogether: findings, and never an exception."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            df = hostile.TABLES[name]()
            own = infer(df)
            renamed = infer(df)
            for c, other in zip(renamed.columns, random.Random(0).sample(own.columns, len(own.columns))): c.name = other.name
            renamed.keys, renamed.dependencies = [], {}
            renamed.shapes.columns = []
            for v in (validate(df, schema), validate(df, renamed), validate(df)):
                assert hostile.plain(document(v, True))
                for language in ("en", "ko"):
                    with use_language(language): assert all(say(a.message) for a in v.anomalies)

    @pytest.mark.parametrize("name", hostile.FILES)
    def test_a_file_agrees_with_its_own_schema(self, name, tmp_path):
        path = hostile.FILES[name](tmp_path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            schema = infer(str(path))
            assert from_yaml(to_yaml(schema)) == schema and validate(str(path), schema).valid

    def test_sql_over_hostile_tables(self):
        check = parse_check("-- all of them\nSELECT _row FROM data", "all.sql")
        for name in sorted(set(hostile.TABLES) - {"five_thousand_columns", "million_distinct_texts", "no_row"}):
            from mlwb.data.frames import frame
            df = frame(hostile.TABLES[name](), [])
            a, = run_checks([check], df, name)
            assert a.rows == df.height, name

    def test_yaml_is_read_back_whatever_stands_in_it(self):
        """Random texts of awkward characters as names, values and patterns."""
        rng, alphabet = random.Random(0), "ab01 :-#'\"[]{},&*!|>%@`~=?\\\n\t\r\x00\x07\x85\u2028\ufeff\ud800\udfff가é😀yesno.e+"
        for _ in range(300):
            text = lambda: "".join(rng.choice(alphabet) for _ in range(rng.randrange(12)))
            s = infer(pl.DataFrame({"a": [1]}))
            c = s.columns[0]
            c.type, c.name, c.domain, c.max, c.min = "category", text(), [text() for _ in range(4)], None, None
            assert from_yaml(to_yaml(s)) == s


class TestInference:
    def test_what_it_says(self, schema):
        assert schema["id"].unique and schema["mail"].format == "email" and schema["ip"].format == "ip" and schema["branch"].domain[0] == "B-000"
        assert schema["grade"].domain == [1, 2, 3, 4, 5] and schema["amount"].min == 0 and schema.period == "day" and schema.ordered
        assert schema.dependencies == {"branch": ["city"]} and schema["paid"].not_in == ["serving"] and .1 < schema["income"].missing < .25

    def test_yaml_is_for_people(self, loans, schema):
        text = to_yaml(schema, "# reviewed by Kim")
        assert text == to_yaml(infer(loans, "paid", "when"), "# reviewed by Kim") and text.startswith("# reviewed by Kim\nformat: 1\n")
        assert "min_length: null" not in text and len(text.splitlines()) < 120

    def test_formats_are_found_and_held(self, loans, schema):
        every = lambda k, value, c: pl.when(pl.col("id") % 50 == k).then(pl.lit(value)).otherwise(c)
        bad = loans.with_columns(mail=every(0, "nobody", "mail"), ip=every(1, "10.0.0.999", "ip"))
        assert found(bad, schema) == {("mail", "format", "warning"), ("ip", "format", "warning"), ("mail", "unique", "error"), ("ip", "unique", "error")}
        codes = infer(pl.DataFrame({"code": [f"AB-{i:04d}" for i in range(500)]}))
        assert codes["code"].pattern == "[A-Z]{2}-[0-9]{4}"

    def test_the_note_says_what_serving_lacks(self, loans):
        schema = infer(loans, "paid", note=AcquisitionNote(known_at={"income": "after"}))
        assert {c.name for c in schema.columns if c.not_in} == {"paid", "income"}
        assert ("paid", "missing-column", "error") in found(loans.drop("paid", "income"), schema)
        assert found(loans.drop("paid", "income"), schema, environment="serving") == set()
        batch = loans.drop("paid", "income").slice(2000, 40)
        assert found(batch, schema, environment="serving") == set(), "a batch to be scored has a size of its own"
        assert ("", "rows", "warning") in found(batch, schema)

    def test_a_composite_key(self):
        panel = pl.DataFrame([dict(store=i % 25, week=i // 25, sold=float(i % 11)) for i in range(2500)])
        schema = infer(panel)
        assert schema.keys == [["store", "week"]]
        a, = [a for a in validate(pl.concat([panel, panel.slice(100, 1).with_columns(sold=99.)]), schema).anomalies if a.kind == "key"]
        assert a.columns == ["store", "week"] and a.examples[0][0] == 2500 and "row 2500" in str(a.message)

    def test_what_chance_allows_is_told(self, loans, schema):
        one = loans.with_columns(grade=pl.when(pl.col("id") == 4321).then(9).otherwise("grade"))
        a, = validate(one, schema).anomalies
        assert (a.column, a.kind, a.severity, a.examples) == ("grade", "domain", "info", [[4321, 9]]) and "row 4321" in str(a.message)
        strict = infer(loans, "paid", "when")
        strict.tolerate, strict["grade"].severity = 0.0, "error"
        assert found(one, strict) == {("grade", "domain", "error")} and not validate(one, strict).valid

    def test_pandas_and_polars_agree(self, loans, schema):
        assert isinstance(loans.to_pandas(), pd.DataFrame) and to_yaml(infer(loans.to_pandas(), "paid", "when")) == to_yaml(schema)


class TestTables:
    def test_references(self, loans, schema):
        schema = infer(loans)
        schema.references = {"branch": "branches.code"}
        branches = pl.DataFrame({"code": [f"B-{i:03d}" for i in range(29)]})
        a, = validate(loans, schema, tables={"branches": branches}).anomalies
        assert (a.column, a.kind, a.severity) == ("branch", "reference", "error") and {v for _, v in a.examples} == {"B-029"}
        assert found(loans, schema) == {("branch", "reference", "info")}
        with pytest.raises(InputError, match="Did you mean 'code'"):
            schema.references = {"branch": "branches.cod"}
            validate(loans, schema, tables={"branches": branches})
        assert from_yaml(to_yaml(schema)) == schema

    def test_checks_in_a_folder(self, loans, schema, tmp_path):
        (tmp_path / "a.sql").write_text("-- severity: error\n-- no loan of a million\nSELECT * FROM data WHERE amount > 300")
        (tmp_path / "b.sql").write_text("SELECT * FROM loans JOIN rates USING (grade) WHERE rate < 0")
        (tmp_path / "readme.txt").write_text("not a check")
        v = validate(loans, schema, checks=tmp_path, name="loans", tables={"rates": pl.DataFrame({"grade": [1, 2], "rate": [.1, .2]})})
        a, = v.anomalies
        assert a.kind == "check" and a.severity == "error" and not v.valid and a.examples[0][0] == int(a.at[0]) and "amount=" in a.examples[0][1]
        assert a.rows == loans.filter(pl.col("amount") > 300).height and "no loan of a million" in str(a.message)
        (tmp_path / "c.sql").write_text("SELECT nothing FROM data")
        (tmp_path / "b.sql").unlink()
        with pytest.raises(InputError, match="c.sql"): validate(loans, schema, checks=tmp_path)

    def test_a_check_reaches_nothing_outside(self, loans, tmp_path):
        secret = tmp_path / "secret.csv"
        secret.write_text("a\n1\n")
        for sql in (f"SELECT * FROM '{secret}'", f"SELECT * FROM read_csv('{secret}')", f"SELECT * FROM read_text('{secret}')",
                    f"COPY (SELECT 1) TO '{tmp_path}/out.csv'", f"ATTACH '{tmp_path}/x.db' AS x", "INSTALL spatial", "LOAD httpfs",
                    "SELECT * FROM loans", "SET enable_external_access = true", "PRAGMA database_list",
                    "SELECT getenv('HOME')", "SELECT * FROM read_parquet('https://example.com/x.parquet')", "CREATE TABLE x AS SELECT 1"):
            with pytest.raises(InputError, match="x.sql"): run_checks([parse_check(sql, "x.sql")], loans)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["secret.csv"]

    def test_a_check_takes_no_more_than_its_memory(self, loans):
        greedy = parse_check("SELECT list(a.range || b.range || repeat('x', 1000)) FROM range(100000) a, range(1000) b", "greedy.sql")
        with pytest.raises(InputError, match="greedy.sql"): run_checks([greedy], loans, seconds=20)


class TestDistributions:
    def test_distance_needs_the_profile(self, loans, schema, tmp_path):
        moved = loans.with_columns(amount=pl.col("amount") * 1.6)
        assert ("amount", "distribution", "warning") in found(moved, schema)
        save_schema(schema, tmp_path / "schema.yaml")
        assert ("amount", "distribution", "warning") in found(moved, load_schema(tmp_path / "schema.yaml"))
        (tmp_path / "schema.profile.json").unlink()
        assert found(moved, load_schema(tmp_path / "schema.yaml")) == set()

    def test_the_profile_holds_few_bytes_and_no_ids(self, schema, tmp_path):
        save_schema(schema, tmp_path / "schema.yaml")
        size = (tmp_path / "schema.profile.json").stat().st_size
        assert size < 6000 * len(schema.columns) and "user17@example.com" not in (tmp_path / "schema.profile.json").read_text()

    def test_false_alarms_of_the_same_process(self):
        """A hundred tables of five columns from one process: hardly any differs."""
        rng = np.random.default_rng(1)
        make = lambda n=1000: pl.DataFrame(dict(a=rng.normal(size=n),
                                                b=rng.gamma(1, 9, n), c=rng.poisson(3, n), d=rng.choice(list("abcd"), n), e=rng.random(n) > .9))
        alarms = sum(any(a.severity != "info" for a in validate(make(), infer(make())).anomalies) for _ in range(100))
        assert alarms <= 5, alarms


class TestPandera:
    def test_pandera_agrees(self, loans, schema):
        import pandera.pandas as pandera

        from mlwb.data.pandera import to_pandera
        space = {}
        exec(to_pandera(schema), space)
        df = loans.to_pandas()
        assert space["schema"].validate(df).shape == df.shape
        for column, value in (("grade", 9), ("branch", "B-999"), ("amount", -1.), ("mail", "nobody"), ("id", 17), ("amount", float("inf")), ("amount", None)):
            bad = df.copy()
            bad.loc[3, column] = value
            with pytest.raises(pandera.errors.SchemaError): space["schema"].validate(bad)
        with pytest.raises(pandera.errors.SchemaError): space["schema"].validate(df.drop(columns="paid"))
        exec(to_pandera(schema, "serving"), space)
        space["schema"].validate(df.drop(columns="paid"))

    def test_hostile_tables_pass_their_own(self):
        from mlwb.data.frames import frame
        from mlwb.data.pandera import to_pandera
        from mlwb.data.store import to_pandas
        for name in ("unicode_names", "markup_in_names", "names_like_code", "korean_values", "unicode_values", "numbers_as_text", "constant", "outlier"):
            space, df = {}, frame(hostile.TABLES[name](), [])
            exec(to_pandera(infer(df)), space)
            space["schema"].validate(to_pandas(df))


class TestSpeed:
    def test_work_does_not_grow_with_rows_in_python(self):
        """No Python object is made per row: 400,000 rows take fewer than three times the calls of 4,000."""
        import cProfile
        import pstats
        rng = np.random.default_rng(0)

        def calls(n):
            df = pl.DataFrame(dict(a=rng.normal(size=n), b=rng.integers(0, 9, n), c=[f"v{i % 50}" for i in range(n)], d=[f"user {i}" for i in range(n)]))
            with cProfile.Profile() as p: validate(df, infer(df))
            return pstats.Stats(p).total_calls
        calls(4000)
        assert calls(400_000) < 3 * calls(4000)


def test_json_of_the_command_line(loans, schema):
    bad = loans.with_columns(grade=pl.when(pl.col("id") % 100 == 0).then(9).otherwise("grade"))
    d = json.loads(json.dumps(document(validate(bad, schema), True)))
    assert d["valid"] is True and {"column": "grade", "kind": "domain", "rows": 50}.items() <= d["anomalies"][0].items()
    assert d["cells"] == [[i, "grade"] for i in range(0, 5000, 100)] == cells(validate(bad, schema))
