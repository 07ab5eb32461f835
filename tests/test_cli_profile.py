"""`mlwb profile`, as a process: one table, a saved profile, two of either side by side."""

import json

import polars as pl
import pytest


@pytest.fixture(scope="module")
def folder(tmp_path_factory, cli):
    """Two years of a table, and the saved profile of the first."""
    path = tmp_path_factory.mktemp("profiles")
    for year, shift in (("2023", 0), ("2024", 100)):
        df = pl.DataFrame({"size": [i % 300 + shift for i in range(1200)],
                           "도시": [["서울", "부산", "대구"][i % 3 if not shift else i % 2] for i in range(1200)],
                           "bought": [int(i % 7 < 3) for i in range(1200)]})
        (df if shift else df.with_columns(old=pl.lit(1))).write_csv(path / f"{year}.csv")
    done = cli("profile", "2023.csv", "--target", "bought", "--save", "2023.json", cwd=path)
    assert done.returncode == 0 and "profile: 2023.json" in done.stdout, done.stderr
    (path / "settings.json").write_text('{"rows": 3}')
    (path / "broken.json").write_text("{")
    return path


def test_a_saved_profile_is_shown_like_its_table(cli, folder, tmp_path):
    saved = cli("profile", folder / "2023.json", "--json", "-o", tmp_path / "v.html", cwd=folder)
    table = cli("profile", folder / "2023.csv", "--target", "bought", "--json", cwd=folder)
    assert saved.returncode == 0 and json.loads(saved.stdout) == json.loads(table.stdout)
    assert "도시" in (tmp_path / "v.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("first", ["2023.csv", "2023.json"])
def test_two_side_by_side(cli, folder, tmp_path, first):
    done = cli("profile", first, "2024.csv", *(["--target", "bought"] if first.endswith("csv") else []), "--json", "-o", tmp_path / "v.html", cwd=folder)
    assert done.returncode == 0, done.stderr
    d = json.loads(done.stdout)
    columns = {c["name"]: c for c in d["columns"]}
    assert d["names"] == ["2023.csv", "2024.csv"] and d["rows"] == [1200, 1200] and d["target"] == "bought"
    assert columns["old"]["status"] == "a" and columns["old"]["b"] is None and columns["도시"]["vanished"] == [["대구", 400]]
    assert columns["size"]["low"] <= 1 / 3 <= columns["size"]["high"] and columns["bought"]["distance"] == 0
    assert "Only in 2023.csv: old." in d["headlines"]
    page = (tmp_path / "v.html").read_text(encoding="utf-8")
    assert "대구" in page and "http://" not in page.replace("http://www.w3.org", "")


def test_the_terminal_says_what_differs(cli, folder):
    done = cli("profile", "2023.json", "2024.csv", cwd=folder)
    assert done.returncode == 0 and "Only in 2023.csv: old." in done.stdout
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines if line and line[0] in ("old", "size", "도시", "bought")] == ["old", "size", "도시", "bought"]


@pytest.mark.parametrize("arguments, words", [
    (["settings.json"], ["settings.json", "no saved profile"]),
    (["broken.json", "2024.csv"], ["broken.json", "not JSON"]),
    (["2023.csv", "none.json"], ["no file", "none.json"]),
    (["2023.csv", "2025.csv"], ["no file", "2025.csv", "Did you mean"]),
    (["2023.json", "--target", "size"], ["target 'bought'", "'size'"]),
    (["2023.csv", "2024.csv", "--save", "x.json"], ["--save", "one table"]),
    (["2023.csv", "--save", "x.txt"], ["--save", ".json", "x.txt"]),
    (["2023.csv", "2024.csv", "--target", "old2"], ["'old2'", "Did you mean 'old'"]),
    (["2023.csv", "--target", ""], ["--target", "empty name"]), (["2023.csv", "2024.csv", "--time", ""], ["--time", "empty name"]),
])
def test_bad_input_is_one_sentence_and_leaves_nothing(cli, folder, arguments, words):
    before = sorted(p.name for p in folder.iterdir())
    done = cli("profile", *arguments, "-o", "out.html", cwd=folder)
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert done.returncode == 2 and len(errors) == 1 and "Traceback" not in done.stderr, done.stderr
    assert all(w in errors[0] for w in words), errors
    assert sorted(p.name for p in folder.iterdir()) == before
