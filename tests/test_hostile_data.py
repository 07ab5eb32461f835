"""The hostile tables as data that comes in: a file, a source, a stored version, a schema, a validation. Each loads, or says in words why not."""

import warnings

import hostile
import polars as pl
import pytest

from mlwb.core.errors import InputError
from mlwb.data.frames import frame, storable
from mlwb.data.schema import from_yaml, infer, to_yaml, validate
from mlwb.data.sources import open_source
from mlwb.data.store import Store, digest
from mlwb.data.tables import Table

pytestmark = pytest.mark.filterwarnings("ignore::mlwb.data.frames.DataWarning")
SLOW = {"five_thousand_columns", "million_distinct_texts"}

# What can't be stored, and the words that say so: a table without rows is no version of anything.
REFUSED = {"no_row": "no rows"}
# CSV holds no table of which every line is empty, and none without rows.
REFUSED_CSV = {"no_row": "no rows", "all_null": "no rows"}


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def through(path, folder):
    """From a file to a validated version: the reference, the rows."""
    opened, store = open_source(str(path), said=[]), Store(folder / "data")
    wanted = storable(opened.collect(), [])
    ref = store.write("the table", open_source(str(path), said=[]), said=[])
    df = store.read(ref)
    assert df.equals(wanted) and df.schema == wanted.schema and digest(df) == ref.digest and ref.rows == df.height
    assert store.write("the table", open_source(str(path), said=[]), said=[]).version == ref.version == 0  # the same content is the same version
    lazily = Table(store._files(ref)[1])
    assert lazily.columns == df.columns and all(lazily[c].equals(df[c]) for c in df.columns[:40])  # and column by column
    return df


def described(df):
    """A schema that holds for its own table, and survives its file."""
    schema = infer(df)
    found = validate(df, schema)
    assert found.valid, [(a.column[:40], a.kind, str(a.message)[:200]) for a in found.anomalies if a.severity == "error"]
    again = from_yaml(to_yaml(schema))
    again.shapes = schema.shapes
    assert to_yaml(again) == to_yaml(schema) and [c.to_json() for c in again.columns] == [c.to_json() for c in schema.columns]
    assert [a.to_json() for a in validate(df, again).anomalies] == [a.to_json() for a in found.anomalies]
    validate(df).to_json()


@pytest.mark.parametrize("name", sorted(hostile.TABLES))
def test_a_table_in_parquet(name, tmp_path):
    frame(hostile.TABLES[name](), []).write_parquet(tmp_path / "t.parquet")
    if name in REFUSED:
        with pytest.raises(InputError, match=REFUSED[name]): through(tmp_path / "t.parquet", tmp_path)
        return
    df = through(tmp_path / "t.parquet", tmp_path)
    described(df.select(df.columns[:300]))


@pytest.mark.parametrize("name", sorted(set(hostile.TABLES) - SLOW))
def test_a_table_in_csv(name, tmp_path):
    storable(frame(hostile.TABLES[name](), []), []).with_columns(pl.selectors.binary().bin.encode("hex")).write_csv(tmp_path / "t.csv")
    if name in REFUSED_CSV:
        with pytest.raises(InputError, match=REFUSED_CSV[name]): through(tmp_path / "t.csv", tmp_path)
        return
    described(through(tmp_path / "t.csv", tmp_path))


@pytest.mark.parametrize("name", sorted(hostile.FILES))
def test_a_file(name, tmp_path): described(through(hostile.FILES[name](tmp_path), tmp_path))


@pytest.mark.parametrize("name", sorted(hostile.REFUSED))
def test_a_file_is_refused_in_words(name, tmp_path):
    make, words = hostile.REFUSED[name]
    with pytest.raises(InputError, match=words) as e: through(make(tmp_path), tmp_path)
    assert "\n" not in str(e.value) and not list((tmp_path / "data").glob("*/*.parquet"))  # nothing half is left
