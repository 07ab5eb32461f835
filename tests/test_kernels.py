"""Kernels and the nursery: nobody outlives the runner, a dead helper costs time and no result, and a kernel is its stage's alone."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from mlwb.core.workspace import Project
from mlwb.run import runner
from mlwb.run.execute import kernel_env
from mlwb.run.kernels import Kernels, Nursery
from mlwb.run.plan import Asked
from mlwb.run.runner import Quiet, run_pipeline

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="kernels are forked on Linux")
SLEEPER = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); print(p.pid)"


# --- helpers -----------------------------------------------------------------------------------------------------------

def ask(kernel, code: str) -> str:
    """What a kernel prints when it runs code."""
    async def talk():
        client, said = kernel.client(), []
        client.start_channels()
        try:
            await client.wait_for_ready(timeout=60)
            hear = lambda m: said.append(m["content"].get("text", "")) if m["msg_type"] == "stream" else None
            reply = await client.execute_interactive(code, output_hook=hear, timeout=60)
        finally: client.stop_channels()
        assert reply["content"]["status"] == "ok", reply["content"]
        return "".join(said).strip()
    with ThreadPoolExecutor(1) as thread: return thread.submit(asyncio.run, talk()).result()  # a browser of other tests may hold a loop in this one


def alive(pid: int) -> bool:
    try: return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess: return False


def all_gone(pids, patience=15) -> list[int]:
    """Those still alive when the patience is at its end."""
    end = time.monotonic() + patience
    while (left := [p for p in pids if alive(p)]) and time.monotonic() < end: time.sleep(.05)
    return left


class House(Kernels):
    """Kernels that don't know they are tested (ipykernel leaves a file descriptor alone where pytest is named in the environment), all closed at the end."""
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.env.pop("PYTEST_CURRENT_TEST", None)
        self.started = []

    def start(self, preload=()):
        self.started.append(super().start(preload))
        return self.started[-1]

    def close(self):
        for kernel in self.started: kernel.close()
        super().close()


def nurseries() -> list[int]:
    """The living nurseries of this process."""
    return [p.pid for p in psutil.Process().children() if alive(p.pid) and "nursery.serve" in " ".join(p.cmdline())]


@pytest.fixture(params=["forked", "alone"])
def kernels(request, tmp_path):
    """A house of kernels, in each of its two ways."""
    if request.param == "forked" and not sys.platform.startswith("linux"): pytest.skip("kernels are forked on Linux")
    house = House(kernel_env(), tmp_path)
    if request.param == "alone": house.odd = "a test wants it so"
    yield house
    house.close()


@pytest.fixture
def project(tmp_path):
    """`project(stage=[cells], …)`: a project of such stages, each needing what the one before has saved."""
    def make(**stages) -> Project:
        before = None
        for name, cells in stages.items():
            needs = [before] if before else []
            head = f"import mlwb\nstage = mlwb.stage({name!r}, needs={needs}, produces=[{'x_' + name!r}])"
            nb = new_notebook(cells=[new_code_cell(c) for c in [head, *cells, f"stage.save(x_{name}=1)\nstage.verdict('done')"]])
            nb.metadata["kernelspec"] = {"name": "python3", "display_name": "python3", "language": "python"}
            path = tmp_path / "p" / "notebooks" / "stages" / f"{name}.ipynb"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(nb), encoding="utf-8")
            before = f"x_{name}"
        (tmp_path / "p" / "settings.ini").write_text("[workbench]\nname = p\ntarget = y\nsource = none.csv\n", encoding="utf-8")
        return Project(tmp_path / "p")
    return make


def outputs(run, stage: str) -> str:
    """Everything that a stage has printed, by its executed notebook."""
    nb = json.loads((run.notebooks / f"{stage}.ipynb").read_text(encoding="utf-8"))
    return "".join("".join(o.get("text", "")) for c in nb["cells"] for o in c.get("outputs", []))


# --- a kernel ----------------------------------------------------------------------------------------------------------

