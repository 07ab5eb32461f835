"""What the campaigns share: a project of their own, the processes that belong to it, and what must be true of a run."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

REPO = Path(__file__).resolve().parents[2]
MLWB = Path(sys.executable).with_name("mlwb")
TAG = "MLWB_CAMPAIGN"  # in the environment of every process that a campaign starts, and so of all that those start


def environment(tag: str, tmp: Path) -> dict:
    """One thread a process, temporary files in a folder that can be looked at, and a mark that is inherited."""
    tmp.mkdir(parents=True, exist_ok=True)
    more = {TAG: tag, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp), "TORCHINDUCTOR_CACHE_DIR": str(tmp.with_name("torch"))}
    return {**os.environ, **more, "PYTHONPATH": os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")]))}


def marked(tag: str) -> list[psutil.Process]:
    """The living processes that carry a mark."""
    found = []
    for p in psutil.process_iter():
        try:
            if p.environ().get(TAG) == tag and p.status() != psutil.STATUS_ZOMBIE and p.pid != os.getpid(): found.append(p)
        except psutil.Error: continue  # it has just gone
    return found


def gone(tag: str, patience: float = 10) -> tuple[float, list[str]]:
    """Seconds until nothing with the mark is alive, and what was alive at the end of the patience."""
    start = time.monotonic()
    while (left := marked(tag)) and time.monotonic() - start < patience: time.sleep(.05)
    return time.monotonic() - start, [_line(p) for p in left]


def _line(p):
    try: return f"{p.pid} {' '.join(p.cmdline())[:120]}"
    except psutil.Error: return f"{p.pid}"


def mlwb(*args, cwd: Path, env: dict, timeout: float = 900) -> subprocess.CompletedProcess:
    """The command line, to its end."""
    return subprocess.run([MLWB, *args], cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)


def document(done: subprocess.CompletedProcess) -> dict:
    """The JSON document that a command printed; where there is none, what it said."""
    try: return json.loads(done.stdout)
    except ValueError: return {"status": f"exit code {done.returncode}, no document: {(done.stderr or done.stdout)[-400:]}"}


def copy_project(base: Path, to: Path) -> Path:
    """A fresh copy of a project."""
    return Path(shutil.copytree(base, to, symlinks=True))


# --- what must be true -------------------------------------------------------------------------------------------------

def false_ok(root: Path) -> list[str]:
    """Where a journal says `ok` or `cached` of a stage that has not all that this means."""
    from mlwb.core.workspace import Project
    from mlwb.run.declare import declaration
    from mlwb.run.record import list_runs
    project, found = Project(root), []
    produces = {d.name: set(d.produces) for p in sorted(project.stages.glob("*.ipynb")) if (d := declaration(p))}
    for run in list_runs(project):
        for s in run.record()["stages"]:
            if s["status"] in ("ok", "cached"): found += [f"{run.name} {s['name']} {s['status']}: {what}" for what in _wrong(run, s, produces[s["name"]])]
    return found


def _wrong(run, s, produces):
    from mlwb.run.artifacts import spoiled
    if set(s["outputs"]) != produces: yield f"outputs {sorted(s['outputs'])} instead of {sorted(produces)}"
    if bad := spoiled(run, s["outputs"]): yield f"the files of {bad} are not what was saved"
    if run.stage_record(s["name"]).get("complete") is not True: yield "its own record is not complete"
    if not (path := run.path / s["notebook"]).is_file(): yield "no executed notebook"; return
    meta = json.loads(path.read_text(encoding="utf-8"))["metadata"].get("mlwb", {})
    if not meta.get("done") or any(state != "ok" for state in meta["cells"].values()): yield f"cells of its notebook: {meta}"
    if s["status"] == "ok" and any(c["state"] != "ok" for c in s["cells"]): yield f"cells in the journal: {s['cells']}"


def versions(root: Path) -> int:
    """How many versions MLflow's registry holds of a project's model."""
    from mlflow import MlflowClient
    if not (database := root / "workspace" / "mlflow.db").is_file(): return 0
    return len(MlflowClient(f"sqlite:///{database}", f"sqlite:///{database}").search_model_versions())


def differences(mine: dict, reference: dict) -> list[str]:
    """Outputs of the reference whose digests are others."""
    return sorted(k for k in reference if mine.get(k) != reference[k])


# --- the document ------------------------------------------------------------------------------------------------------

def conditions() -> str:
    """Where figures were measured."""
    import platform
    return f"Python {platform.python_version()}, {os.cpu_count()} cores, one thread a process; load {os.getloadavg()[0]:.1f} at the end."


def write(name: str, text: str):
    """A table in benchmarks/results, and on the screen."""
    print(text)
    out = REPO / "benchmarks" / "results" / name
    out.parent.mkdir(exist_ok=True)
    out.write_text(text, encoding="utf-8")
