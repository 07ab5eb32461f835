"""The command line as a process: bad input is one paragraph and exit code 2, and nothing is left half made."""

import json

import polars as pl
import pytest


@pytest.fixture
def table(tmp_path):
    """A small table that trains in no time."""
    n = 400
    path = tmp_path / "데이터 set.csv"
    pl.DataFrame({"나이": [i % 50 for i in range(n)], "도시": [["서울", "부산", "대구"][i % 3] for i in range(n)],
                  "y": [int(i % 50 > 25) ^ int(i % 7 == 0) for i in range(n)], "one": ["same"] * n, "text": [f"t{i}" for i in range(n)]}).write_csv(path)
    return path


def sentence(done, code=2):
    """The one paragraph of an error; no traceback, no second line."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def project(tmp_path, **facts):
    """A project whose settings.ini is written by hand, with stages as init copies them."""
    from mlwb.run.scaffold import copy_stages
    facts = {"name": "p", "task": "classification", "target": "y", "source": "none.csv"} | facts
    root = tmp_path / "p"
    root.mkdir()
    (root / "settings.ini").write_text("[workbench]\n" + "".join(f"{k} = {v}\n" for k, v in facts.items()), encoding="utf-8")
    copy_stages(root / "notebooks" / "stages", {"prepare": {"cuts": ""}})
    return root


class TestInit:
    def test_makes_a_project_with_plain_files(self, cli, table, tmp_path):
        done = cli("init", "new", "--data", table, "--target", "y", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        root = tmp_path / "new"
        assert len(list((root / "notebooks" / "stages").glob("*.ipynb"))) == 11
        assert "target = y" in (root / "settings.ini").read_text(encoding="utf-8") and (root / "acquisition.yaml").is_file()

    @pytest.mark.parametrize("arguments, words", [
        (["--data", "none.csv", "--target", "y"], ["no file", "none.csv"]),
        (["--data", "TABLE", "--target", "z"], ["'z'", "Allowed", "나이"]),
        (["--data", "TABLE", "--target", "one"], ["one", "class"]),
        (["--data", ".", "--target", "y"], ["directory"]),
        (["--data", "empty.csv", "--target", "y"], ["empty.csv", "no rows"]),
        (["--data", "nothing.csv", "--target", "y"], ["nothing.csv"]),
        (["--data", "TABLE", "--target", "y", "--task", "clasification"], ["Did you mean 'classification'"]),
        (["--data", "TABLE", "--target", "y", "--time", "도시"], ["도시"]),
        (["--data", "TABLE", "--target", "y", "--language", "kr"], ["language"]),
        (["--data", "demo:flihgts"], ["Did you mean 'flights'"]),
        (["--data", "TABLE"], ["--target"]),
    ])
    def test_refuses_what_cannot_run_and_writes_nothing(self, cli, table, tmp_path, arguments, words):
        (tmp_path / "empty.csv").write_text("나이,y\n", encoding="utf-8")
        (tmp_path / "nothing.csv").write_bytes(b"")
        said = sentence(cli("init", "new", *[table if a == "TABLE" else a for a in arguments], cwd=tmp_path))
        assert all(w in said for w in words), said
        assert not (tmp_path / "new").exists()

    def test_leaves_a_project_alone(self, cli, table, tmp_path):
        assert cli("init", "new", "--data", table, "--target", "y", cwd=tmp_path).returncode == 0
        before = (tmp_path / "new" / "settings.ini").read_text(encoding="utf-8")
        assert "is a project already" in sentence(cli("init", "new", "--data", table, "--target", "text", cwd=tmp_path))
        assert (tmp_path / "new" / "settings.ini").read_text(encoding="utf-8") == before


class TestRunRefuses:
    """What is wrong before a kernel starts, and what a stage finds: both end with 2 and a sentence."""

    @pytest.mark.parametrize("arguments, words", [
        (["-p", "train.trails=3"], "Did you mean 'trials'"),
        (["-p", "trian.trials=3"], "Did you mean 'train'"),
        (["-p", "train.trials=many"], "whole number"),
        (["-p", "trials=3"], "Did you mean 'train.trials'"),
        (["-p", "train.trials"], "stage.key=value"),
        (["-p", "monitor.source=logs"], "Did you mean 'log'"),
        (["--env", "production"], "There is no environment 'production'"),
    ])
    def test_bad_parameters(self, cli, tmp_path, arguments, words):
        assert words in sentence(cli("run", *arguments, cwd=project(tmp_path)))
        assert not (tmp_path / "p" / "workspace").exists()

    @pytest.mark.parametrize("text, words", [
        ("[workbench\nname = p", "section"),
        ("[workbench]\nname = p\ntaget = y\nsource = a.csv", "Did you mean 'target'"),
        ("[workbench]\nname = p\nsource = a.csv", "does not say 'target'"),
        ("[workbench]\nname = p\nname = q", "is there twice"),
        ("[workbench]\nname = p\njust words", "neither a"),
    ])
    def test_broken_settings(self, cli, tmp_path, text, words):
        root = project(tmp_path)
        (root / "settings.ini").write_text(text, encoding="utf-8")
        assert words in sentence(cli("run", cwd=root))

    def test_no_project(self, cli, tmp_path):
        assert "mlwb init" in sentence(cli("run", cwd=tmp_path))

    @pytest.mark.parametrize("facts, words", [
        ({"source": "none.csv"}, ["no file"]),
        ({"source": "."}, ["directory"]),
        ({"source": "empty.csv"}, ["no rows"]),
        ({"source": "ok.csv", "target": "z"}, ["'z'"]),
        ({"source": "ok.csv", "target": "one"}, ["one", "class"]),
    ])
    def test_bad_data(self, cli, tmp_path, table, facts, words):
        root = project(tmp_path, **facts)
        (root / "empty.csv").write_text("나이,y\n", encoding="utf-8")
        (root / "ok.csv").write_bytes(table.read_bytes())
        said = sentence(cli("run", cwd=root))
        assert all(w in said for w in words), said


class TestLook:
    def test_profile_prints_json_and_writes_a_page(self, cli, table, tmp_path):
        done = cli("profile", table, "--target", "y", "--json", "-o", "view.html", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        assert document["rows"] == 400 and {c["name"] for c in document["columns"]} == {"나이", "도시", "y", "one", "text"}
        assert {"name", "type", "missing", "distinct"} <= set(document["columns"][0])
        page = (tmp_path / "view.html").read_text(encoding="utf-8")
        assert "도시" in page and "http://" not in page.replace("http://www.w3.org", "")

    def test_drift_fails_on_request(self, cli, tmp_path):
        pl.DataFrame({"x": range(500)}).write_parquet(tmp_path / "a.parquet")
        pl.DataFrame({"x": range(400, 900)}).write_parquet(tmp_path / "b.parquet")
        same = cli("drift", "a.parquet", "a.parquet", "--fail-on", "warn", "--json", cwd=tmp_path)
        assert same.returncode == 0 and json.loads(same.stdout)["verdict"] == "ok"
        moved = cli("drift", "a.parquet", "b.parquet", "--fail-on", "warn", "--json", cwd=tmp_path)
        assert moved.returncode == 3 and json.loads(moved.stdout)["columns"][0]["verdict"] == "drift"
        assert cli("drift", "a.parquet", "b.parquet", cwd=tmp_path).returncode == 0
        assert "--fail-on takes" in sentence(cli("drift", "a.parquet", "b.parquet", "--fail-on", "often", cwd=tmp_path))


def test_usage_errors_end_with_2(cli, tmp_path):
    for arguments in (["nope"], ["run", "--bogus"], ["profile"], []):
        done = cli(*arguments, cwd=tmp_path)
        assert done.returncode == 2 and "Traceback" not in done.stderr


def test_help_and_version(cli, tmp_path):
    from mlwb import __version__
    assert "profile" in cli("--help", cwd=tmp_path).stdout and cli("--version", cwd=tmp_path).stdout.strip() == __version__
