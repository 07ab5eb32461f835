"""What was found is accepted: the next validation is free of it, nothing else in the schema changes, and the file keeps what a person wrote into it."""

import random
import warnings
from dataclasses import asdict, replace

import hostile
import polars as pl
import pytest
from test_anomalies import FACTS, PLANTED, STAY, found, periods  # noqa: F401 (a fixture)

from mlwb.core.errors import InputError
from mlwb.data.accept import accept, new_values, why_not
from mlwb.data.review import Review, SchemaChanged
from mlwb.data.schema import from_yaml, infer, load_schema, save_schema, to_yaml, validate
from mlwb.data.schemadiff import diff_schemas
from mlwb.data.schemaedit import edit_yaml
from mlwb.show.validation import ValidationView
from mlwb.show.views import inner

FIELDS = {  # kind -> the facts that accepting it may change
    "range": {"min", "max"}, "domain": {"domain"}, "dependency": {"dependencies"}, "empty": {"nullable", "missing"}, "missing": {"nullable", "missing"},
    "missing-column": {"required"}, "new-column": {"column"}, "constant": {"constant"}, "distribution": {"max_distance"}, "duplicates": {"duplicates"},
    "rows": {"min_rows", "max_rows"}, "infinite": {"infinite"}, "unique": {"unique"}, "order": {"ordered"}, "gap": {"gaps"},
    "length": {"min_length", "max_length"},
    "period-rows": {"min_per_period", "max_per_period"}, "reference": {"references"}}
OF_TABLE = {"dependencies", "duplicates", "min_rows", "max_rows", "ordered", "gaps", "min_per_period", "max_per_period", "references"}


@pytest.mark.parametrize("name, what, plant, column, kind", PLANTED, ids=[f"{n}: {w}" for n, w, *_ in PLANTED])
def test_accepting_what_was_planted_makes_the_next_validation_free_of_it(periods, name, what, plant, column, kind):  # noqa: F811
    schema, df = periods[name][0], plant(periods[name][1])
    before, tries = to_yaml(schema), 0
    anomalies = [a for a in found(schema, df).anomalies if (a.column, a.kind) == (column, kind)]
    if kind == "check":
        with pytest.raises(InputError, match="an SQL check is no part of the schema"): accept(schema, anomalies[0], df)
        return
    while anomalies and tries < 2:  # values below and above are two findings
        new, said = accept(schema, anomalies[0], df)
        changes, tries = diff_schemas(schema, new).changes, tries + 1
        assert to_yaml(schema) == before and changes and all(c.key in OF_TABLE or c.column == column for c in changes), changes
        assert kind == "type" or {c.key for c in changes} <= FIELDS[kind], changes
        assert "(looser)" in str(said) or kind in ("type", "new-column"), str(said)
        text = to_yaml(schema, "# agreed")
        assert from_yaml(edit_yaml(text, schema, new)) == new
        schema, before = new, to_yaml(new)
        anomalies = [a for a in found(schema, df).anomalies if (a.column, a.kind) == (column, kind)]
    assert not anomalies


@pytest.mark.parametrize("name", FACTS)
def test_whoever_accepts_all_has_a_table_without_findings(periods, name):  # noqa: F811
    """Everything planted at once where it can be, accepted until nothing is left; each step is written into the file's text."""
    schema, df = periods[name]
    for n, _, plant, column, kind in PLANTED:
        if n == name and kind not in ("missing-column", "type", "rows", "check") and column in ("", *df.columns, *(["score", "sensor"])):
            try: df = plant(df)
            except pl.exceptions.PolarsError: continue
    text, steps = to_yaml(schema, "# agreed"), 0
    while steps < 200:
        left = [a for a in found(schema, df).anomalies if why_not(schema, a) is None]
        if not left: break
        new, steps = accept(schema, left[0], df)[0], steps + 1
        text = edit_yaml(text, schema, new)
        schema = replace(from_yaml(text), shapes=new.shapes)
    assert not left and steps > 8 and text.startswith("# agreed\n") and found(schema, df).valid


