"""The commands about schemas, as processes; and a project that keeps a schema."""

import json

import polars as pl
import pytest
import yaml


@pytest.fixture
def data(tmp_path):
    """A table of 600 loans, and its next period with an error and a warning."""
    make = lambda n, first: pl.DataFrame(dict(id=range(first, first + n), region=[("Seoul", "Busan", "대구")[i % 3] for i in range(n)],
                                              amount=[float(i * 37 % 101) for i in range(n)], paid=[i % 4 == 0 for i in range(n)]))
    make(600, 0).write_csv(tmp_path / "old.csv")
    make(600, 600).write_csv(tmp_path / "new.csv")
    bad = make(600, 600).with_columns(amount=pl.when(pl.col("id") % 10 == 0).then(None).otherwise("amount"),
                                      region=pl.when(pl.col("id") % 50 == 7).then(pl.lit("?")).otherwise("region"))
    bad.write_csv(tmp_path / "bad.csv")
    return tmp_path


def test_infer_review_validate(cli, data):
    done = cli("schema", "infer", "old.csv", "-o", "schema.yaml", "--target", "paid", cwd=data)
    assert done.returncode == 0 and (data / "schema.profile.json").is_file(), done.stderr
    text = (data / "schema.yaml").read_text(encoding="utf-8")
    assert text.startswith("# Inferred from old.csv") and "대구" in text and yaml.safe_load(text)["format"] == 1
    assert cli("schema", "infer", "old.csv", cwd=data).stdout.startswith("format: 1")
    done = cli("validate", "new.csv", "--schema", "schema.yaml", "--json", cwd=data)
    assert done.returncode == 0 and done.json["valid"] and done.json["anomalies"] == [], done.stdout + done.stderr
    done = cli("validate", "bad.csv", "--schema", "schema.yaml", "--json", "--cells", cwd=data)
    assert done.returncode == 3 and not done.json["valid"]
    assert {("amount", "missing", 60), ("region", "domain", 12)} == {(a["column"], a["kind"], a["rows"]) for a in done.json["anomalies"]}
    assert all(a["message"] for a in done.json["anomalies"]) and [0, "amount"] in done.json["cells"] and len(done.json["cells"]) == 72
    done = cli("validate", "bad.csv", cwd=data)  # schema.yaml of the working directory
    assert done.returncode == 3 and "error: amount" in done.stdout and "rows 0, 10, 20 and 57 more" in done.stdout and "not valid: 600 rows" in done.stdout
    reviewed = text.split("\n", 1)[1].replace("nullable: false, min: 0, max: ", "nullable: true, missing: 0.2, min: 0, max: ")
    (data / "schema.yaml").write_text("# reviewed by Kim\n" + reviewed, encoding="utf-8")
    assert cli("validate", "bad.csv", cwd=data).returncode == 0
    done = cli("schema", "infer", "old.csv", "-o", "schema.yaml", cwd=data)
    assert done.returncode == 2 and "--force" in done.stderr
    assert (data / "schema.yaml").read_text(encoding="utf-8").endswith(reviewed), "what was reviewed stays"
    assert cli("schema", "infer", "old.csv", "-o", "schema.yaml", "--force", cwd=data).returncode == 0
    assert (data / "schema.yaml").read_text(encoding="utf-8").startswith("# reviewed by Kim\n"), "the reviewer's head stays"
    assert cli("schema", "infer", "old.csv", "-o", "old.csv", "--force", cwd=data).returncode == 2, "the table itself"
    assert cli("validate", "new.csv", "--checks", "nowhere", cwd=data).returncode == 2


def test_environments_tables_and_checks(cli, data):
    assert cli("schema", "infer", "old.csv", "-o", "schema.yaml", "--target", "paid", cwd=data).returncode == 0
    pl.read_csv(data / "new.csv").drop("paid").write_csv(data / "serving.csv")
    assert cli("validate", "serving.csv", cwd=data).returncode == 3
    assert cli("validate", "serving.csv", "--environment", "serving", cwd=data).returncode == 0
    done = cli("validate", "serving.csv", "--environment", "servin", cwd=data)
    assert done.returncode == 2 and "Did you mean 'serving'" in done.stderr
    text = (data / "schema.yaml").read_text(encoding="utf-8")
    (data / "schema.yaml").write_text(text.replace("columns:", "references: {region: regions.name}\ncolumns:", 1), encoding="utf-8")
    (data / "regions.csv").write_text("name\nSeoul\nBusan\n", encoding="utf-8")
    done = cli("validate", "new.csv", "--table", "regions=regions.csv", "--json", cwd=data)
    assert done.returncode == 3 and [(a["kind"], a["rows"]) for a in done.json["anomalies"]] == [("reference", 200)]
    (data / "checks").mkdir()
    (data / "checks" / "large.sql").write_text("-- amounts of a hundred\n-- severity: error\nSELECT * FROM data WHERE amount = 100")
    done = cli("validate", "new.csv", "--json", cwd=data)
    assert done.returncode == 3 and ("check", "amounts of a hundred") in {(a["kind"], a["message"].split(":")[0]) for a in done.json["anomalies"]}
    (data / "checks" / "large.sql").write_text("SELEC")
    done = cli("validate", "new.csv", "--json", cwd=data)
    assert done.returncode == 2 and "large.sql" in done.stderr and "large.sql" in done.json["error"]
    assert cli("validate", "new.csv", "--table", "regions", cwd=data).returncode == 2


