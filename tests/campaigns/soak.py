"""Three hundred stages in warm kernels, two side by side, with the libraries that suffer most from a careless fork.

    python tests/campaigns/soak.py [--runs 30] [--seed 0]

A project of two chains of five stages each: torch training, numba, gradient boosting with loky's workers beside it, shap, MLflow;
polars, deltalake, DuckDB, pandas with pyarrow and plotly, scikit-learn and scipy. Each does real small work, asserts its own result
and saves it. All runs are made by one process, every stage executed anew; the kernels stand by with their packages loaded. At the
end every stage must have been `ok`, with the same digest in every run, with no process and no temporary file left, and with a runner
that has not grown. DuckDB is no dependency of mlwb: where it is not installed, its stage is left out, and said so. `make soak` takes
about ten minutes.
"""

import argparse
import functools
import gc
import importlib.util
import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
from harness import TAG, conditions, gone, write

# name → (packages, work that leaves plain values in `result`)
STAGES = {
    "torch": ("import numpy as np, torch", """
torch.manual_seed(0)
X = torch.linspace(-2, 2, 512).reshape(-1, 1)
y = torch.sin(2 * X)
net = torch.nn.Sequential(torch.nn.Linear(1, 32), torch.nn.Tanh(), torch.nn.Linear(32, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
adam = torch.optim.Adam(net.parameters(), lr=.01)
for _ in range(200):
    loss = ((net(X) - y) ** 2).mean()
    adam.zero_grad(); loss.backward(); adam.step()
result = {"loss": round(float(loss), 6), "threads": torch.get_num_threads()}
assert result["loss"] < .02, result"""),
    "numba": ("import numba, numpy as np", """
@numba.njit
def primes(n):
    sieve = np.ones(n, dtype=np.bool_)
    for i in range(2, int(n ** .5) + 1):
        if sieve[i]:
            for j in range(i * i, n, i): sieve[j] = False
    return sieve[2:].sum()
@numba.njit(parallel=True)
def total(x):
    s = 0.
    for i in numba.prange(len(x)): s += x[i]
    return s
result = {"primes": int(primes(1_000_000)), "total": float(total(np.ones(100_000)))}
assert result == {"primes": 78498, "total": 100_000.}, result"""),
    "hgb": ("import numpy as np\nfrom sklearn.datasets import make_classification\nfrom sklearn.ensemble import HistGradientBoostingClassifier\n"
            "from sklearn.model_selection import cross_val_score", """
X, y = make_classification(4000, 12, n_informative=6, random_state=0)
model = HistGradientBoostingClassifier(max_iter=40, random_state=0)
scores = cross_val_score(model, X, y, cv=2, scoring="roc_auc", n_jobs=2)   # loky: processes of the kernel
result = {"auc": [round(float(s), 9) for s in scores], "fit": round(float(model.fit(X, y).predict_proba(X)[:, 1].sum()), 6)}
assert min(result["auc"]) > .9, result"""),
    "shap": ("import numpy as np, shap\nfrom sklearn.ensemble import RandomForestRegressor", """
rng = np.random.default_rng(0)
X = rng.normal(size=(300, 5))
y = 3 * X[:, 0] - 2 * X[:, 1] + rng.normal(size=300) / 10
forest = RandomForestRegressor(20, max_depth=4, random_state=0).fit(X, y)
explainer = shap.TreeExplainer(forest)
values = explainer.shap_values(X[:100])
assert np.allclose(values.sum(1) + explainer.expected_value, forest.predict(X[:100]))
weight = np.abs(values).mean(0)
assert list(np.argsort(-weight)[:2]) == [0, 1], weight
result = {"weight": [round(float(w), 9) for w in weight]}"""),
    "mlflow": ("import mlflow\nfrom mlwb.core.tracking import client, experiment", """
c = client(stage.project)
run = c.create_run(experiment(stage.project, c)).info.run_id
c.log_batch(run, metrics=[mlflow.entities.Metric("m", i / 7, 0, i) for i in range(50)], params=[mlflow.entities.Param("p", "x" * 20)])
c.set_terminated(run)
history = c.get_metric_history(run, "m")
found = c.get_run(run)
assert len(history) == 50 and found.info.status == "FINISHED" and found.data.params == {"p": "x" * 20}
result = {"last": found.data.metrics["m"], "sum": round(sum(h.value for h in history), 9)}"""),
    "polars": ("import numpy as np, polars as pl", """
rng = np.random.default_rng(0)
df = pl.DataFrame({"g": rng.integers(0, 100, 300_000), "x": rng.integers(0, 1000, 300_000)})
by = df.lazy().filter(pl.col("x") > 10).group_by("g").agg(pl.col("x").sum(), pl.len()).sort("g").collect()
joined = df.join(by, on="g", suffix="_by")
result = {"groups": len(by), "sum": int(by["x"].sum()), "rows": len(joined), "quantile": float(df["x"].quantile(.9))}
assert result["groups"] == 100 and result["rows"] == 300_000, result"""),
    "deltalake": ("import deltalake, pyarrow as pa, tempfile", """
with tempfile.TemporaryDirectory() as folder:
    for i in range(3): deltalake.write_deltalake(folder, pa.table({"a": list(range(i * 1000, (i + 1) * 1000)), "b": ["x"] * 1000}), mode="append")
    table = deltalake.DeltaTable(folder)
    rows = table.to_pyarrow_table()
    result = {"version": table.version(), "rows": rows.num_rows, "sum": sum(rows["a"].to_pylist())}
    assert deltalake.DeltaTable(folder, version=0).to_pyarrow_table().num_rows == 1000
assert result == {"version": 2, "rows": 3000, "sum": 4_498_500}, result"""),
    "duckdb": ("import duckdb, pandas as pd", """
frame = pd.DataFrame({"k": [i % 7 for i in range(70_000)], "v": range(70_000)})
with duckdb.connect() as con:
    con.execute("set threads to 2")
    rows = con.execute("select k, sum(v)::bigint s, count(*) n from frame group by k order by k").fetchall()
result = {"rows": [[int(x) for x in r] for r in rows]}
assert len(rows) == 7 and sum(r[1] for r in rows) == 70_000 * 69_999 // 2, rows"""),
    "frames": ("import pandas as pd, plotly.express as px, pyarrow.parquet as pq, tempfile, pathlib", """
df = pd.DataFrame({"day": pd.date_range("2024-01-01", periods=50_000, freq="h"), "x": range(50_000), "c": ["abc", "가나다"] * 25_000})
with tempfile.TemporaryDirectory() as folder:
    df.to_parquet(pathlib.Path(folder) / "a.parquet")
    back = pq.read_table(pathlib.Path(folder) / "a.parquet").to_pandas()
assert back.equals(df)
month = back.groupby(back.day.dt.to_period("M")).x.sum()
figure = px.line(x=[str(m) for m in month.index], y=month.values)
result = {"months": len(month), "sum": int(month.sum()), "traces": len(figure.data), "json": len(figure.to_json()) > 1000}
assert result["sum"] == 50_000 * 49_999 // 2, result"""),
    "fits": ("import numpy as np, scipy.stats\nfrom sklearn.linear_model import LogisticRegression\nfrom sklearn.pipeline import make_pipeline\n"
             "from sklearn.preprocessing import StandardScaler\nfrom sklearn.decomposition import PCA", """
rng = np.random.default_rng(0)
X = rng.normal(size=(3000, 20))
y = (X[:, 0] + X[:, 1] > 0).astype(int)
model = make_pipeline(StandardScaler(), PCA(20, random_state=0), LogisticRegression(max_iter=300)).fit(X, y)
test = scipy.stats.ks_2samp(X[:, 0], X[:, 0] + .2)
result = {"score": float(model.score(X, y)), "p": round(float(test.pvalue), 12)}
assert result["score"] > .97 and result["p"] < 1e-6, result"""),
}
CHAINS = (("torch", "hgb", "deltalake", "mlflow", "fits"), ("shap", "polars", "numba", "duckdb", "frames"))