def test_values_of_a_domain_are_accepted_one_by_one(periods):  # noqa: F811
    schema, df = periods["adult"]
    df = df.with_columns(pl.when(pl.int_range(pl.len()) % 300 == 7).then(pl.lit("Influencer")).when(pl.int_range(pl.len()) % 400 == 9).then(pl.lit("Streamer"))
                         .otherwise("occupation").alias("occupation"))
    get = lambda s: next((a for a in found(s, df).anomalies if (a.column, a.kind) == ("occupation", "domain")), None)
    assert [v for v, _ in new_values(schema, "occupation", df).rows()] == ["Influencer", "Streamer"]
    one, said = accept(schema, get(schema), df, ["Streamer"])
    assert "new Streamer" in str(said) and [v for v, _ in new_values(one, "occupation", df).rows()] == ["Influencer"]
    assert get(accept(one, get(one), df, ["Influencer"])[0]) is None
    for wrong in (["Streamer "], ["Streamer", "none"], [7]):
        with pytest.raises(InputError): accept(schema, get(schema), df, wrong)
    with pytest.raises(InputError): accept(schema, next(a for a in found(schema, df.drop("age")).anomalies if a.column == "age"), df, ["x"])


TABLE = pl.DataFrame({"port": ["Busan", "Mokpo", "Ulsan"] * 100, "tons": [float(i % 40) for i in range(300)], "code": [f"AB-{i:03d}" for i in range(300)]})
N = pl.int_range(pl.len())
NOW = TABLE.with_columns(port=pl.when(N % 30 == 4).then(pl.lit("Jeju")).when(N % 50 == 6).then(pl.lit("no")).otherwise("port"),
                         tons=pl.when(N == 9).then(500.0).otherwise("tons"), code=pl.when(N == 5).then(pl.lit("AB-00005")).otherwise("code"))
FILE = """# Agreed with the port authority, 12 March.
format: 1
rows: 300
tolerate: 0.0
columns:
  # catches
  tons: {type: number, nullable: false, min: 0, max: 100}   # more was never landed
  port:      # where it was landed
    type: category
    nullable: false
    domain:
      - Busan   # main harbour
      - Mokpo
      - Ulsan   # since 2019
  code:
    type: text
    nullable: false
    pattern: "[A-Z]{2}-[0-9]{3}"   # from the scale
# end of the agreement
"""


@pytest.fixture
def review(tmp_path):
    (tmp_path / "schema.yaml").write_bytes(FILE.encode())
    return Review(NOW, tmp_path / "schema.yaml")


def of(review, kind): return next((a for a in review.validation.anomalies if a.kind == kind), None)
def text(review): return review.path.read_text(encoding="utf-8")


def test_the_file_keeps_comments_and_order(review):
    assert {a.kind for a in review.validation.anomalies} == {"domain", "range", "format"}
    review.accept(of(review, "domain"), ["no"])
    assert text(review) == FILE.replace("# since 2019\n", "# since 2019\n      - 'no'\n")
    review.accept(of(review, "domain"))
    review.accept(of(review, "range"))
    said = review.accept(of(review, "format"))
    assert "pattern" in str(said) and not review.validation.anomalies and validate(NOW, load_schema(review.path)).valid
    after = text(review)
    for words in ("Agreed with", "catches", "more was never landed", "where it was landed", "main harbour", "since 2019", "from the scale", "end of"):
        assert f"# {words}" in after
    assert "max: 500.0}   # more" in after and after.index("tons:") < after.index("port:") < after.index("code:")


def test_every_step_is_taken_back(review):
    texts = [review.path.read_bytes()]
    for kind in ("range", "format", "domain"):
        review.accept(of(review, kind))
        texts.append(review.path.read_bytes())
    for before in texts[-2::-1]:
        assert review.last
        review.take_back()
        assert review.path.read_bytes() == before
    assert not review.last and {a.kind for a in review.validation.anomalies} == {"domain", "range", "format"}
    with pytest.raises(InputError, match="nothing"): review.take_back()


