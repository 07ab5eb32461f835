"""`mlwb profile` beside the profilers that people use: a cold process from a file to a written HTML document.

    python benchmarks/profile.py [--rows 100000,1000000,10000000] [--repeats 3] [--only mlwb,skrub] [--cache DIR] [--steps]

A mixed table of 30 columns (numbers, integers, codes, categories, booleans, times, free text, an id, a binary target; missing values
in twelve) is written as Parquet and, up to a million rows, as CSV; every tool describes the same Parquet file, in turns, each in a
fresh process: from its start to the end of the process that has written its HTML. Wall seconds; CPU seconds of the process
and its children, from the kernel (wait4); memory is the largest sum of the resident pages of the process and its children.
Peers are installed from pinned versions into virtual environments of their own under --cache (default: a folder in the
temporary directory), which also keeps the tables. A peer that can't be installed, fails or takes too long is shown as such.
The tables go to benchmarks/results/profile.md.
"""

import sys

sys.path.pop(0)  # this folder: the name of this file is that of a module of the standard library, which cProfile imports

import argparse  # noqa: E402
import importlib.metadata  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import platform  # noqa: E402
import statistics  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

REPO = Path(__file__).resolve().parent.parent
PYTHON = "import sys; path, out = sys.argv[1:]\n"
PANDAS = PYTHON + "import pandas as pd; df = pd.read_parquet(path)\n"
MLWB = "from mlwb.cli import main; main()"

# name → packages, and the program that describes the Parquet file `path` in the HTML file `out`
PEERS = {
    "evidently, DataSummaryPreset": (["evidently==0.7.23", "pyarrow==23.0.1"], PANDAS + (
        "from evidently import Report\nfrom evidently.presets import DataSummaryPreset\n"
        "Report([DataSummaryPreset()]).run(df, None).save_html(out)")),
    "fg-data-profiling, minimal=True": (["fg-data-profiling==4.20.0", "pyarrow==23.0.1"], PANDAS + (
        "from data_profiling import ProfileReport\nProfileReport(df, minimal=True, progress_bar=False).to_file(out)")),
    "skrub, TableReport": (["skrub==0.11.0", "polars==1.38.1", "pyarrow==23.0.1", "matplotlib"], PYTHON + (
        "import polars as pl\nfrom skrub import TableReport\nTableReport(pl.read_parquet(path), verbose=0).write_html(out)")),
    "sweetviz, analyze": (["sweetviz==2.3.3", "pyarrow==23.0.1"], PANDAS + (
        "import sweetviz\nsweetviz.analyze(df, pairwise_analysis='off').show_html(out, open_browser=False)")),
}


# --- the table ---------------------------------------------------------------------------------------------------------

def block(start: int, rows: int):
    """Rows that follow each other, of 30 columns."""
    import numpy as np
    import polars as pl
    rng = np.random.default_rng([7, start])
    def gaps(values, share): return pl.Series(values, nan_to_null=True).set(pl.Series(rng.random(rows) < share), None)
    def level(names, weights=None): return pl.Series(names).gather(rng.choice(len(names), rows, p=weights))
    base = rng.normal(size=rows)
    many = [f"shop-{i:05d}" for i in range(20_000)]
    cities = [f"city {i:03d}" for i in range(200)]
    skew = 1 / np.arange(1, 201); skew /= skew.sum()
    words = pl.Series([f"{a}{b}" for a in ("red", "late", "big", "cold", "new", "odd") for b in ("", "ly", "ness", " box", " van", " road", "er")])
    def sentence(k): return pl.select(pl.concat_str([words.gather(rng.integers(0, len(words), rows)) for _ in range(k)], separator=" ")).to_series()
    moment = 1_600_000_000 + (start + np.arange(rows)) * 3 + rng.integers(0, 86_400, rows)
    age = rng.integers(18, 90, rows)
    risk = .8 * base + .02 * (age - 50) + rng.normal(size=rows)
    return pl.DataFrame({
        "normal": base, "normal_related": gaps(base + rng.normal(size=rows), .02), "normal_gaps": gaps(rng.normal(50, 9, rows), .2),
        "temperature": np.round(rng.normal(12, 8, rows), 1),
        "price": rng.lognormal(3, 1, rows), "income": gaps(np.round(rng.lognormal(10, .7, rows), 2), .05), "size": rng.lognormal(0, 2, rows),
        "claims": np.where(rng.random(rows) < .8, 0, rng.lognormal(5, 1, rows)), "rain": gaps(np.where(rng.random(rows) < .6, 0, rng.exponential(3, rows)), .01),
        "discount": np.where(rng.random(rows) < .95, 0, rng.random(rows)),
        "age": age, "visits": rng.poisson(3, rows), "items": gaps(rng.geometric(.2, rows), .03), "year": rng.integers(1990, 2024, rows),
        "zip": rng.integers(10_000, 99_999, rows), "branch": rng.integers(1, 400, rows),
        "grade": level(["A", "B", "C", "D", "E"], [.4, .3, .2, .08, .02]), "channel": gaps(level(["web", "shop", "phone", "mail", "app"]), .1),
        "city": level(cities, skew), "product": gaps(level([f"P{i:03d}" for i in range(200)]), .02), "shop": level(many),
        "member": rng.random(rows) < .3, "paid": gaps(rng.random(rows) < .9, .05), "gift": rng.random(rows) < .02,
        "ordered": pl.Series(moment * 1_000_000).cast(pl.Datetime("us")),
        "born": gaps(pl.Series(rng.integers(-9000, 12_000, rows)).cast(pl.Int32).cast(pl.Date), .04),
        "note": gaps(sentence(6), .3), "title": sentence(3),
        "id": pl.select(pl.format("{}-{}", pl.lit("cust"), pl.int_range(start, start + rows))).to_series(),
        "churned": gaps((rng.random(rows) < 1 / (1 + np.exp(3 - risk))).astype(np.int64), .01),
    })


def table(folder: Path, rows: int, kind: str = "parquet") -> Path:
    """The file, made once."""
    path, step = folder / f"mixed_{rows}.{kind}", 500_000
    if path.exists(): return path
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    if kind == "csv":
        import polars as pl
        pl.read_parquet(table(folder, rows)).write_csv(part)
    else:
        import pyarrow.parquet as pq
        writer = None
        for start in range(0, rows, step):
            arrow = block(start, min(step, rows - start)).to_arrow(compat_level=None)
            arrow = arrow.cast(plain_schema(arrow.schema))
            writer = writer or pq.ParquetWriter(part, arrow.schema)
            writer.write_table(arrow)
        writer.close()
    part.rename(path)
    return path


def plain_schema(schema):
    """Text as `string`, which every reader knows."""
    import pyarrow as pa
    return pa.schema([(f.name, pa.string() if pa.types.is_large_string(f.type) or str(f.type) == "string_view" else f.type) for f in schema])