def project(root: Path) -> tuple[Path, list[str]]:
    """Two chains of stages, and the stages that are left out."""
    missing = [] if importlib.util.find_spec("duckdb") else ["duckdb"]
    for number, chain in enumerate(CHAINS):
        before = None
        for i, name in enumerate(n for n in chain if n not in missing):
            needs = [before] if before else []
            imports, work = STAGES[name]
            cells = [imports, f"import mlwb\nstage = mlwb.stage('{name}', needs={needs}, produces=['{name}_result'])",
                     *([f"assert stage.load('{before}')"] if before else []), work.strip(), "print(result)",
                     f"stage.save({name}_result=result)\nstage.verdict('done', metrics={{}})"]
            body = [{"cell_type": "code", "execution_count": None, "id": f"c{k}", "metadata": {}, "outputs": [], "source": c} for k, c in enumerate(cells)]
            path = root / "notebooks" / "stages" / f"{number}{i}_{name}.ipynb"
            path.parent.mkdir(parents=True, exist_ok=True)
            kernel = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
            path.write_text(json.dumps({"cells": body, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}), encoding="utf-8")
            before = f"{name}_result"
    (root / "settings.ini").write_text("[workbench]\nname = soak\ntarget = y\nsource = none.csv\n", encoding="utf-8")
    return root, missing


def memory() -> float: return psutil.Process().memory_info().rss / 1e6


