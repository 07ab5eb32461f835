"""How much memory and time it takes to extract, validate and profile a CSV that is larger than the memory that may be used.

    python benchmarks/data.py [--rows 17200000] [--cache DIR] [--out benchmarks/results/data.md]

A table of 24 columns (12 numbers, 6 whole numbers, 4 texts, an id, a time; drawn from a seed, in chunks) is written once as CSV and kept in
the cache folder: 17.2 million rows are 3 GB. Then, each in fresh processes:

- the stages: a project by `mlwb init` around the CSV, then `mlwb run --until` explore, validate and frame one after another, with the runner
  and its kernels as they always are;
- the library: opening the CSV and storing it, inferring a schema and validating against it, profiling with and without a target.

Memory is the largest sum over the process and all that it has started, sampled 20 times a second, of their proportional set sizes (PSS of
/proc/PID/smaps_rollup: a page that several processes share counts once); beside it stands the largest resident set of a single process,
which counts shared pages in full. The limit is 2 GB. The table goes to benchmarks/results/data.md. `make bench-data` runs all of it.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from processes import family, watched

REPO = Path(__file__).resolve().parent.parent
LIMIT = 2e9  # bytes
STEP = 400_000  # rows of a chunk

LIBRARY = {
    "open and store": """
from mlwb.data.sources import open_acquired
from mlwb.data.store import Store
from mlwb.data.targets import check_source
source, _ = check_source(open_acquired(csv, folder, []), "k0", "", "t", [])
print(Store(folder / "data").write("table", source, source.note, time="t", said=[]).rows)""",
    "profile": """
from mlwb.data.profile import profile
print(profile(table).rows)""",
    "profile with a target": """
from mlwb.data.profile import profile
print(profile(table, "k0", time="t").rows)""",
    "infer a schema": """
from mlwb.data.schema import infer, save_schema
save_schema(infer(table, "k0", "t"), folder / "schema.yaml")""",
    "validate against it": """
from mlwb.data.schema import load_schema, validate
print(len(validate(table, load_schema(folder / "schema.yaml"), "k0", "t").anomalies))""",
}
OPEN = """
import sys
from pathlib import Path
csv, folder = sys.argv[1], Path(sys.argv[2])
if (folder / "data" / "table").is_dir():
    from mlwb.data.store import Store
    from mlwb.data.tables import Table
    table = Table(Store(folder / "data")._files("table")[1])
"""


# --- the table ---------------------------------------------------------------------------------------------------------

def chunk(start: int, rows: int):
    """Rows that follow each other."""
    import numpy as np
    import polars as pl
    rng = np.random.default_rng([5, start])
    columns = {"id": np.arange(start, start + rows)}
    for i in range(12): columns[f"f{i}"] = rng.normal(size=rows).round(4)
    for i in range(6): columns[f"k{i}"] = (columns["f0"] * 100 + rng.normal(500, 100, rows)).clip(0, 999).astype(int) if not i else rng.integers(0, 1000, rows)
    for i in range(4): columns[f"c{i}"] = pl.Series(["서울", "alpha", "부산", "beta"]).gather(rng.integers(0, 4, rows))
    return pl.DataFrame(columns).with_columns(t=pl.datetime(2020, 1, 1) + pl.duration(microseconds=pl.int_range(start, start + rows) * 12_000))


def table(cache: Path, rows: int) -> Path:
    """The CSV, made once."""
    path = cache / f"data_{rows}.csv"
    if path.exists(): return path
    cache.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as f:
        for start in range(0, rows, STEP): chunk(start, min(STEP, rows - start)).write_csv(f, include_header=not start)
    part.rename(path)
    return path


# --- measuring ---------------------------------------------------------------------------------------------------------

def memory(pid: int) -> tuple[int, int]:
    """PSS and RSS of a process, in bytes."""
    try: lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError: return 0, 0
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines[1:] if line.startswith(("Pss:", "Rss:"))}
    return found.get("Pss", 0), found.get("Rss", 0)


def measured(command: list, cwd: Path, env: dict) -> dict:
    """Wall and CPU seconds, the largest sum of PSS, the largest RSS of one process, when the former was; what was printed."""
    peak = {"pss": 0, "rss": 0, "at": 0.0}

    def look(pid, seconds):
        sizes = [memory(p) for p in family(pid)]
        total = sum(s[0] for s in sizes)
        if total > peak["pss"]: peak["pss"], peak["at"] = total, seconds
        peak["rss"] = max([peak["rss"], *(s[1] for s in sizes)])
    done = watched(command, look, .05, cwd=cwd, env=env)
    if done.code: raise SystemExit(f"{' '.join(map(str, command))[:200]} ended with {done.code}: {done.err[-2000:]}{done.out[-1000:]}")
    return peak | dict(wall=done.wall, cpu=done.cpu, said=done.out)


def environment(tmp: Path) -> dict:
    """The user's own, with mlwb from this folder and temporary files beside the table."""
    return {**os.environ, "PYTHONPATH": str(REPO), "TMPDIR": str(tmp), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}


