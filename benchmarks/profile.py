"""`mlwb profile` beside the profilers that people use: a cold process from a file to a written HTML document.

    python benchmarks/profile.py [--rows 100000,1000000,10000000] [--repeats 3] [--only mlwb,skrub] [--cache DIR] [--steps]

A mixed table of 30 columns (numbers, integers, codes, categories, booleans, times, free text, an id, a binary target; missing values
in twelve) is written as Parquet and, up to a million rows, as CSV; every tool describes the same Parquet file, in turns, each in a
fresh process: from its start to the end of the process that has written its HTML. Each tool has described a small table once
before, so that what Python keeps between processes (compiled modules) is there for all of them. Wall seconds; CPU seconds of the process
and its children, from the kernel (wait4); memory is the largest sum of the resident pages of the process and its children.
Peers are installed from pinned versions into virtual environments of their own under --cache (default: a folder in the
temporary directory), which also keeps the tables. A peer that can't be installed, fails or takes too long is shown as such.
The tables go to benchmarks/results/profile.md.
"""

import sys

from processes import family, watched

sys.path.pop(0)  # this folder: the name of this file is that of a module of the standard library, which cProfile imports

import argparse  # noqa: E402
import importlib.metadata  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import platform  # noqa: E402
import statistics  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402

REPO = Path(__file__).resolve().parent.parent
PYTHON = "import sys; path, out = sys.argv[1:]\n"
PANDAS = PYTHON + "import pandas as pd; df = pd.read_parquet(path)\n"

# what `mlwb profile` computes, from all rows unless a sample is named
COMPUTED = """missing and disguised missing values; different values (exact; of more than 2M rows of text nearly all different, estimated); nine
quantiles, mean, sd, skewness, kurtosis, zeros, negatives, infinite values, outliers; aligned histogram; most frequent values; lengths and
character patterns of text (of 10,000 different ones), numbers and dates stored as text; gaps and period of times; mergeable bins and
sketches; Pearson's correlation of every pair of numbers; Spearman's, bias-corrected Cramér's V and correlation ratio (100,000 rows);
duplicate rows, also but for their ids; alerts with what to do about each; headlines. With --target also each column's relation to it
(strength on held-out rows, shape), leak suspects of every mechanism (50,000 labelled rows), label balance."""

# name → how it is called, packages, and the program that describes the Parquet file `path` in the HTML file `out`
PEERS = {
    "evidently": ("DataSummaryPreset", ["evidently==0.7.23", "pandas==2.3.3", "scikit-learn==1.7.2", "numpy==2.3.5", "pyarrow==26.0.1"], PANDAS + (
        "from evidently import Report\nfrom evidently.presets import DataSummaryPreset\n"
        "Report([DataSummaryPreset()]).run(df, None).save_html(out)")),
    "fg-data-profiling": ("minimal=True", ["fg-data-profiling==4.20.0", "pandas==2.3.3", "pyarrow==26.0.1"], PANDAS + (
        "from data_profiling import ProfileReport\nProfileReport(df, minimal=True, progress_bar=False).to_file(out)")),
    "skrub": ("TableReport of a polars frame", ["skrub==0.11.0", "polars==2.1.0", "pyarrow==26.0.1", "matplotlib==3.11.2"], PYTHON + (
        "import polars as pl\nfrom skrub import TableReport\nTableReport(pl.read_parquet(path), verbose=0).write_html(out)")),
    "sweetviz": ("pairwise_analysis='off'", ["sweetviz==2.3.3", "pandas==3.1.1", "pyarrow==26.0.1"], PANDAS + (
        "import sweetviz\nsweetviz.analyze(df, pairwise_analysis='off').show_html(out, open_browser=False)")),
}
MLWB = {"mlwb": [], "mlwb --target": ["--target", "churned"], "mlwb CSV": []}
LIMITS = [  # rows, measure, peer, largest ratio of mlwb's figure to the peer's
    (100_000, "wall", "evidently", 1 / 8), (100_000, "wall", "fg-data-profiling", 1 / 8), (100_000, "wall", "skrub", 1 / 4),
    (1_000_000, "cpu", "fg-data-profiling", 1 / 6), (1_000_000, "cpu", "skrub", 1 / 2), (1_000_000, "memory", "fg-data-profiling", .4)]

