"""The runner beside papermill: from one stage to the next, ten trivial notebooks, and a project in which nothing has changed.

    python benchmarks/runner.py [--repeats 3] [--only gap,trivial,unchanged]

- gap: a chain of five stages whose first cell imports pandas, sklearn, mlflow, shap, torch and plotly, and which then compute
  for some seconds, run by `mlwb.run.runner.run_pipeline` in this process. Read from the journal: from the end of a stage to the
  start and to the end of the first cell of the next, and from the last cell of a stage to the end of that first cell, which also
  holds the wrap-up of one stage (notebook saved, trace taken, kernel gone). Beside it: `papermill.execute_notebook` of a notebook
  that has only that first cell, with a cold kernel, in the same process, in turns: the whole call, and from the call to the end
  of the cell. The first stage of a chain has nothing to hide its imports behind, and is given on its own.
- trivial: ten notebooks that print a line, as ten stages in a chain and as ten independent ones, outputs captured (checked),
  by `run_pipeline` in this process and by `mlwb run` with its report; beside ten calls of `papermill.execute_notebook` in this
  process and of papermill's command line on notebooks that have only the print.
- unchanged: `mlwb run` on the flights project after a full run: every stage cached.

Every figure is a median, with the smallest and largest; all of one row come from one run, in turns. The table goes to
benchmarks/results/runner.md.
"""

import argparse
import datetime
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
IMPORTS = "import pandas, sklearn.ensemble, mlflow, shap, torch, plotly.express"
CHAIN = 5
WORK = (2, 6, 10)  # seconds that a stage computes
KERNEL = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}


# --- projects and notebooks --------------------------------------------------------------------------------------------

def notebook(path: Path, cells: list[str]) -> Path:
    """A notebook of code cells."""
    body = [{"cell_type": "code", "execution_count": None, "id": f"c{i}", "metadata": {}, "outputs": [], "source": c} for i, c in enumerate(cells)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"cells": body, "metadata": KERNEL, "nbformat": 4, "nbformat_minor": 5}), encoding="utf-8")
    return path


def stages(root: Path, number: int, first: str, work: str, chained: bool) -> Path:
    """A project of stages that begin with one cell, work, and hand a number on; each the next one's parent where they are chained."""
    for i in range(number):
        needs, take = ([f"x{i - 1}"], f"stage.load('x{i - 1}') + 1") if chained and i else ([], "0")
        notebook(root / "notebooks" / "stages" / f"{i:02}_s{i}.ipynb", [
            first.format(i=i), f"import mlwb\nstage = mlwb.stage('s{i}', needs={needs}, produces=['x{i}'])", work,
            f"stage.save(x{i}={take})\nstage.verdict('done')"])
    (root / "settings.ini").write_text("[workbench]\nname = bench\ntarget = y\nsource = none.csv\n", encoding="utf-8")
    return root


# one thread of plain numpy for so many seconds of wall time
COMPUTE = "import time, numpy as np\nuntil, a = time.monotonic() + {seconds}, np.ones((300, 300))\nwhile time.monotonic() < until: a = a @ a / 300"


# --- measuring ---------------------------------------------------------------------------------------------------------