@pytest.mark.parametrize("change", [lambda p: p.write_text(FILE.replace("Ulsan", "Pohang")), lambda p: p.unlink()])
def test_a_file_that_was_changed_is_not_overwritten(review, change):
    review.accept(of(review, "range"))
    change(review.path)
    there = review.path.read_bytes() if review.path.is_file() else None
    for act in (lambda: review.accept(of(review, "domain")), review.take_back):
        with pytest.raises(SchemaChanged, match="has been changed"): act()
        assert (review.path.read_bytes() if review.path.is_file() else None) == there
    if there is None: return
    review.read_again()
    assert "Pohang" in review.schema["port"].domain and not review.last and of(review, "range")
    review.accept(of(review, "range"))
    assert "Pohang" in text(review)


def test_a_new_column_and_another_type_bring_their_profile(tmp_path):
    save_schema(infer(TABLE), tmp_path / "schema.yaml", "# ours")
    profile = (tmp_path / "schema.profile.json").read_bytes()
    later = TABLE.with_columns(wind=pl.lit(3.5) * N, tons=pl.col("tons").cast(pl.String) + "t")
    review = Review(later, tmp_path / "schema.yaml")
    while (a := next((a for a in review.validation.anomalies if a.kind in ("new-column", "type")), None)): review.accept(a)
    again = load_schema(review.path)
    assert again.shapes.get("wind") and again["tons"].type == "category" and validate(later, again).valid and text(review).startswith("# ours\n")
    review.take_back(); review.take_back()
    assert (tmp_path / "schema.profile.json").read_bytes() == profile and review.schema == infer(TABLE)


def test_without_a_file_a_schema_is_kept_first(tmp_path):
    review = Review(TABLE, None, keep_at=tmp_path / "schema.yaml")
    assert review.schema is None and not review.path
    review.keep()
    assert review.schema == infer(TABLE) and review.validation.source == "schema.yaml" and text(review).startswith("# ")
    given = Review(NOW, infer(TABLE), keep_at=tmp_path / "other.yaml")
    with pytest.raises(InputError, match="Keep it first"): given.accept(given.validation.anomalies[0])
    given.keep()
    given.accept(given.validation.anomalies[0])
    assert load_schema(tmp_path / "other.yaml") == given.schema != infer(TABLE)
    with pytest.raises(InputError, match="already"): Review(NOW, infer(TABLE), keep_at=tmp_path / "other.yaml").keep()


def test_a_column_that_serving_has_not_is_missing_there_only():
    schema = replace(infer(TABLE), environments=["training", "serving"])
    a, = [a for a in validate(TABLE.drop("tons"), schema, environment="serving").anomalies if a.kind == "missing-column"]
    new, _ = accept(schema, a, TABLE.drop("tons"), environment="serving")
    assert new["tons"].not_in == ["serving"] and new["tons"].required and asdict(new["port"]) == asdict(schema["port"])
    assert "target and the time" in str(why_not(schema, a, needed=["tons"]))


@pytest.mark.parametrize("name", sorted(set(hostile.TABLES) - {"five_thousand_columns", "million_distinct_texts"}))
def test_any_finding_of_any_table_is_accepted_or_refused_in_words(name):
    """A schema of the table's own columns under each other's names: whatever is found is drawn, accepted and written into the file's text, or says why not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        df = hostile.TABLES[name]()
        own, schema = infer(df), infer(df)
        for c, other in zip(schema.columns, random.Random(0).sample(own.columns, len(own.columns))): c.name = other.name
        schema.keys, schema.dependencies, schema.shapes.columns, text, refused = [], {}, [], to_yaml(schema, "# ours"), set()
        schema = replace(from_yaml(text), shapes=schema.shapes)
        for _ in range(60):
            review = Review(df, schema)
            drawn = str(inner(ValidationView(review.validation, data=review), live=True))
            assert "<script" not in drawn and "<img" not in drawn
            left = [a for a in review.validation.anomalies if review.why_not(a) is None and (a.column, a.kind) not in refused]
            if not left: break
            try: new, said = accept(schema, left[0], df)
            except InputError as e: refused.add((left[0].column, left[0].kind)); assert len(str(e)) > 20; continue
            text = edit_yaml(text, schema, new)
            schema = replace(from_yaml(text), shapes=new.shapes)
            assert str(said) and text.startswith("# ours")
        assert not left, [(a.column, a.kind) for a in left]
