"""What every test may use, and the promise that continuous integration skips nothing it should have run."""

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

REPO = Path(__file__).resolve().parent.parent
CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
MARK_OF_FIXTURE = {"data_dir": "data", "chromium": "browser", "browser": "browser", "postgres": "postgres"}


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
    """A test that asks for the real data, a browser or a database server is marked so by that."""
    for item in items:
        for name in item.fixturenames:
            if name in MARK_OF_FIXTURE: item.add_marker(MARK_OF_FIXTURE[name])


def _reason(report):
    return report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """With CI=true, a skip is a failure, whatever its reason: what tests need is installed there. So is an expected failure."""
    outcome = yield
    report = outcome.get_result()
    if CI and report.skipped:
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
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=chromium, args=FLAGS)
        yield b
        b.close()


def _postgres_binaries():
    """The folder of `initdb` and `postgres`; Debian has it outside of PATH."""
    found = [shutil.which("initdb"), *sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: float(p.parts[4]), reverse=True)]
    return next((Path(p).parent for p in found if p), None)


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL server of the tests' own, or a skip: `.source` as a source names it, `.password`, `.run(statement, …)`."""
    if not (bin := _postgres_binaries()): pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    import psycopg
    folder, who = Path(tempfile.mkdtemp(prefix="mlwb-pg-")), {}  # a short path: a socket's name is at most 107 bytes long
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        user = pwd.getpwnam("nobody")
        who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        os.chown(folder, user.pw_uid, user.pw_gid)
    password = 'Gehei"m/w@rt#1%25ß'
    (folder / "password").write_text(password, encoding="utf-8")
    (folder / "password").chmod(0o644)
    make = [bin / "initdb", "-D", folder / "data", "-U", "ada", "--auth=scram-sha-256", f"--pwfile={folder / 'password'}", "-E", "UTF8", "--locale=C", "-N"]
    done = subprocess.run(make, cwd=folder, capture_output=True, text=True, **who)
    assert done.returncode == 0, done.stderr
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with open(folder / "log", "wb") as log:
        command = [bin / "postgres", "-D", folder / "data", "-p", str(port), "-k", folder, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, **who)

    def run(*statements):
        with psycopg.connect(host="127.0.0.1", port=port, user="ada", password=password, dbname="postgres", autocommit=True) as c:
            for s in statements: c.execute(s)

    try:
        until = time.monotonic() + 60
        while True:
            try: run("SELECT 1"); break
            except psycopg.OperationalError:
                assert server.poll() is None and time.monotonic() < until, (folder / "log").read_text()
                time.sleep(.1)
        os.environ["TEST_PG_PASSWORD"] = password
        yield SimpleNamespace(source=f"postgresql://ada:env:TEST_PG_PASSWORD@127.0.0.1:{port}/postgres", password=password, run=run, port=port, folder=folder)
    finally:
        os.environ.pop("TEST_PG_PASSWORD", None)
        server.send_signal(signal.SIGINT)  # its fast shutdown
        server.wait(60)
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def _s3_server():
    import s3fs  # noqa: F401 (in CI its lack is an error, not a skip)
    from moto.server import ThreadedMotoServer
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3(_s3_server, monkeypatch, tmp_path):
    """An S3 server of this test's own with the bucket `shop`: boto3's client; the environment says where it is, and who we are."""
    import boto3
    for name in [n for n in os.environ if n.startswith(("AWS_", "FSSPEC_"))]: monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"): monkeypatch.setenv(name, str(tmp_path / "none"))
    for name, value in {"ENDPOINT_URL": _s3_server, "ACCESS_KEY_ID": "testing", "SECRET_ACCESS_KEY": "testing", "DEFAULT_REGION": "us-east-1",
                        "EC2_METADATA_DISABLED": "true"}.items(): monkeypatch.setenv(f"AWS_{name}", value)
    urllib.request.urlopen(urllib.request.Request(f"{_s3_server}/moto-api/reset", method="POST")).close()
    client = boto3.client("s3")
    client.create_bucket(Bucket="shop")
    return client


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