class TestKernel:
    def test_is_in_the_stages_folder_with_the_environment_of_a_run(self, kernels, tmp_path):
        kernel, how = kernels.take("a", ())
        said = ask(kernel, "import os, sys; print(os.getcwd(), os.environ['PYTHONHASHSEED'], os.environ['OMP_NUM_THREADS'], sys.executable)")
        assert said.split() == [str(tmp_path), "0", kernel_env()["OMP_NUM_THREADS"], sys.executable] and how == "cold"

    def test_print_and_what_other_processes_print_are_heard(self, kernels):
        kernel = kernels.start()
        assert ask(kernel, "import os; print('by Python')\nimport sys; print('by stderr', file=sys.stderr)") == "by Python\nby stderr"
        said = ask(kernel, "import os, time; os.system('echo by a command'); time.sleep(.5)")
        assert said == "by a command"

    def test_has_no_module_of_the_project(self, kernels, tmp_path):
        (tmp_path / "helper.py").write_text("value = 1\n")
        kernel = kernels.start(("json", "wave", "helper_that_is_not_there"))
        code = f"import sys; print(sorted(n for n, m in sys.modules.items() if str(getattr(m, '__file__', '')).startswith({str(tmp_path)!r})))"
        assert ask(kernel, code) == "[]"
        assert ask(kernel, "print('wave' in sys.modules, 'pandas' in sys.modules, 'mlwb.run.stage' in sys.modules)") == "True False False"
        assert ask(kernel, "import helper; print(helper.value)") == "1"
        assert "helper_that_is_not_there was not loaded beforehand" in kernel.log()

    def test_its_random_numbers_are_its_own(self, kernels):
        draw = "import random; print(random.random())"
        assert len({ask(kernels.start(), draw) for _ in range(3)}) == 3

    def test_what_it_has_started_dies_with_it(self, kernels):
        kernel = kernels.start()
        child = int(ask(kernel, SLEEPER))
        kernel.close()
        assert not all_gone([kernel.pid, child]) and not kernel.folder.exists()

    def test_what_it_has_started_dies_when_it_is_killed(self, kernels):
        kernel = kernels.start()
        child = int(ask(kernel, SLEEPER))
        os.kill(kernel.pid, signal.SIGKILL)
        end = time.monotonic() + 10
        while kernel.alive and time.monotonic() < end: time.sleep(.01)
        assert not kernel.alive and kernel.process.poll() == -signal.SIGKILL
        kernel.close()
        assert not all_gone([child])

    def test_says_what_it_used(self, kernels):
        kernel = kernels.start()
        ask(kernel, "x = bytearray(300_000_000); s = sum(range(10_000_000)); import subprocess, sys\n"
                    "subprocess.run([sys.executable, '-c', 'sum(range(20_000_000))'])")
        living = kernel.usage()
        kernel.close()
        for used in (living, kernel.usage()): assert used["cpu"] > .3 and 300e6 < used["memory"] < 2e9
        assert kernel.usage()["cpu"] >= living["cpu"] - .02

    def test_an_exit_code_is_known(self, kernels):
        kernel = kernels.start()
        ask(kernel, "import threading, os; threading.Timer(.3, os._exit, (7,)).start()")
        assert not all_gone([kernel.pid])
        end = time.monotonic() + 10
        while kernel.alive and time.monotonic() < end: time.sleep(.01)
        assert kernel.process.poll() == 7


# --- the runner dies ---------------------------------------------------------------------------------------------------