# the figures alone, computed with polars and numpy by hand: one sort a column, all rows; no view, no sketches, no alerts
BARE = PYTHON + """
import json, numpy as np, polars as pl
df, found, numbers = pl.read_parquet(path), {}, {}
for s in df.get_columns():
    d = found[s.name] = dict(missing=s.null_count())
    if s.dtype in (pl.String, pl.Boolean):
        counts = s.drop_nulls().alias("value").value_counts(name="n")
        d.update(distinct=counts.height, top=counts.top_k(20, by="n").rows())
        if s.dtype == pl.String:
            n = counts["value"].str.len_chars()
            d.update(length=[n.min(), (n * counts["n"]).sum() / counts["n"].sum(), n.max()])
        continue
    x = s if s.dtype.is_numeric() else s.cast(pl.Datetime("us")).to_physical()
    numbers[s.name] = x.cast(pl.Float64)
    v = numbers[s.name].drop_nulls().sort().to_numpy()
    z = v - v.mean(); z2 = z * z; m2 = z2.mean()
    starts = np.flatnonzero(np.append(True, v[1:] != v[:-1]))
    d.update(distinct=len(starts), quantiles=v[np.linspace(0, len(v) - 1, 9).astype(int)].tolist(), mean=v.mean(), sd=m2 ** .5,
             skewness=(z2 * z).mean() / m2 ** 1.5, kurtosis=(z2 * z2).mean() / m2 ** 2 - 3,
             histogram=np.diff(np.searchsorted(v, np.linspace(v[0], v[-1], 41))).tolist())
table = pl.DataFrame(numbers)
for name, part in dict(pearson=table, spearman=table.sample(min(100_000, df.height), seed=0).select(pl.all().rank())).items():
    m = part.select(pl.all().fill_null(pl.all().mean())).to_numpy(); found[name] = np.corrcoef(m.T).tolist()
found["duplicates"] = df.height - df.hash_rows().n_unique()
json.dump(found, open(out, "w"), default=str)
"""

# the steps of one profile in this process, with what the calls of each took; columns are described by one thread
STEPS = """
import json, os, sys, time
os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as the command does
start, path, target = time.process_time(), sys.argv[1], sys.argv[2] or None
import polars
from concurrent.futures import Future
from mlwb.data import associations, profile as engine, suspects, tables
from mlwb.show import views
took, last = {"imports": time.process_time() - start}, [None]
engine.side_by_side = lambda rows: 1
def done(value): f = Future(); f.set_result(value); return f
suspects.ThreadPoolExecutor = engine.ThreadPoolExecutor = associations.ThreadPoolExecutor = type("One", (), dict(__init__=lambda s, n: None,
    __enter__=lambda s: s, __exit__=lambda s, *x: None, map=lambda s, f, x: map(f, x), submit=lambda s, f, *x: done(f(*x))))
def timed(owner, name, what):
    inner = getattr(owner, name)
    def counted(*x, **k):
        outside, begun = last[0], time.process_time()
        last[0] = what
        try: return inner(*x, **k)
        finally:
            spent, last[0] = time.process_time() - begun, outside
            took[what] = took.get(what, 0) + spent
            if outside: took[outside] = took.get(outside, 0) - spent
    setattr(owner, name, counted)
timed(engine, "profile", "the rest"); timed(engine, "open_table", "opening the file"); timed(tables.Table, "_read", "reading columns")
timed(engine, "_described", "describing columns"); timed(tables.RowHashes, "add", "duplicates"); timed(tables.RowHashes, "duplicates", "duplicates")
timed(tables.RowHashes, "but_ids", "duplicates"); timed(engine, "as_target", "target"); timed(engine, "halves", "target")
timed(engine, "relate", "relations to the target"); timed(engine, "values_of", "relations to the target"); timed(suspects.Taken, "add", "leak suspects")
timed(engine, "suspects_of", "leak suspects"); timed(engine, "in_sample", "associations"); timed(engine, "associate", "associations")
timed(associations, "co_moments", "Pearson's co-moments")
timed(associations, "spearman", "Spearman"); timed(engine, "find_alerts", "alerts and headlines"); timed(engine, "headlines", "alerts and headlines")
result = engine.profile(path, target=target)
begun = time.process_time(); text = views.view(result).document(); took["HTML"] = time.process_time() - begun
print(json.dumps(took))
"""


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
        "claims": np.where(rng.random(rows) < .8, 0, rng.lognormal(5, 1, rows)),
        "rain": gaps(np.where(rng.random(rows) < .6, 0, rng.exponential(3, rows)), .01),
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


