"""A project whose rows come from several tables: joined as declared, versioned each, made anew when one of them changes, and checked against each other."""

import polars as pl
import pytest
import yaml

from mlwb.core.workspace import Project
from mlwb.data.store import Store


@pytest.fixture
def project(cli, tmp_path, data_dir):
    """Adult without its level of education, which is looked up; people's countries have a table that nobody joins."""
    df = pl.read_parquet(data_dir / "adult.parquet").head(3000)
    level = next(c for c in df.columns if c != "education" and df.select(pl.struct("education", c).n_unique()).item() == df["education"].n_unique())
    df.drop(level).write_parquet(tmp_path / "people.parquet")
    df.select("education", level).unique(maintain_order=True).write_csv(tmp_path / "levels.csv")
    sources = dict(rows="people", tables=dict(people="people.parquet", levels=dict(source="levels.csv", note=dict(owner="census"))),
                   joins=[dict(table="levels", key="education", unmatched="keep")])
    (tmp_path / "sources.yaml").write_text(yaml.safe_dump(sources), encoding="utf-8")
    done = cli("init", tmp_path / "p", "--data", tmp_path / "sources.yaml", "--target", df.columns[-1], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path, df, level


def stages(done): return {s["name"]: s["status"] for s in done.json["stages"]}


def test_joined_versioned_checked_and_made_anew(cli, project):
    folder, df, level = project
    root = folder / "p"
    done = cli("run", "--until", "validate", "--json", cwd=root)
    assert done.returncode == 0, done.stderr
    store = Store(Project(root).data)
    assert store.read("table").select(df.columns).equals(df) and store.tables() == ["levels", "people", "table"]
    assert "census" in store.note("table").owner
    assert stages(cli("run", "--until", "validate", "--json", cwd=root)) | {"extract": "cached", "validate": "cached"} == stages(
        cli("run", "--until", "validate", "--json", cwd=root))

    done = cli("schema", "infer", "-o", "schema.yaml", cwd=root)
    assert done.returncode == 0 and yaml.safe_load((root / "schema.yaml").read_text(encoding="utf-8"))["references"] == {"education": "levels.education"}
    assert cli("run", "--until", "validate", "--json", cwd=root).returncode == 0

    gone = df["education"][0]
    levels = pl.read_csv(folder / "levels.csv")
    levels.filter(pl.col("education") != gone).write_csv(folder / "levels.csv")
    done = cli("run", "--until", "validate", "--json", cwd=root)
    assert done.returncode == 3 and stages(done)["extract"] == "ok" and done.json["status"] == "rejected", done.stderr
    found = cli("validate", "--json", cwd=root)
    n = int((df["education"] == gone).sum())
    assert found.returncode == 3 and ("education", "reference", n) in {(a["column"], a["kind"], a["rows"]) for a in found.json["anomalies"]}
    assert store.read("table")[level].null_count() == n and [r.version for r in store.versions("people")] == [0], "the people are as they were"


def test_a_key_that_is_there_twice_stops_the_run(cli, project):
    folder, _, _ = project
    with open(folder / "levels.csv", "a", encoding="utf-8") as f: f.write((folder / "levels.csv").read_text(encoding="utf-8").splitlines()[1] + "\n")
    done = cli("run", "--until", "extract", cwd=folder / "p")
    assert done.returncode == 2 and "could match several of the table 'levels': 2 of" in done.stderr


def test_profile_of_joined_tables(cli, project):
    folder, df, _ = project
    done = cli("profile", "sources.yaml", "--json", cwd=folder)
    assert done.returncode == 0 and done.json["rows"] == df.height and len(done.json["columns"]) == df.width, done.stderr