HOUSE = f"""
import asyncio, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_kernels import Kernels, SLEEPER, ask, kernel_env
house = Kernels(kernel_env(), Path("."))
if sys.argv[1] == "alone": house.odd = "a test wants it so"
kernels = [house.start(), house.start(("wave",))]
house.stand_by([("later", ())], 0)
pids = [*(k.pid for k in kernels), house.standing["later"].pid, *(ask(k, SLEEPER) for k in kernels)]
print(*pids, *([house._nursery.process.pid] if house._nursery else []), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("way", [pytest.param("forked", marks=linux), "alone"])
def test_nobody_outlives_a_killed_runner(way, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOUSE, way], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try: pids = [int(p) for p in process.stdout.readline().split()]
    finally: process.kill(); process.wait()
    assert len(pids) == (6 if way == "forked" else 5)
    left = all_gone(pids)
    for p in left: os.kill(p, signal.SIGKILL)
    assert not left


@linux
def test_the_nursery_does_not_outlive_its_orders(tmp_path):
    nursery = Nursery(kernel_env() | dict(os.environ))
    nursery.close()
    assert nursery.process.returncode == 0


# --- helpers that die --------------------------------------------------------------------------------------------------

@linux
class TestNurseryDies:
    def test_a_kernel_comes_cold(self, tmp_path):
        house = House(kernel_env(), tmp_path)
        first = house.start()
        child = int(ask(first, SLEEPER))
        assert first.forked
        house._nursery.process.kill()
        assert not all_gone([first.pid])
        first.close()
        assert not all_gone([child])
        second = house.start()
        assert ask(second, "print(2)") == "2" and not second.forked and "nursery" in house.odd
        house.close()
        assert not all_gone([second.pid])

    def test_a_run_ends_well(self, project):
        class Killer(Quiet):
            killed = 0
            def cell(self, run, stage, index, state):
                if stage.name == "b" and state == "running" and not self.killed:
                    self.killed = nurseries()[-1]
                    os.kill(self.killed, signal.SIGKILL)
        p, killer = project(a=["print('a')"], b=["import time; time.sleep(1); print('b')"], c=["print('c')"]), Killer()
        run = run_pipeline(p, Asked(), killer)[0]
        record = run.record()
        assert killer.killed and record["status"] == "done" and [s["status"] for s in record["stages"]] == ["ok"] * 3
        assert [outputs(run, s) for s in "abc"] == ["a\n", "b\n", "c\n"]
        assert [e["stage"] for e in run.events() if e["event"] == "retry"] == ["b"] and not nurseries()


class TestStandingBy:
    def test_one_is_taken_and_used_once(self, kernels):
        kernels.cores = 4
        kernels.stand_by([("a", ("wave",)), ("b", ())], 1)
        first = kernels.standing["a"]
        kernel, how = kernels.take("a", ("wave",))
        assert kernel is first and how == "warm" and set(kernels.standing) == {"b"}
        assert ask(kernel, "import sys; print('wave' in sys.modules)") == "True"
        other, how = kernels.take("a", ())
        assert other is not kernel and how == "cold"

    def test_one_that_died_is_replaced(self, kernels):
        kernels.stand_by([("a", ())], 0)
        dead = kernels.standing["a"]
        os.kill(dead.pid, signal.SIGKILL)
        end = time.monotonic() + 10
        while dead.alive and time.monotonic() < end: time.sleep(.01)
        kernel, how = kernels.take("a", ())
        assert kernel is not dead and how == "cold" and ask(kernel, "print(1)") == "1" and not dead.folder.exists()

    def test_none_is_started_where_no_processor_is_idle(self, kernels):
        kernels.cores = 2
        kernels.stand_by([("a", ()), ("b", ())], 2)
        assert not kernels.standing
        kernels.stand_by([("a", ()), ("b", ())], 1)
        assert set(kernels.standing) == {"a"}

    def test_one_can_be_sent_away_at_once(self, kernels):
        for _ in range(5):
            kernels.stand_by([("a", ())], 0)
            kernel, start = kernels.standing["a"], time.monotonic()
            kernels.drop({"a"})
            assert not alive(kernel.pid), f"alive {time.monotonic() - start:.1f} s later"

    def test_those_not_wanted_go(self, kernels):
        kernels.cores = 4
        kernels.stand_by([("a", ()), ("b", ())], 0)
        pid = kernels.standing["a"].pid
        kernels.drop({"a"})
        assert set(kernels.standing) == {"b"} and not all_gone([pid])


# --- runs --------------------------------------------------------------------------------------------------------------

ABOUT = "import os, sys; print(os.getcwd(), os.environ['MLWB_PROJECT'], os.environ['MLWB_RUN'], os.getpid())"


@pytest.mark.parametrize("way", [pytest.param("forked", marks=linux), "alone"])
def test_a_run_in_either_way(way, project, monkeypatch):
    """Folder, environment and outputs of adopted kernels; modules of the project are never stale."""
    class Chosen(House):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            if way == "alone": self.odd = "a test wants it so"
    monkeypatch.setattr(runner, "Kernels", Chosen)
    change = "from pathlib import Path; import helper; print(helper.value); _ = Path('helper.py').write_text('value = 22\\n')"
    p = project(a=[ABOUT, change, "import time; time.sleep(2)"], b=[ABOUT, "import helper; print(helper.value)"],
                c=["import os, time; os.system('echo low'); time.sleep(.5)"])
    (p.stages / "helper.py").write_text("value = 1\n")
    run = run_pipeline(p)[0]
    record = run.record()
    assert record["status"] == "done" and [s["status"] for s in record["stages"]] == ["ok"] * 3
    first, second = outputs(run, "a").split(), outputs(run, "b").split()
    assert first[:3] == second[:3] == [str(p.stages), str(p.root), run.name] and first[3] != second[3]
    assert first[4] == "1" and second[4] == "22" and outputs(run, "c").startswith("low")
    assert [s["kernel"] for s in record["stages"]][:2] == ["cold", "warm"]
    assert not nurseries()