# --- measuring ---------------------------------------------------------------------------------------------------------

def resident(pid: int) -> int:
    """Bytes in memory of a process and its descendants."""
    total = 0
    for p in family(pid):
        try: total += int(Path(f"/proc/{p}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError: pass
    return total


def measured(command: list, out: Path, limit: float, env: dict) -> dict:
    """Wall and CPU seconds, the largest memory and the size of what was written; or why there is none."""
    out.unlink(missing_ok=True)
    peak = [0]
    def look(pid, _): peak[0] = max(peak[0], resident(pid))
    done = watched(command, look, .025, limit, env=env, cwd=out.parent)
    if done.wall > limit: return {"failed": f"stopped after {limit:.0f} s"}
    if done.code or not out.exists(): return {"failed": f"fails: {(done.err.strip() or done.out.strip() or str(done.code)).splitlines()[-1][:150]}"}
    return {"wall": done.wall, "cpu": done.cpu, "memory": peak[0], "size": out.stat().st_size}


def installed(cache: Path, name: str) -> tuple[Path | None, str]:
    """The Python of a peer's virtual environment, made once; or why there is none."""
    folder, packages = cache / "venvs" / name, PEERS[name][1]
    mark, python = folder / "installed.txt", folder / "bin" / "python"
    if mark.exists() and mark.read_text() == "\n".join(packages): return python, ""
    print(f"installing {' '.join(packages)}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    done = subprocess.run([python, "-m", "pip", "install", "-q", *packages], capture_output=True, text=True)
    if done.returncode: return None, f"can't be installed: {done.stderr.strip().splitlines()[-1][:150]}"
    mark.write_text("\n".join(packages))
    return python, ""


def command(cache: Path, name: str, rows: int, out: Path) -> tuple[list | None, str]:
    """What to run for one tool on one table; or why it can't."""
    if name in MLWB:
        path = table(cache / "tables", rows, "csv" if "CSV" in name else "parquet")
        return [sys.executable, "-c", "from mlwb.cli import main; main()", "profile", path, "-o", out, *MLWB[name]], ""
    path = table(cache / "tables", rows)
    if name == "polars by hand": return [sys.executable, "-c", BARE, path, out], ""
    python, why = installed(cache, name)
    return [python, "-c", PEERS[name][2], path, out] if python else None, why


def environment() -> dict:
    """The user's own, with mlwb from this folder, no limit on threads for anybody, and modules kept compiled."""
    dropped = lambda k: k.endswith("_NUM_THREADS") or k == "PYTHONDONTWRITEBYTECODE"
    return {k: v for k, v in os.environ.items() if not dropped(k)} | {"PYTHONPATH": str(REPO)}


def steps(path: Path, target: str) -> dict:
    """CPU seconds of each step of mlwb."""
    done = subprocess.run([sys.executable, "-c", STEPS, path, target], capture_output=True, text=True, check=True, env=environment())
    return json.loads(done.stdout)


# --- the tables --------------------------------------------------------------------------------------------------------

def middle(runs: list, key: str) -> float | None:
    """The median, where all runs came to an end."""
    return None if any("failed" in r for r in runs) else statistics.median(r[key] for r in runs)


def row(name: str, runs: list, base: list | None) -> str:
    failed = next((r["failed"] for r in runs if "failed" in r), "")
    how = f"`mlwb profile{' --target' * ('target' in name)}`{' of the CSV' * ('CSV' in name)}" if name in MLWB else name
    if name in PEERS: how = f"{name} ({PEERS[name][0]})"
    if failed: return f"| {how} | {failed} | | | | | | |"
    cells = [f"{middle(runs, 'wall'):.2f}", f"{middle(runs, 'cpu'):.2f}", f"{middle(runs, 'memory') / 1e6:,.0f}", f"{middle(runs, 'size') / 1e6:.2f}"]
    ratio = [f"{middle(base, k) / middle(runs, k):.3f}" if base and middle(base, k) else "" for k in ("wall", "cpu", "memory")]
    return f"| {how} | " + " | ".join(cells + ratio) + " |"


def kept(results: dict) -> list[str]:
    """Every limit beside what was measured."""
    lines = ["| limit | without a target | with a target | kept |", "|---|---|---|---|"]
    for rows, key, peer, most in LIMITS:
        runs = results.get(rows, {})
        if not runs.get(peer) or (there := middle(runs[peer], key)) is None: continue
        ratios = [middle(runs[k], key) / there for k in ("mlwb", "mlwb --target")]
        word = {"wall": "wall time", "cpu": "CPU time", "memory": "memory"}[key]
        state = "yes" if max(ratios) <= most else "without a target only" if ratios[0] <= most else "no"
        lines.append(f"| {rows:,} rows: at most {most:.3f} of {peer}'s {word} | {ratios[0]:.3f} | {ratios[1]:.3f} | {state} |")
    for r in ("mlwb", "mlwb --target"):
        if 10_000_000 in results and (m := middle(results[10_000_000][r], "memory")):
            lines.append(f"| 10,000,000 rows: `{r}` within 8 GB | {m / 1e9:.1f} GB | | {'yes' if m < 8e9 else 'no'} |")
    return lines


def document(results: dict, parts: dict, load: float) -> str:
    """All results as Markdown."""
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("polars", "numpy"))
    lines = ["# `mlwb profile`, beside the profilers that people use", "",
             "Made by `python benchmarks/profile.py`; what is measured stands at the head of that file.",
             f"Python {platform.python_version()}, {os.cpu_count()} cores, {versions}; load {load:.1f} before, {os.getloadavg()[0]:.1f} at the end.",
             "Peers: " + "; ".join(", ".join(p) for _, p, _ in PEERS.values()) + ".", "",
             "Every timing of mlwb holds: " + " ".join(COMPUTED.split()), ""]
    for rows, runs in results.items():
        n = len(next(iter(runs.values())))
        lines += [f"## {rows:,} rows × 30 columns", "",
                  f"{n} run{'s' * (n > 1)} each, in turns; medians. Ratios: `mlwb profile` without a target divided by the tool.", "",
                  "| | wall s | CPU s | memory MB | HTML MB | ratio: wall | CPU | memory |", "|---|---|---|---|---|---|---|---|"]
        lines += [row(name, r, runs.get("mlwb")) for name, r in runs.items()] + [""]
    lines += ["## The limits", "", *kept(results), "", "## Where the time goes", "",
              "CPU seconds of one profile in one process whose columns are described one after the other; a step without what it calls of the others.", ""]
    heads = list(parts)
    lines += ["| | " + " | ".join(f"{r:,} rows{', target' * bool(t)}" for r, t in heads) + " |", "|---" * (len(heads) + 1) + "|"]
    names = list(dict.fromkeys(k for p in parts.values() for k in p))
    lines += [f"| {k} | " + " | ".join(f"{parts[h].get(k, 0):.2f}" for h in heads) + " |" for k in names]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="100000,1000000,10000000")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="names of tools, with commas; nothing is written then")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "mlwb-benchmark-profile")
    parser.add_argument("--limit", type=float, default=600, help="seconds that one run may take")
    parser.add_argument("--out", type=Path, default=REPO / "benchmarks" / "results" / "profile.md")
    args = parser.parse_args()
    names = [n.strip() for n in args.only.split(",") if n.strip()] or [*MLWB, "polars by hand", *PEERS]
    results, load = {}, os.getloadavg()[0]
    for name in names:
        out = args.cache / "before.html"
        if what := command(args.cache, name, 1000, out)[0]: measured(what, out, args.limit, environment())
    for rows in map(int, args.rows.split(",")):
        alone = rows > 1_000_000
        runs = results[rows] = {n: [] for n in names if not alone or n in ("mlwb", "mlwb --target")}
        for i in range(1 if alone else args.repeats):
            for name in runs:
                out = args.cache / f"{name.replace(' ', '_').replace(',', '')}.html"
                what, why = command(args.cache, name, rows, out)
                if i and "failed" in runs[name][0]: continue  # it will fail again
                runs[name].append(measured(what, out, args.limit, environment()) if what else {"failed": why})
                print(rows, name, {k: round(v, 2) if isinstance(v, float) else v for k, v in runs[name][-1].items()}, file=sys.stderr)
    if args.only: return
    parts = {(r, t): steps(table(args.cache / "tables", r), t) for r in results if r <= 1_000_000 for t in ("", "churned")}
    text = document(results, parts, load)
    print(text)
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__": main()
