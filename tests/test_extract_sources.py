"""Projects whose source is a database, an object store or a glob: what is unchanged is cached, what changes is extracted again, no password is left."""

import json

import pytest

from mlwb.core.hidden import inside
from mlwb.core.secrets import Mask

ROWS = 400


def table(shift=0):
    """Rows that something can be learned from."""
    import polars as pl
    i = pl.int_range(ROWS, eager=True)
    return pl.DataFrame({"id": i, "size": (i * 7919 % 101) / 10, "region": [["north", "south", "서울"][k % 3] for k in range(ROWS)],
                         "bought": [["no", "yes"][(k * 7919 % 101 > 50 - shift) ^ (k % 11 == 0)] for k in range(ROWS)]})


@pytest.fixture
def project(cli, tmp_path):
    """`project(source)`: made by `mlwb init`; `.run()` the stages up to explore and validate, as {stage: status}; `.version()` of the table."""
    class Project:
        root = tmp_path / "shop"

        def __init__(self, source):
            done = cli("init", self.root, "--data", source, "--target", "bought")
            assert done.returncode == 0, done.stderr
            self.said = done.stdout + done.stderr

        def run(self, code=0):
            out = {}
            for name in ("explore", "validate"):
                done = cli("run", "--until", name, "--json", cwd=self.root)
                self.said += done.stdout + done.stderr
                assert done.returncode == code, done.stderr
                if code: return done.stderr + done.stdout
                out |= {s["name"]: s["status"] for s in done.json["stages"] if s["name"] not in out and s["status"] != "not-run"}
            return out

        def stored(self):
            from mlwb.core.workspace import Project as Folder
            from mlwb.data.store import Store
            store = Store(Folder(self.root).data)
            return store.versions("table"), store.read("table")
    return Project


RAN, CACHED = (dict.fromkeys(("extract", "explore", "validate"), s) for s in ("ok", "cached"))


def leaks(root, mask):
    """Files of a project that hold a secret in any form, in whatever they pack it."""
    return [str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() and (inside(mask, p.read_bytes()) or mask.found(p.name))]


def fill(pg):
    rows = ", ".join(f"({i}, {size}, '{region}', '{bought}')" for i, size, region, bought in table().rows())
    pg.run("DROP SCHEMA IF EXISTS sales, public CASCADE", "CREATE SCHEMA public",
           "CREATE TABLE visits (id int PRIMARY KEY, size float8, region text, bought text)", f"INSERT INTO visits VALUES {rows}")


class TestPostgreSQL:
    def test_a_changed_row_makes_extract_run_again(self, postgres, project, cli):
        fill(postgres)
        p = project(f"{postgres.source}#visits")
        assert p.run() == RAN and p.stored()[1].equals(table())
        assert p.run() == CACHED and len(p.stored()[0]) == 1
        postgres.run("UPDATE visits SET size = 5.5 WHERE id = 7")
        assert p.run() == RAN
        versions, rows = p.stored()
        assert [v.version for v in versions] == [0, 1] and rows["size"][7] == 5.5 and versions[0].digest != versions[1].digest
        assert p.run() == CACHED
        postgres.run("UPDATE visits SET size = size", "VACUUM FULL visits")  # rows written anew, none changed
        assert p.run() == CACHED and len(p.stored()[0]) == 2
        postgres.run("UPDATE visits SET size = 7 * 7919 % 101 / 10.0 WHERE id = 7")  # as it was at first
        assert p.run() == CACHED and len(p.stored()[0]) == 2  # what an earlier run made of these very rows is taken over
        self.nothing_is_left(postgres, p, cli)

    def nothing_is_left(self, postgres, p, cli):
        """The password is in no file, neither plain nor quoted nor packed, and in nothing that was said."""
        done = cli("report", cwd=p.root)
        assert done.returncode == 0, done.stderr
        mask = Mask(["TEST_PG_PASSWORD"])
        assert not leaks(p.root, mask) and not mask.found(p.said + done.stdout + done.stderr)
        assert leaks(p.root.parent, mask) == [] and list((p.root / "reports").rglob("*.html"))
        (p.root / "planted.txt").write_text(f"postgresql://ada:{postgres.password}@host")
        assert leaks(p.root, mask) == ["planted.txt"]  # the search finds what is there

    def test_a_query(self, postgres, project):
        fill(postgres)
        p = project(f"{postgres.source}#SELECT id, size, bought FROM visits WHERE region <> 'north' ORDER BY id")
        assert p.run() == RAN and p.stored()[1].equals(table().filter(table()["region"] != "north").drop("region"))
        postgres.run("UPDATE visits SET size = 0 WHERE region = 'north'")  # rows that the query does not give
        assert p.run() == CACHED
        postgres.run("DELETE FROM visits WHERE id = 1")
        assert p.run() == RAN and p.stored()[1].height == table().filter(table()["region"] != "north").height - 1

    def test_a_table_that_is_gone_is_an_error_that_names_the_others(self, postgres, project):
        fill(postgres)
        p = project(f"{postgres.source}#visits")
        assert p.run() == RAN
        postgres.run("ALTER TABLE visits RENAME TO visitors")
        said = p.run(code=2)
        assert "visitors" in said and "Traceback" not in said and len(p.stored()[0]) == 1 and not Mask(["TEST_PG_PASSWORD"]).found(said)