# --- the runs ----------------------------------------------------------------------------------------------------------

def stages(csv: Path, place: Path, env: dict) -> tuple[dict, list]:
    """`mlwb run --until …` in a fresh project: what was measured, and (stage, seconds) of all stages that ran."""
    cli, found, parts = [sys.executable, "-c", "from mlwb.cli import main; main()"], {}, []
    subprocess.run([*cli, "init", place / "project", "--data", csv, "--target", "k0", "--time", "t"], env=env, check=True, capture_output=True)
    for name in ("explore", "validate", "frame"):
        r = found[f"`mlwb run --until {name}`"] = measured([*cli, "run", "--until", name, "--json"], place / "project", env)
        parts += [(s["name"], s["seconds"]) for s in json.loads(r["said"])["stages"] if s["status"] == "ok"]
        print(row(name, r), file=sys.stderr, flush=True)
    return found, parts


def row(name: str, r: dict) -> str:
    within = "yes" if r["pss"] < LIMIT else "no"
    return f"| {name} | {r['wall']:.0f} | {r['cpu']:.0f} | {r['pss'] / 1e6:,.0f} | {r['at']:.0f} | {r['rss'] / 1e6:,.0f} | {within} |"


def document(rows: int, csv: Path, results: dict, parts: list, load: float) -> str:
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("polars", "pyarrow", "deltalake"))
    lines = ["# A CSV larger than memory: extracted, validated, profiled", "",
             "Made by `make bench-data`; what is measured stands at the head of benchmarks/data.py.",
             f"Python {platform.python_version()}, {os.cpu_count()} cores, {versions}; load {load:.1f} before, {os.getloadavg()[0]:.1f} at the end.",
             f"{rows:,} rows × 24 columns, {csv.stat().st_size / 1e9:.2f} GB of CSV.", "",
             "| | wall s | CPU s | peak memory MB | at s | largest process MB | below 2 GB |", "|---|---|---|---|---|---|---|"]
    lines += [row(name, r) for name, r in results.items()] + [""]
    return "\n".join([*lines, "Of the stages: " + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in parts) + "."]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=17_200_000)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "mlwb-benchmark-data")
    parser.add_argument("--out", type=Path, default=REPO / "benchmarks" / "results" / "data.md")
    parser.add_argument("--only", default="", help="stages, or a name of the library's, with commas; nothing is written then")
    args = parser.parse_args()
    csv, load = table(args.cache, args.rows), os.getloadavg()[0]
    place, results, parts = args.cache / "work", {}, []
    only = [n for n in args.only.split(",") if n]
    if not only: shutil.rmtree(place, ignore_errors=True)
    (place / "tmp").mkdir(parents=True, exist_ok=True)
    env = environment(place / "tmp")
    for name, code in LIBRARY.items():
        if only and name not in only: continue
        results[f"library: {name}"] = measured([sys.executable, "-c", OPEN + code, csv, place], place, env)
        print(row(name, results[f"library: {name}"]), file=sys.stderr, flush=True)
    if not only or "stages" in only:
        shutil.rmtree(place / "project", ignore_errors=True)
        found, parts = stages(csv, place, env)
        results = found | results
    if only: return
    text = document(args.rows, csv, results, parts, load)
    print(text)
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(text, encoding="utf-8")
    shutil.rmtree(place)


if __name__ == "__main__": main()