def test_diff(cli, data):
    for name in ("old", "bad"): assert cli("schema", "infer", f"{name}.csv", "-o", f"{name}.yaml", cwd=data).returncode == 0
    done = cli("schema", "diff", "old.yaml", "bad.yaml", "--json", cwd=data)
    changes = {(c["column"], c["key"], c["effect"]) for c in done.json["changes"]}
    assert done.returncode == 0 and {("amount", "nullable", "looser"), ("region", "domain", "looser")} <= changes
    done = cli("schema", "diff", "old.csv", "bad.csv", cwd=data)
    assert done.returncode == 0 and "nullable: False → True  [looser]" in done.stdout
    assert cli("schema", "diff", "old.yaml", "old.yaml", cwd=data).stdout == "no difference\n"


def test_export(cli, data):
    assert cli("schema", "infer", "old.csv", "-o", "schema.yaml", cwd=data).returncode == 0
    done = cli("schema", "export", "schema.yaml", "--to", "pandera", cwd=data)
    assert done.returncode == 0
    compile(done.stdout, "schema.py", "exec")
    assert cli("schema", "export", "-o", "checks.py", cwd=data).returncode == 0 and (data / "checks.py").read_text(encoding="utf-8") == done.stdout
    assert cli("schema", "export", "--to", "pandas", cwd=data).returncode == 2


@pytest.mark.parametrize("args, words", [
    (("validate", "new.csv", "--schema", "none.yaml"), "mlwb schema infer"), (("validate", "none.csv", "--schema", "old.csv"), "no `columns:`"),
    (("schema", "infer", "none.csv"), "none.csv"), (("schema", "infer", "new.csv", "--target", "paidd"), "Did you mean 'paid'"),
    (("schema", "infer"), "mlwb init")])
def test_bad_usage_is_a_sentence(cli, data, args, words):
    done = cli(*args, cwd=data)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_help_needs_nothing_heavy(cli):
    assert "infer" in cli("schema", "--help").stdout and "--cells" in cli("validate", "--help").stdout


def test_a_project_keeps_its_schema(cli, project_dir):
    """Without schema.yaml the stage infers one; with it the table is held against it, a change of it runs the stage again, and the history has each version."""
    done = cli("run", "--until", "validate", "--json", cwd=project_dir)
    assert done.returncode == 0, done.stdout + done.stderr
    stages = lambda done: {s["name"]: s["status"] for s in done.json["stages"]}
    done = cli("schema", "infer", "-o", "schema.yaml", cwd=project_dir)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load((project_dir / "schema.yaml").read_text(encoding="utf-8"))["columns"]["bought"]["not_in"] == ["serving"], "the project's target"
    done = cli("run", "--until", "validate", "--json", cwd=project_dir)
    assert done.returncode == 0 and stages(done)["extract"] == "cached" and stages(done)["validate"] == "ok", done.stdout
    assert stages(cli("run", "--until", "validate", "--json", cwd=project_dir))["validate"] == "cached"
    source = next(project_dir.parent.glob("data.parquet"))
    df = pl.read_parquet(source)
    df.with_columns(size=pl.col("size").cast(pl.String) + "m").write_parquet(source)
    done = cli("run", "--until", "validate", "--json", cwd=project_dir)
    assert done.returncode == 3 and done.json["status"] == "rejected", done.stdout + done.stderr
    from mlwb.core.workspace import find_project
    from mlwb.data.history import history, trend
    past = history(find_project(project_dir))
    assert [(c.version, c.valid, c.source) for c in past] == [(0, True, "schema.yaml"), (1, False, "schema.yaml")]
    assert ["size", "type"] in [f[:2] for f in past[1].found]
    assert [v for v, _ in trend(past, "region")] == [0, 1] and .1 < trend(past, "region")[0][1] < .4 and "distance" in past[0].figures["region"]
    (project_dir / "checks").mkdir()
    (project_dir / "checks" / "x.sql").write_text("-- severity: error\n-- nothing from the south\nSELECT _row FROM data WHERE region = 'south'")
    df.write_parquet(source)
    done = cli("run", "--until", "validate", "--json", cwd=project_dir)
    assert done.returncode == 3 and stages(done)["extract"] in ("ok", "cached"), done.stdout
    done = cli("validate", "--json", cwd=project_dir)
    assert done.returncode == 3 and [a["kind"] for a in done.json["anomalies"]] == ["check"]


def test_json_is_one_document(cli, data):
    done = cli("schema", "infer", "old.csv", "--json", cwd=data)
    assert json.loads(done.stdout)["columns"] == 4 and done.json["rows"] == 600


def test_the_report_draws_the_history_of_validations(cli, project_dir):
    """One version has no history; of the next one the report shows both, and offers nothing that only a kernel could do."""
    shown = []
    for size in (None, 10**6):
        source = next(project_dir.parent.glob("data.parquet"))
        if size: pl.read_parquet(source).with_columns(size=pl.when(pl.int_range(pl.len()) == 3).then(float(size)).otherwise("size")).write_parquet(source)
        done = cli("run", "--until", "validate", "--json", cwd=project_dir)
        assert done.returncode == 0, done.stdout + done.stderr
        html = (project_dir / "reports" / f"{done.json['run']}.html").read_text(encoding="utf-8")
        shown.append(html.split('data-kind="validation"')[1].split("</mlwb-view>")[0])
    assert ["Version by version" in v for v in shown] == [False, True] and "<title>version 0: 0 errors" in shown[1] and "<title>version 1:" in shown[1]
    assert not any("data-ask" in v for v in shown)
