"""Tables that break profiles: each a name, and a function that makes it in a folder. Data, names and files are hostile until proven otherwise.

`TABLES` gives frames, `FILES` writes a file and gives its path; `REFUSED` are files that can only be refused, each with words of the reason.
Values that would run as a script or as markup carry `MARK`, so that a browser test can tell whether one did.
"""

import datetime
import decimal
import gzip
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl

MARK = "__mlwb_was_here"
SCRIPT = f"<script>window.{MARK}=1</script>"
IMAGE = f"<img src=x onerror=\"window.{MARK}=1\">"
CLOSING = f"</script></template></style><svg onload=\"window.{MARK}=1\">"
TABLES, FILES, REFUSED = {}, {}, {}


def table(make):
    TABLES[make.__name__] = make
    return make


def file(make):
    FILES[make.__name__] = make
    return make


def refused(words):
    def keep(make):
        REFUSED[make.__name__] = (make, words)
        return make
    return keep


def rng(): return np.random.default_rng(0)


# --- names -------------------------------------------------------------------------------------------------------------

@table
def duplicate_names(): return pd.DataFrame([[1, "a", 2.], [2, "b", 3.]] * 20, columns=["x", "x", "x"])

@table
def empty_and_blank_names(): return pd.DataFrame([[1, 2, 3, 4]] * 20, columns=["", " ", "\t", None])

@table
def names_that_differ_in_case(): return pd.DataFrame({"Total": range(20), "total": range(20), "TOTAL": range(20)})

@table
def names_that_are_no_text(): return pd.DataFrame([[1, 2, 3, 4, 5]] * 20, columns=[1, 2.5, ("a", 1), datetime.date(2020, 1, 1), True])

@table
def names_in_levels():
    return pd.DataFrame(np.ones((20, 4)), columns=pd.MultiIndex.from_product([["a", "b"], [1, 2]]))

@table
def unicode_names():
    return pd.DataFrame({"이름": ["가", "나"] * 10, "é": range(20), "e\u0301": range(20), "😀": range(20), "\u202eabc": range(20),
                         "a\u0000b": range(20), "\ufeffbom": range(20)})

@table
def markup_in_names(): return pd.DataFrame({SCRIPT: range(20), IMAGE: ["a"] * 20, CLOSING: range(20), "\"'`${1}{{7*7}}": range(20)})

@table
def very_long_name(): return pd.DataFrame({"n" * 5000: range(20), "긴" * 2000: ["x"] * 20})

@table
def names_like_code():
    return pd.DataFrame({"__proto__": range(20), "constructor": range(20), "../../etc/passwd": range(20), "a\nb": range(20),
                         "; DROP TABLE": range(20)})

@table
def five_thousand_columns(): return pl.DataFrame({f"c{i}": [i, i + 1, None] for i in range(5000)})


# --- values ------------------------------------------------------------------------------------------------------------

@table
def markup_in_values():
    return pd.DataFrame({"html": [SCRIPT, IMAGE, CLOSING, "&lt;b&gt;", "<b>x</b>"] * 10, "n": range(50), "y": [SCRIPT, IMAGE] * 25})

@table
def korean_values():
    return pd.DataFrame({"도시": ["서울", "부산", "대구", None] * 25, "값": rng().normal(size=100), "설명": [f"{i}번째 설명입니다" for i in range(100)]})

@table
def unicode_values():
    return pd.DataFrame({"t": ["é", "e\u0301", "ß", "ẞ", "İ", "ı", "🇰🇷", "👩‍👩‍👧", "\u202egnp.exe", "ﷺ", "\u200b", "a\u0000b", "\x1b[31mred", "\u2028"] * 4})

@table
def lone_surrogates():
    rows = {"t": ["a\ud800", "\udc80b", "fine", None] * 10, "n": range(40)}
    return pd.DataFrame(list(zip(*rows.values())), columns=pd.Index(["t", "x\udc00"], dtype=object), dtype=object)

@table
def all_null():
    return pd.DataFrame({"a": [None] * 30, "b": [np.nan] * 30, "c": pd.Series([pd.NaT] * 30), "d": pd.Series([pd.NA] * 30, dtype="Int64")})

@table
def one_row(): return pd.DataFrame({"a": [1], "b": ["x"], "c": [pd.Timestamp("2020-01-01")], "d": [True], "e": [None], "f": [1.5]})

@table
def no_row():
    return pd.DataFrame({"a": pd.Series(dtype=float), "b": pd.Series(dtype=object), "c": pd.Series(dtype="datetime64[ns]"),
                         "d": pd.Series(dtype=bool)})

@table
def one_column(): return pd.DataFrame({"only": rng().normal(size=200)})