def runs(root: Path, number: int) -> tuple[list, list, list]:
    """The records of all runs, the runner's memory after each, its open files after each."""
    from mlwb.core.workspace import Project
    from mlwb.run import runner
    from mlwb.run.plan import Asked
    # two stages keep two processors busy, so that nobody would stand by: let the house believe in four
    runner.Kernels = functools.partial(runner.Kernels, cores=4)
    records, sizes, files = [], [], []
    for i in range(number):
        start = time.monotonic()
        run = runner.run_pipeline(Project(root), Asked(force=True, workers=2))[0]
        records.append(run.record())
        for old in sorted((root / "workspace" / "runs").iterdir())[:-2]: shutil.rmtree(old)  # else what a runner remembers of them would seem a leak
        gc.collect()
        sizes.append(memory()), files.append(psutil.Process().num_fds())
        states = Counter((s["status"], s["kernel"]) for s in records[-1]["stages"])
        print(f"{i + 1}: {records[-1]['status']} in {time.monotonic() - start:.1f} s, {dict(states)}, runner {sizes[-1]:.0f} MB, {files[-1]} files",
              file=sys.stderr, flush=True)
        for s in records[-1]["stages"]:
            if s["status"] != "ok": print(f"  {s['name']} {s['status']}: {json.dumps(s['error'])[:1500]}", file=sys.stderr)
    return records, sizes, files


def judge(records, sizes, files, left, temporary) -> tuple[list[str], list[str]]:
    """The summary and what is wrong."""
    stages = [s for r in records for s in r["stages"]]
    bad = [f"{r['run']} {s['name']}: {s['status']}, {(s['error'] or {}).get('message', '')[:300]}" for r in records for s in r["stages"] if s["status"] != "ok"]
    again = [f"{r['run']} {s['name']}: tried {s['attempt']} times" for r in records for s in r["stages"] if s["attempt"] > 1]
    digests = {}
    for s in stages:
        for n, e in s["outputs"].items(): digests.setdefault(n, set()).add(e["digest"])
    wrong = bad + again + [f"{n} has {len(d)} different digests" for n, d in digests.items() if len(d) != 1]
    growth = statistics.median(sizes[-5:]) - statistics.median(sizes[3:8]) if len(sizes) >= 12 else 0.
    if growth > 40: wrong.append(f"the runner has grown by {growth:.0f} MB")
    if len(files) > 3 and max(files[3:]) > files[2] + 4: wrong.append(f"the runner's open files grew from {files[2]} to {max(files)}")
    wrong += [f"left: {p}" for p in left] + [f"left in the temporary folder: {t}" for t in temporary]
    kernels = Counter(s["kernel"] for s in stages)
    same = sum(len(d) == 1 for d in digests.values())
    summary = [f"{len(stages)} stages in {len(records)} runs: {sum(s['status'] == 'ok' for s in stages)} ok, {kernels['warm']} in warm kernels, "
               f"{kernels['cold']} in cold ones; {same} of {len(digests)} results with one digest in all runs; the runner has {sizes[0]:.0f} MB after the "
               f"first run and {sizes[-1]:.0f} after the last ({growth:+.0f} MB in steady state), {files[-1]} open files; processes left {len(left)}, "
               f"temporary files left {len(temporary)}."]
    return summary, wrong


def table(records, summary, wrong, missing, seconds) -> str:
    lines = ["# A soak of the runner", "", "Made by `make soak`; what is done stands at the head of tests/campaigns/soak.py.", conditions(), "",
             *summary, f"It took {seconds:.0f} s.", *([f"Not installed here, so left out: {', '.join(missing)}."] if missing else []), "",
             "| stage | runs | ok | wall s | CPU s | memory MB |", "|---|---|---|---|---|---|"]
    for name in [n for c in CHAINS for n in c]:
        mine = [s for r in records for s in r["stages"] if s["name"] == name]
        fine = [s for s in mine if s["status"] == "ok"]
        if fine: lines.append(f"| {name} | {len(mine)} | {len(fine)} | " + " | ".join(
            f"{statistics.median(s[k] for s in fine) / by:.{d}f}" for k, by, d in (("seconds", 1, 2), ("cpu", 1, 2), ("memory", 1e6, 0))) + " |")
    return "\n".join([*lines, *(["", "## What is wrong", ""] if wrong else []), *(f"- {w}" for w in wrong)]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=30)
    args = parser.parse_args()
    place, start = Path(tempfile.mkdtemp(prefix="soak-")), time.monotonic()
    (place / "t").mkdir()
    os.environ.update({TAG: place.name, "TMPDIR": str(place / "t"), "TORCHINDUCTOR_CACHE_DIR": str(place / "torch"), "OMP_NUM_THREADS": "1",
                       "MLFLOW_DISABLE_TELEMETRY": "true"})
    tempfile.tempdir = None
    root, missing = project(place / "p")
    if missing: print(f"left out, for it is not installed: {', '.join(missing)}", file=sys.stderr)
    records, sizes, files = runs(root, args.runs)
    left, temporary = gone(place.name, 5)[1], sorted(p.name for p in (place / "t").iterdir())
    summary, wrong = judge(records, sizes, files, left, temporary)
    text = table(records, summary, wrong, missing, time.monotonic() - start)
    write("soak.md", text) if args.runs >= 30 else print(text)
    print(f"runner's own CPU: {sum(resource.getrusage(resource.RUSAGE_SELF)[:2]):.0f} s", file=sys.stderr)
    if not wrong: shutil.rmtree(place)
    else: print(f"kept: {place}", file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__": main()
