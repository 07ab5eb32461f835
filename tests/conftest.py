"""What every test may use, and the promise that continuous integration skips nothing it should have run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")
MARK_OF_FIXTURE = {"data_dir": "data", "chromium": "browser", "browser": "browser"}
MUST_RUN_IN_CI = ("data", "browser")


# --- the environment ---------------------------------------------------------------------------------------------------

def pytest_configure(config):
    """Nothing of the developer's own setup reaches a test, and no test writes into the home directory."""
    for name in list(os.environ):
        if name.startswith(("MLWB_", "MLFLOW_", "PAPERMILL_")) and name != "MLWB_TEST_DATA": del os.environ[name]
    os.environ.update(OMP_NUM_THREADS="1", PYTHONUTF8="1", MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true")


@pytest.fixture(scope="session", autouse=True)
def _own_folders(tmp_path_factory):
    """Folders that Jupyter, IPython and matplotlib write to, elsewhere than in the home directory."""
    home = tmp_path_factory.mktemp("home")
    names = {"IPYTHONDIR": "ipython", "JUPYTER_CONFIG_DIR": "jupyter", "JUPYTER_DATA_DIR": "jupyter-data",
             "JUPYTER_RUNTIME_DIR": "jupyter-runtime", "MPLCONFIGDIR": "matplotlib"}
    old = {k: os.environ.get(k) for k in names}
    os.environ.update({k: str(home / v) for k, v in names.items()})
    yield
    for k, v in old.items():
        if v is None: os.environ.pop(k, None)
        else: os.environ[k] = v


# --- a skip that continuous integration does not accept ----------------------------------------------------------------

def pytest_collection_modifyitems(items):
    """A test that asks for the real data or for a browser is marked so by that."""
    for item in items:
        for name in item.fixturenames:
            if name in MARK_OF_FIXTURE: item.add_marker(MARK_OF_FIXTURE[name])


def _reason(report):
    return report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """With CI=true, a skip of a test marked `data` or `browser` is a failure."""
    outcome = yield
    report = outcome.get_result()
    if CI and report.skipped and not hasattr(report, "wasxfail") and any(item.get_closest_marker(m) for m in MUST_RUN_IN_CI):
        report.outcome, report.longrepr = "failed", f"{item.nodeid} must run where CI=true. {_reason(report)}"


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report():
    """With CI=true, a module that skips itself as a whole (importorskip) is a failure as well."""
    outcome = yield
    report = outcome.get_result()
    if CI and report.skipped:
        report.outcome, report.longrepr = "failed", f"{report.nodeid} must run where CI=true. {_reason(report)}"


# --- what tests work on ------------------------------------------------------------------------------------------------

@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of the real data sets, or a skip."""
    place = os.environ.get("MLWB_TEST_DATA", "")
    if not place: pytest.skip("MLWB_TEST_DATA does not name the folder of the real data sets")
    path = Path(place)
    if not (path / "adult.parquet").is_file(): pytest.skip(f"MLWB_TEST_DATA={place} holds no adult.parquet")
    return path.resolve()


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of the system's Chromium, or a skip."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name): return path
    pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")


@pytest.fixture(scope="session")
def browser(chromium):
    """A headless Chromium, driven by Playwright."""
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as p:
        b = p.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield b
        b.close()


class Outcome(subprocess.CompletedProcess):
    """How a command ended; `.json` reads its one document on stdout."""

    @property
    def json(self): return json.loads(self.stdout)


def run_cli(*args, cwd=None, env=None, timeout=500) -> Outcome:
    """Run the `mlwb` command of this environment; an exit code is for the test to judge."""
    done = subprocess.run([Path(sys.executable).with_name("mlwb"), *map(str, args)], cwd=cwd, env={**os.environ, **(env or {})},
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, encoding="utf-8", timeout=timeout)
    return Outcome(done.args, done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def cli():
    """`cli("run", "--json", cwd=…)`: the command line, with `.returncode`, `.stdout`, `.stderr`, `.json`."""
    return run_cli


@pytest.fixture(scope="session")
def make_project(tmp_path_factory):
    """`make_project(data, target, time="", name="project")`: a fresh project by `mlwb init` around a file or a pandas/polars frame."""
    def make(data, target, time="", name="project", **options) -> Path:
        folder = tmp_path_factory.mktemp(name)
        if hasattr(data, "to_parquet"): data.to_parquet(folder / "data.parquet"); data = folder / "data.parquet"
        elif hasattr(data, "write_parquet"): data.write_parquet(folder / "data.parquet"); data = folder / "data.parquet"
        extra = [x for k, v in {"time": time, **options}.items() if v for x in (f"--{k}", v)]
        done = run_cli("init", folder / name, "--data", data, "--target", target, *extra)
        assert done.returncode == 0, done.stderr
        return folder / name
    return make


@pytest.fixture
def project_dir(make_project) -> Path:
    """A fresh, small project of its own: 600 rows, a number, a category with gaps, a yes/no target that depends on both."""
    import numpy as np
    import pandas as pd
    rng = np.random.default_rng(0)
    size, region = rng.normal(size=600), rng.choice(["north", "south", "서울", None], size=600)
    risk = 1 / (1 + np.exp(-(1.5 * size + (region == "south"))))
    bought = np.where(rng.random(600) < risk, "yes", "no")
    return make_project(pd.DataFrame({"size": size.round(3), "region": region, "bought": bought}), "bought")