@table
def constant(): return pd.DataFrame({"a": [7] * 50, "b": ["same"] * 50, "c": [1e300] * 50, "d": [True] * 50, "e": [pd.Timestamp("2020-01-01")] * 50})

@table
def mixed_types(): return pd.DataFrame({"m": [1,
                         "two", 3.0, None, True, datetime.date(2020, 1, 1), [1], {"a": 1}, b"x", decimal.Decimal("1.5")] * 5}, dtype=object)

@table
def nested(): return pl.DataFrame({"l": [[1, 2], [], None, [3]] * 10, "s": [{"a": 1, "b": "x"}] * 40, "ll": [[["a"], []]] * 40, "e": [[]] * 40})

@table
def beyond_int64():
    return pd.DataFrame({"big": [2**63, 2**64, -2**70, 10**400, None] * 5, "u": pd.Series([2**64 - 1] * 25, dtype="uint64"),
                         "i": [2**63 - 1, -2**63, 0, 1, 2] * 5})

@table
def beyond_two_to_53(): return pd.DataFrame({"id": [2**53 + i for i in range(100)], "f": [float(2**53) + 2 * i for i in range(100)]})

@table
def infinities(): return pd.DataFrame({"a": [np.inf, -np.inf, 1., 2., np.nan] * 10, "only": [np.inf] * 50, "both": [np.inf, -np.inf] * 25})

@table
def floats_at_the_edge():
    return pd.DataFrame({"a": [1.7e308, -1.7e308, 5e-324, -0.0, 0.0] * 10, "tiny": [1e-320] * 49 + [2e-320],
                         "close": [1 + i * 2.3e-16 for i in range(50)]})

@table
def outlier(): return pd.DataFrame({"x": [*rng().normal(size=999), 1e30], "y": [*rng().integers(0, 9, 999), 10**15]})

@table
def old_and_far_dates():
    return pl.DataFrame({"d": [datetime.date(1, 1, 1), datetime.date(9999, 12, 31), datetime.date(2020, 2, 29), None] * 10,
                         "t": [datetime.datetime(1, 1, 1), datetime.datetime(9999, 12, 31, 23, 59, 59, 999999), datetime.datetime(1970, 1, 1), None] * 10})

@table
def many_zones():
    t = pd.date_range("2024-03-30", periods=60, freq="h", tz="Europe/Berlin")
    return pd.DataFrame({"berlin": t, "seoul": t.tz_convert("Asia/Seoul"), "utc": t.tz_convert("UTC")})

@table
def times_of_one_instant(): return pd.DataFrame({"t": [pd.Timestamp("2020-01-01")] * 50, "n": range(50)})

@table
def durations_and_clock():
    return pl.DataFrame({"d": [datetime.timedelta(days=i, microseconds=i) for i in range(40)],
                         "t": [datetime.time(i % 24, i % 60) for i in range(40)]})

@table
def decimals_and_binary():
    return pl.DataFrame({"d": [decimal.Decimal("1.10"), decimal.Decimal("-99999999999999.99"), None] * 10,
                         "b": [b"\x00\xff", b"", None] * 10})

@table
def million_distinct_texts(): return pl.DataFrame({"id": [f"user-{i:07d}" for i in range(1_000_000)]})

@table
def one_huge_text(): return pd.DataFrame({"t": ["x" * 5_000_000, "y", None] * 5})

@table
def blank_texts(): return pd.DataFrame({"t": ["", " ", "\t\n", "\u3000", "x", None] * 10})

@table
def disguised_missing(): return pd.DataFrame({"t": ["NA", "?", "-", "없음", "real", "other"] * 20, "n": [*rng().normal(50, 5, 110), *[-999.] * 10]})

@table
def numbers_as_text():
    return pd.DataFrame({"n": ["1,234", "2.5", " 3 ", "₩4,000", "5%"] * 10,
                         "d": ["2020-01-01", "01/02/2020", "2020.3.4", "20200505", "어제"] * 10})

@table
def categories():
    return pd.DataFrame({"c": pd.Categorical(["a", "b"] * 20, categories=["a", "b", "never"]),
                         "o": pd.Categorical([1, 2] * 20, ordered=True), "n": pd.Categorical([None] * 40)})

@table
def nullable_dtypes():
    return pd.DataFrame({"i": pd.array([1, None] * 20, "Int64"), "b": pd.array([True, None] * 20, "boolean"),
                         "s": pd.array(["a", None] * 20, "string"), "f": pd.array([1.5, None] * 20, "Float64")})

@table
def periods_intervals_complex():
    return pd.DataFrame({"p": pd.period_range("2020-01", periods=24, freq="M"), "i": pd.interval_range(0, 24), "z": [complex(i, 1) for i in range(24)]})

@table
def sparse(): return pd.DataFrame({"s": pd.arrays.SparseArray([0.] * 99 + [1.]), "t": ["a"] * 100})

