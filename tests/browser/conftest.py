"""A Chromium that makes no request of its own, and a JupyterLab to drive."""

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from pages import soon


@pytest.fixture
def open_page(browser):
    """`open_page(path_or_url, width=1440, scheme="light", scripts=True)`: a page that records requests, errors and dialogs."""
    contexts = []

    def go(target, width=1440, height=900, scheme="light", scripts=True, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, java_script_enabled=scripts, **options)
        contexts.append(context)
        page = context.new_page()
        page.requests, page.errors, page.dialogs = [], [], []
        page.on("request", lambda r: page.requests.append(r.url))
        page.on("pageerror", lambda e: page.errors.append(str(e)))
        page.on("console", lambda m: page.errors.append(m.text) if m.type == "error" else None)
        page.on("dialog", lambda d: (page.dialogs.append(d.message), d.dismiss()))
        page.goto(target if "://" in str(target) else f"file://{target}")
        return page
    yield go
    for c in contexts: c.close()


class Lab:
    """A running JupyterLab."""

    def __init__(self, folder, runtime, port, token): self.folder, self.runtime, self.port, self.token = folder, runtime, port, token
    def url(self, notebook): return f"http://127.0.0.1:{self.port}/lab/tree/{notebook}?token={self.token}&reset"

    def api(self, path):
        """A document of Jupyter's REST API."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/{path}?token={self.token}", timeout=10) as r: return json.load(r)

    def kernel(self, notebook):
        """A client of the kernel that a notebook runs on: `kernel.value("expression")`."""
        from jupyter_client import BlockingKernelClient
        session = next(s for s in self.api("sessions") if s["path"] == notebook)
        files = list(self.runtime.rglob(f"kernel-{session['kernel']['id']}.json"))
        client = BlockingKernelClient(connection_file=str(files[0]))
        client.load_connection_file(); client.start_channels(); client.wait_for_ready(timeout=60)

        def value(expression):
            reply = client.execute_interactive("", user_expressions={"x": expression}, timeout=30, silent=True)["content"]["user_expressions"]["x"]
            assert reply["status"] == "ok", reply
            return json.loads(eval(reply["data"]["text/plain"]))  # noqa: S307 (our own kernel's repr of a JSON string)
        client.value = lambda expression: value(f"__import__('json').dumps({expression})")
        return client


@contextlib.contextmanager
def running_lab(home, folder, *command):
    """JupyterLab over a folder, on a free port, with settings of its own under `home`."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
    token = secrets.token_hex(16)
    env = {**os.environ, "JUPYTER_CONFIG_DIR": str(home / "config"), "JUPYTER_DATA_DIR": str(home / "data"), "IPYTHONDIR": str(home / "ipython"),
           "JUPYTER_RUNTIME_DIR": str(home / "runtime"), "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "JUPYTER_PLATFORM_DIRS": "0",
           "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"), "OMP_NUM_THREADS": "1"}
    env.pop("MLWB_RUN", None)
    tracker = home / "settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    tracker.parent.mkdir(parents=True)
    tracker.write_text('{"windowingMode": "none"}')  # cells that are scrolled away stay in the page
    log = (home / "lab.log").open("w")
    process = subprocess.Popen([*command, "--no-browser", f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--ip=127.0.0.1",
                                f"--IdentityProvider.token={token}", "--ServerApp.allow_root=True", "--LabApp.news_url=",
                                "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"], env=env, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    lab = Lab(folder, home / "runtime", port, token)
    try:
        for _ in range(240):
            try: lab.api("status"); break
            except OSError:
                assert process.poll() is None, (home / "lab.log").read_text()
                time.sleep(.5)
        else: raise AssertionError("JupyterLab did not start:\n" + (home / "lab.log").read_text())
        yield lab
    finally:
        process.terminate()
        try: process.wait(20)
        except subprocess.TimeoutExpired: process.kill()


@pytest.fixture(scope="session")
def lab(tmp_path_factory, chromium):
    """JupyterLab over an empty folder."""
    home = tmp_path_factory.mktemp("lab")
    (home / "work").mkdir()
    with running_lab(home, home / "work", sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={home / 'work'}") as lab: yield lab


@pytest.fixture(scope="session")
def run_in_lab(lab, browser):
    """`run_in_lab("name.ipynb", cells)`: a notebook run in JupyterLab by its own menu; the page, and a client of its kernel."""
    import nbformat

    @contextlib.contextmanager
    def go(name, cells):
        nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c.strip()) for c in cells],
                                      metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}})
        nbformat.write(nb, lab.folder / name)
        context = browser.new_context(viewport={"width": 1440, "height": 1000})
        page = context.new_page()
        page.errors = []
        page.on("pageerror", lambda e: page.errors.append(str(e)))
        page.goto(lab.url(name))
        page.locator(".jp-Notebook").wait_for(timeout=120_000)
        mine = lambda: [s["kernel"] for s in lab.api("sessions") if s["path"].endswith(name)]
        soon(lambda: [k["execution_state"] == "idle" and k["connections"] > 0 for k in mine()], [True], 120)
        page.locator("#jp-main-statusbar").get_by_text("| Idle").wait_for(timeout=60_000)
        page.get_by_text("Run", exact=True).first.click()
        page.locator("[data-command='runmenu:run-all']").click()
        for i in range(len(cells)):
            page.locator(".jp-Cell").nth(i).scroll_into_view_if_needed()
            page.locator(".jp-Cell").nth(i).locator(".jp-OutputArea-output mlwb-view .view.live").first.wait_for(timeout=180_000)
        kernel = lab.kernel(name)
        yield page, kernel
        kernel.stop_channels(); context.close()
    return go


@pytest.fixture(scope="session")
def project_lab(tmp_path_factory, chromium, make_project):
    """`mlwb lab` in a fresh project around a small table."""
    import numpy as np
    import pandas as pd
    rng = np.random.default_rng(0)
    size = rng.normal(size=600)
    root = make_project(pd.DataFrame({"size": size.round(3), "bought": np.where(size + rng.normal(size=600) > 0, "yes", "no")}), "bought", name="lab")
    with running_lab(tmp_path_factory.mktemp("lab"), root, Path(sys.executable).with_name("mlwb"), "lab") as lab: yield lab