class TestS3:
    def test_a_changed_object_makes_extract_run_again(self, s3, project):
        put = lambda df: s3.put_object(Bucket="shop", Key="in/visits.csv", Body=df.write_csv().encode())
        put(table())
        p = project("s3://shop/in/visits.csv")
        assert p.run() == RAN and p.stored()[1].equals(table())
        put(table())  # written anew, nothing changed
        assert p.run() == CACHED
        put(table(shift=5))
        assert p.run() == RAN and len(p.stored()[0]) == 2 and p.stored()[1].equals(table(shift=5))
        assert p.run() == CACHED

    def test_another_object_that_matches(self, s3, project):
        put = lambda key, df: s3.put_object(Bucket="shop", Key=key, Body=df.write_csv().encode())
        put("in/1.csv", table())
        put("out/2.csv", table(5))
        p = project("s3://shop/in/*.csv")
        assert p.run() == RAN and p.stored()[1].height == ROWS
        put("out/3.csv", table(9))
        assert p.run() == CACHED
        put("in/2.csv", table(5))
        assert p.run() == RAN and p.stored()[1].height == 2 * ROWS
        s3.delete_object(Bucket="shop", Key="in/1.csv")
        assert p.run() == RAN and p.stored()[1].equals(table(5)) and [v.rows for v in p.stored()[0]] == [ROWS, 2 * ROWS, ROWS]

    def test_keys_of_the_store_are_left_nowhere(self, s3, project, monkeypatch):
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "k3y-of-the-störe/+=")
        s3.put_object(Bucket="shop", Key="a.csv", Body=table().write_csv().encode())
        p = project("s3://shop/a.csv")
        assert p.run() == RAN
        mask = Mask(["AWS_SECRET_ACCESS_KEY"])
        assert not leaks(p.root, mask) and not mask.found(p.said)


def test_a_new_file_that_matches_a_glob(project, tmp_path):
    (tmp_path / "in").mkdir()
    table().write_csv(tmp_path / "in" / "visits-1.csv")
    p = project(str(tmp_path / "in" / "visits-*.csv"))
    assert p.run() == RAN and p.stored()[1].height == ROWS
    table(5).write_csv(tmp_path / "in" / "others.csv")
    assert p.run() == CACHED | {"extract": "ok"} and len(p.stored()[0]) == 1  # the folder was listed, so it is looked at again; it is the same version
    table(5).write_csv(tmp_path / "in" / "visits-2.csv")
    assert p.run() == RAN and p.stored()[1].height == 2 * ROWS
    (tmp_path / "in" / "visits-1.csv").rename(tmp_path / "in" / "visits-3.csv")  # the same rows in another order
    assert p.run()["extract"] == "ok" and p.stored()[1]["bought"].to_list() == [*table(5)["bought"], *table()["bought"]]


def test_a_line_that_lacks_fields_is_said_by_the_stage(project, tmp_path):
    text = table().write_csv() + "400,1.5\n"
    (tmp_path / "visits.csv").write_text(text)
    p = project(str(tmp_path / "visits.csv"))
    assert p.run()["extract"] == "ok"
    run = max((p.root / "workspace" / "runs").iterdir())
    books = [b for r in (p.root / "workspace" / "runs").iterdir() for b in r.rglob("10_extract.ipynb")]
    said = json.dumps([json.loads(b.read_text())["cells"] for b in books], ensure_ascii=False)
    assert run.is_dir() and "1 line has fewer fields than the header" in said and p.stored()[1].row(-1) == (400, 1.5, None, None)