@table
def booleans_in_disguise():
    return pd.DataFrame({"yes": ["yes", "no"] * 25, "zero": [0, 1] * 25,
                         "obj": pd.Series([True, False, None, True, False] * 10, dtype=object)})

@table
def identical_columns(): return pd.DataFrame({f"x{i}": rng().integers(0, 5, 100) for i in range(30)})

@table
def identical_rows(): return pd.DataFrame({"a": [1] * 1000, "b": ["x"] * 1000})

@table
def nothing_but_ids(): return pd.DataFrame({"id": range(500), "uuid": [f"{i:032x}" for i in range(500)], "name": [f"n{i}" for i in range(500)]})

@table
def index_with_a_name(): return pd.DataFrame({"a": range(20)}, index=pd.Index(range(100, 120), name="a"))

@table
def objects():
    class Odd:
        def __repr__(self): raise RuntimeError("no words")
        def __eq__(self, other): raise RuntimeError("no likeness")
        __hash__ = None
    return pd.DataFrame({"o": [Odd() for _ in range(20)], "n": range(20)})

@table
def image_paths(): return pd.DataFrame({"image": [f"images/{i:04d}.jpg" for i in range(100)], "label": ["cat", "dog"] * 50})


# --- files -------------------------------------------------------------------------------------------------------------

def write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


ROWS = "이름,값\n서울,1\n부산,2\n대구,3\n"

@file
def cp949_csv(folder): return write(folder, "cp949.csv", (ROWS * 20).encode("cp949"))

@file
def utf16_csv(folder): return write(folder, "utf16.csv", ROWS.encode("utf-16"))

@file
def utf8_with_bom_csv(folder): return write(folder, "bom.csv", ROWS.encode("utf-8-sig"))

@refused("line 4 has 4 fields")
def ragged_csv(folder): return write(folder, "ragged.csv", b"a,b,c\n1,2,3\n4,5\n6,7,8,9\n10,11,12\n" * 5)

@file
def semicolons_and_decimal_comma_csv(folder): return write(folder, "german.csv", b"a;b\n1,5;x\n2,25;y\n" * 10)

@file
def tabs_tsv(folder): return write(folder, "t.tsv", b"a\tb\n1\tx\n2\ty\n" * 10)

@file
def quotes_and_newlines_csv(folder): return write(folder, "q.csv", b'a,b\n"x\ny","say ""hi"""\n"1,2",z\n' * 10)

@refused("no rows")
def header_only_csv(folder): return write(folder, "header.csv", b"a,b,c\n")

@file
def markup_csv(folder): return write(folder, f"{'x'}<b>.csv", f"{IMAGE.replace(',', '')},n\n{SCRIPT},1\n".encode() * 5)

@file
def name_with_blanks_csv(folder): return write(folder, "한글 이름 & 'quote'.csv", ROWS.encode())

@file
def gzipped_csv(folder): return write(folder, "z.csv.gz", gzip.compress(ROWS.encode()))

@file
def plain_parquet(folder):
    pl.DataFrame({"a": [1, 2, None] * 10, "t": ["x", "y", None] * 10}).write_parquet(folder / "p.parquet")
    return folder / "p.parquet"

@file
def pandas_parquet_with_index(folder):
    pd.DataFrame({"a": range(20)}, index=[f"r{i}" for i in range(20)]).to_parquet(folder / "i.parquet")
    return folder / "i.parquet"

@file
def many_row_groups_parquet(folder):
    pl.DataFrame({"a": range(1000), "b": ["x", "y"] * 500}).write_parquet(folder / "g.parquet", row_group_size=10)
    return folder / "g.parquet"

@refused("no rows")
def no_row_parquet(folder):
    pl.DataFrame({"a": [], "b": []}, schema={"a": pl.Float64, "b": pl.String}).write_parquet(folder / "e.parquet")
    return folder / "e.parquet"


@refused("empty")
def empty_file(folder): return write(folder, "empty.csv", b"")

@refused("zero bytes")
def binary_csv(folder): return write(folder, "binary.csv", bytes(range(256)) * 50)

@refused("can't be read")
def torn_parquet(folder):
    plain_parquet(folder)
    return write(folder, "torn.parquet", (folder / "p.parquet").read_bytes()[:-20])

@refused("directory")
def a_folder(folder):
    (folder / "d.csv").mkdir()
    return folder / "d.csv"

@refused("no file")
def nothing_there(folder): return folder / "none.csv"


def plain(x) -> bool:
    """Whether a document of plain JSON survives strict reading: no NaN, no infinity, no lone surrogate."""
    text = json.dumps(x, allow_nan=False, ensure_ascii=False)
    text.encode("utf-8")
    return not math.isnan(len(text))