def timed(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measured(command, cwd) -> tuple[float, float, str]:
    """Wall seconds, CPU seconds with children, and stdout of a command."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode: raise SystemExit(f"{' '.join(map(str, command))} ended with exit code {done.returncode}\n{done.stderr}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def middle(values) -> float: return statistics.median(values)


def spread(values) -> str:
    """Median, smallest and largest."""
    return f"{middle(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def seconds_between(a: str, b: str) -> float:
    return (datetime.datetime.fromisoformat(b) - datetime.datetime.fromisoformat(a)).total_seconds()


def run_in_process(root: Path):
    """The runner in this process; every stage must have been executed."""
    from mlwb.core.workspace import Project
    from mlwb.run.plan import Asked
    from mlwb.run.runner import run_pipeline
    run = run_pipeline(Project(root), Asked(force=True))[0]
    record = run.record()
    if record["status"] != "done" or any(s["status"] != "ok" for s in record["stages"]): raise SystemExit(f"{root}: {record}")
    return run


def by_papermill(source: Path) -> tuple[float, float]:
    """`papermill.execute_notebook` with a cold kernel: seconds of the call, and from the call to the end of the first cell."""
    import papermill
    out = source.with_suffix(".out.ipynb")
    start = datetime.datetime.now(datetime.UTC)
    nb = papermill.execute_notebook(str(source), str(out), progress_bar=False)
    whole = (datetime.datetime.now(datetime.UTC) - start).total_seconds()
    cell = datetime.datetime.fromisoformat(nb.cells[0].metadata["papermill"]["end_time"])
    return whole, (cell.replace(tzinfo=cell.tzinfo or datetime.UTC) - start).total_seconds()


# --- from one stage to the next ----------------------------------------------------------------------------------------

def moments(run) -> dict:
    """stage → when its first cell started and ended, its last cell ended, and the journal said the end of it."""
    found = {}
    for e in run.events():
        if e["event"] == "start": found[e["stage"]] = {"begun": e["at"], "kernel": e["kernel"]}
        if e["event"] == "cell" and e["cell"] == 0: found[e["stage"]][{"running": "first", "ok": "imported"}[e["state"]]] = e["at"]
        if e["event"] == "cell" and e["state"] == "ok": found[e["stage"]]["last"] = e["at"]
        if e["event"] == "end": found[e["stage"]]["end"] = e["at"]
    return found


def gaps(run) -> dict[str, list[float]]:
    """The seconds between the stages of a chain."""
    at = list(moments(run).values())
    pairs = list(zip(at, at[1:]))
    return {"end → first cell begins": [seconds_between(a["end"], b["first"]) for a, b in pairs],
            "end → first cell done": [seconds_between(a["end"], b["imported"]) for a, b in pairs],
            "last cell → first cell done": [seconds_between(a["last"], b["imported"]) for a, b in pairs],
            "first stage: run begins → first cell done": [seconds_between(run.events()[0]["at"], at[0]["imported"])],
            "warm": [b["kernel"] == "warm" for _, b in pairs]}


def gap(folder: Path, repeats: int) -> list[str]:
    cold = notebook(folder / "cold.ipynb", [IMPORTS])
    roots = {w: stages(folder / f"work-{w}", CHAIN, IMPORTS, COMPUTE.format(seconds=w), True) for w in WORK}
    ours, theirs = {w: {} for w in WORK}, ([], [])
    for _ in range(repeats):
        for w in WORK:
            for k, v in gaps(run_in_process(roots[w])).items(): ours[w].setdefault(k, []).extend(v)
            for seen, value in zip(theirs, by_papermill(cold)): seen.append(value)
            print(f"gap: work {w} s: {spread(ours[w]['end → first cell done'])} s, papermill {theirs[0][-1]:.2f} s", file=sys.stderr)
    lines = [f"## From one stage to the next: {IMPORTS}", "",
             f"Chains of {CHAIN} stages, {repeats} runs each; a stage computes for so many seconds after its imports. papermill: {len(theirs[0])} calls.", "",
             "| | wall s | ratio to papermill's call | ratio to papermill's first cell |", "|---|---|---|---|",
             f"| `papermill.execute_notebook`, cold kernel: the call | {spread(theirs[0])} | 1 | |",
             f"| the same, from the call to the end of the first cell | {spread(theirs[1])} | | 1 |"]
    for w in WORK:
        for k in ("end → first cell begins", "end → first cell done", "last cell → first cell done"):
            v = ours[w][k]
            lines.append(f"| a stage works {w} s: {k} | {spread(v)} | {middle(v) / middle(theirs[0]):.3f} | {middle(v) / middle(theirs[1]):.3f} |")
        lines.append(f"| a stage works {w} s: warm kernels | {sum(ours[w]['warm'])} of {len(ours[w]['warm'])} | | |")
    v = [x for w in WORK for x in ours[w]["first stage: run begins → first cell done"]]
    return [*lines, f"| first stage of a chain: run begins → first cell done | {spread(v)} | {middle(v) / middle(theirs[0]):.3f} | "
            f"{middle(v) / middle(theirs[1]):.3f} |", ""]


# --- ten trivial notebooks ---------------------------------------------------------------------------------------------

def said(run_folder: Path) -> list[str]:
    """What the first cells of the executed notebooks have printed."""
    books = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(run_folder.glob("*.ipynb"))]
    return ["".join("".join(o.get("text", "")) for o in b["cells"][0]["outputs"]).strip() for b in books]


def trivial(folder: Path, repeats: int) -> list[str]:
    line = "print('notebook {i} says hello')"
    plain = [notebook(folder / "plain" / f"{i:02}.ipynb", [line.format(i=i)]) for i in range(10)]
    expected = [f"notebook {i} says hello" for i in range(10)]
    found = {}

    def check(folder, name):
        if (got := said(folder)) != expected: raise SystemExit(f"{name}: the outputs are {got}")

    def pipeline(chained, in_process):
        root = stages(folder / "ten", 10, line, "pass", chained)
        seconds = timed(lambda: run_in_process(root)) if in_process else measured([BIN / "mlwb", "run", "--json"], root)[0]
        check(next((root / "workspace" / "runs").iterdir()) / "notebooks", "mlwb")
        shutil.rmtree(root)
        return seconds

    def papermill(in_process):
        out = folder / "out"
        out.mkdir(exist_ok=True)
        if in_process:
            from papermill import execute_notebook
            seconds = timed(lambda: [execute_notebook(str(p), str(out / p.name), progress_bar=False) for p in plain])
        else: seconds = sum(measured([BIN / "papermill", "--no-progress-bar", p, out / p.name], folder)[0] for p in plain)
        check(out, "papermill")
        return seconds
    ways = {"in process: ten `papermill.execute_notebook`": lambda: papermill(True),
            "in process: `run_pipeline`, ten stages in a chain": lambda: pipeline(True, True),
            "in process: `run_pipeline`, ten independent stages": lambda: pipeline(False, True),
            "command line: ten `papermill`": lambda: papermill(False),
            "command line: `mlwb run`, ten stages in a chain, with its report": lambda: pipeline(True, False),
            "command line: `mlwb run`, ten independent stages, with its report": lambda: pipeline(False, False)}
    for _ in range(repeats):
        for name, way in ways.items():
            found.setdefault(name, []).append(way())
            print(f"trivial: {name}: {found[name][-1]:.2f} s", file=sys.stderr)
    base = {"in process": list(ways)[0], "command line": list(ways)[3]}
    lines = ["## Ten trivial notebooks", "", f"Medians of {repeats}; each prints a line, which was found in the executed notebook.", "",
             "| | wall s | ratio |", "|---|---|---|"]
    return [*lines, *(f"| {k} | {spread(v)} | {middle(v) / middle(found[base[k.partition(':')[0]]]):.3f} |" for k, v in found.items()), ""]


# --- nothing has changed -----------------------------------------------------------------------------------------------

def unchanged(folder: Path, repeats: int) -> list[str]:
    root = folder / "flights"
    root.mkdir()
    for name in ("settings.ini", "acquisition.yaml"): shutil.copy(REPO / name, root / name)
    shutil.copytree(REPO / "notebooks" / "stages", root / "notebooks" / "stages")
    full, walls, cpus = measured([BIN / "mlwb", "run", "--json"], root), [], []
    for _ in range(2 * repeats + 1):
        wall, cpu, text = measured([BIN / "mlwb", "run", "--json"], root)
        document = json.loads(text)
        if {s["status"] for s in document["stages"]} != {"cached"} or not all(s["reason"] for s in document["stages"]): raise SystemExit(text)
        walls.append(wall), cpus.append(cpu)
        print(f"unchanged: {wall:.2f} s, {cpu:.2f} CPU s", file=sys.stderr)
    return ["## Nothing has changed: `mlwb run` on the flights project", "",
            f"{len(walls)} runs after a full one, each with its report; every stage was `cached`, with a reason.", "",
            "| | wall s | CPU s |", "|---|---|---|", f"| the full run before | {full[0]:.1f} | {full[1]:.1f} |",
            f"| nothing changed | {spread(walls)} | {spread(cpus)} |", ""]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="gap,trivial,unchanged")
    args = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true")
    parts = {"gap": gap, "trivial": trivial, "unchanged": unchanged}
    before, text = os.getloadavg()[0], []
    with tempfile.TemporaryDirectory(prefix="runner-") as tmp:
        for name in args.only.split(","): text += parts[name](Path(tmp), args.repeats)
    head = ["# The runner, beside papermill", "", "Made by `python benchmarks/runner.py`; what is measured stands at the head of that file.",
            f"Python {platform.python_version()}, {os.cpu_count()} cores, one thread a process; median (smallest–largest); "
            f"load {before:.1f} before, {os.getloadavg()[0]:.1f} at the end.", ""]
    text = "\n".join([*head, *text])
    print(text)
    if args.only == "gap,trivial,unchanged":
        out = REPO / "benchmarks" / "results" / "runner.md"
        out.parent.mkdir(exist_ok=True)
        out.write_text(text, encoding="utf-8")


if __name__ == "__main__": main()
