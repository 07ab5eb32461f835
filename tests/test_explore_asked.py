"""What is asked of a profile and its view: selections in every form, targets and tasks that can't be, files that are not to be written over."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

import mlwb
from mlwb.core.errors import InputError, UsageError
from mlwb.data.merge import merge
from mlwb.data.profile import Profile, profile
from mlwb.data.suspects import find_suspects

ROWS = {"k": [1, 2, 2, None], "x": [1., 2., 3.5, 4.], "name": ["가", "나", "나", ""], "yes": [True, False, None, True]}


@pytest.fixture(scope="module")
def view(): return mlwb.explore(ROWS)


@pytest.mark.parametrize("column, values, rows", [
    ("k", [2], 2), ("k", 2, 2), ("k", (1, 2), 3), ("k", [1.0], 1), ("k", [None, 40], 1), ("k", ["2"], 2), ("k", np.array([1, 2]), 3), ("k", range(3), 3),
    ("k", {1, 2}, 3),
    ("x", [2], 1), ("x", [3.5, "4"], 2), ("name", ["나"], 2), ("name", [""], 1), ("yes", [True], 2), ("yes", [None], 1),
    ("k", [float("nan")], 1), ("k", np.nan, 1), ("k", np.array([np.nan, 1]), 2), ("k", pd.NA, 1), ("yes", [pd.NaT, True], 3), ("yes", [np.float64("nan")], 1)])
def test_values_of_any_form(view, column, values, rows):
    view.selection = {"rows": {"column": column, "values": values}}
    assert view.rows().height == rows == view.subset.profile.rows


@pytest.mark.parametrize("wrong, words", [
    ("x", "is a dictionary"), (5, "is a dictionary"), ({"row": 1}, "Did you mean 'rows'"), ({"column": "z"}, "'z'"), ({"rows": 3}, "selects no rows"),
    ({"rows": {"column": "k", "low": float("nan")}}, "selects no rows"),
    ({"rows": {"column": "k", "values": [1], "low": 2}}, "values and a range"), ({"rows": {"column": "k", "values": [1.5]}}, "No row is left"),
    ({"rows": {"column": "k", "low": "many"}}, "can't be compared")])
def test_wrong_selections_are_refused_and_the_one_before_holds(view, wrong, words):
    view.selection = {"column": "x"}
    with pytest.raises((InputError, UsageError), match=words): view.selection = wrong
    assert view.selection == {"column": "x"} and view.rows().height == 4


@pytest.mark.parametrize("column, type, words", [
    ("nam", "category", "Did you mean 'name'"), ("k", "money", "no type"), ("name", "number", "no numbers")])
def test_what_a_column_cannot_be_looked_at_as(view, column, type, words):
    view.selection = {}
    with pytest.raises((InputError, UsageError), match=words): view.look_at(column, type)
    assert not view.types


def changing():
    n = 60
    yield "pandas", pd.DataFrame({"f": np.arange(n, dtype=float), "i": np.arange(n), "u8": np.arange(n, dtype="uint8"), "b": np.arange(n) % 2 == 0,
                                  "nan": [np.nan, *np.arange(n - 1.)], "I": pd.array([None, *range(n - 1)], dtype="Int64"),
                                  "t": pd.date_range("2024", periods=n), "ns": pd.date_range("2024", periods=n).astype("datetime64[ns]"),
                                  "dur": pd.to_timedelta(range(n), unit="h"),
                                  "s": [f"v{k % 5}" for k in range(n)], "o": pd.Series([k if k % 2 else str(k) for k in range(n)], dtype=object),
                                  "c": pd.Categorical([f"v{k % 5}" for k in range(n)])})
    yield "one column", pd.DataFrame({"f": np.arange(n, dtype=float)})  # one block, which nothing has to be put together from
    yield "one row", pd.DataFrame({"f": [1.5], "s": ["a"]})
    yield "polars", pl.DataFrame({"f": np.arange(n, dtype=float), "s": [f"v{k % 5}" for k in range(n)]})


@pytest.mark.parametrize("name, df", [*changing()], ids=lambda x: x if isinstance(x, str) else "")
def test_a_view_is_a_snapshot(name, df):
    view = mlwb.explore(df)
    p, before = view.result, [s.to_list() for s in mlwb.explore(df.clone() if name == "polars" else df.copy(deep=True)).rows().get_columns()]
    if name == "polars": df[0, "f"] = 99.; df.extend(df)
    else:
        for c in df.columns:  # each in place, whatever pandas thinks of the array
            for values in (df[c].array, df[c].to_numpy()):
                values = getattr(values, "_ndarray", getattr(values, "_data", values))
                if isinstance(values, np.ndarray) and len(values) > 1: values.flags.writeable = True; values[:-1] = values[-1]
            df.loc[0, c] = df.loc[len(df) - 1, c]
        df.loc[:, "f"] = 0.
    assert [s.to_list() for s in view.rows().get_columns()] == before == [s.to_list() for s in view.frame().get_columns()]
    view.selection = {"rows": {"column": "f", "low": 1}}
    assert view.subset.profile.rows == sum(x >= 1 for x in before[0]) and view.subset.profile.column("f").quantiles["max"] == p.column("f").quantiles["max"]


def test_a_file_that_was_written_anew_is_told(tmp_path):
    path = tmp_path / "t.parquet"
    pl.DataFrame({"x": [1, 2, 3]}).write_parquet(path)
    view, other = mlwb.explore(path), mlwb.explore(str(path))
    assert view.rows()["x"].to_list() == [1, 2, 3] and view.result.name == "t.parquet"
    pl.DataFrame({"x": [4, 5, 6, 7]}).write_parquet(path)
    with pytest.raises(InputError, match="has changed since"): other.selection = {"rows": {"column": "x", "low": 5}}
    view.selection = {"rows": {"column": "x", "low": 2}}  # read before
    assert view.rows()["x"].to_list() == [2, 3]


@pytest.mark.parametrize("asked, words", [
    (dict(target="y", time="y"), "target and as time"), (dict(target="y", task="foo"), "no task 'foo'"), (dict(target="t", task="regression"), "no numbers"),
    (dict(time="y"), "not a time"), (dict(time="z"), "'z'")])
def test_what_cannot_be_asked(asked, words):
    with pytest.raises((InputError, UsageError), match=words): profile({"y": [1, 2] * 50, "t": ["a", "b"] * 50}, **asked)


def test_columns_that_say_nothing_are_no_headline():
    told = " ".join(map(str, profile({"y": [0, 1] * 100, "k": [1] * 200}, target="y").headlines))
    assert "The same value everywhere" in told and "say most" not in told


def test_no_equation_where_the_target_is_large_beside_its_spread():
    r = np.random.default_rng(0)
    noise = {"a": r.random(5000), "b": r.normal(size=5000)}
    for y in (1.7e9 + np.sort(r.random(5000) * 300), 1e15 + (1000 * r.random(5000)).astype(int)):
        assert find_suspects({"ts": y, **noise}, "ts") == []
    assert {s.column for s in find_suspects({"ts": 1e6 + noise["a"] + noise["b"], **noise}, "ts")} == {"a", "b"}


def test_merging_says_what_it_leaves_out():
    r = np.random.default_rng(0)
    part = lambda target: profile({"y": r.integers(0, 2, 200), "x": r.normal(size=200)}, target=target)
    assert "search for leaks" in " ".join(map(str, merge([part("y"), part("y")]).notes))
    p = merge([part("y"), part(None)])
    assert not p.target and any("do not have the same" in str(n) for n in p.notes)


@pytest.mark.parametrize("old, new", [('"rows": 4', '"rows": "many"'), ('"columns": [', '"columns": null, "x": ['), ('"name": "k"', '"nam": "k"')])
def test_a_damaged_saved_profile_is_refused(tmp_path, old, new):
    path = profile(ROWS).save(tmp_path / "p.json")
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InputError, match="damaged|no saved"): Profile.load(path).column("x")


def test_nothing_is_written_over_what_was_read(cli, tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n" + "1,a\n2,b\n" * 20)
    (tmp_path / "b.csv").write_text("x,y\n" + "1,a\n3,b\n" * 20)
    before = (tmp_path / "a.csv").read_bytes(), (tmp_path / "b.csv").read_bytes()
    for args in (("profile", "a.csv", "-o", "a.csv"), ("profile", "a.csv", "b.csv", "-o", "b.csv"), ("drift", "a.csv", "b.csv", "-o", "./a.csv")):
        done = cli(*args, cwd=tmp_path)
        assert done.returncode == 2 and "would destroy it" in done.stderr
    assert before == ((tmp_path / "a.csv").read_bytes(), (tmp_path / "b.csv").read_bytes())


def test_an_empty_class_has_a_sign_in_every_place():
    view = mlwb.explore({"y": ["", "", "", "a", "b"] * 20, "x": list(range(100))}, target="y")
    assert "the most frequent, ∅, has 60.0% of the 100 labelled rows." in " ".join(map(str, view.result.headlines))
    assert "<span>∅</span><em>60.0%</em>" in view.document()
