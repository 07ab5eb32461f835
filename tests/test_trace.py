"""What a stage has read, in all the ways that people read things: changed, it runs again; unchanged, it does not."""

import os
import sys

import pytest
from test_runner import Tiny, reasons, statuses, tiny  # noqa: F401 (a fixture)

from mlwb.core.workspace import publish


def text(p, name, what): return publish(p.root / name, what)
def helper(p, body="VALUE = 1\n"): return publish(p.root / "notebooks" / "stages" / "helper.py", body)
def link(p, target):
    (p.root / "link").unlink(missing_ok=True)
    (p.root / "link").symlink_to(p.root / target)


def two(p):
    text(p, "one.txt", "1")
    text(p, "two.txt", "2")
    link(p, "one.txt")


def package(p, body):
    """A package outside of site-packages, as `pip install -e` leaves one, that reads a file when it is imported."""
    publish(p.root / "src" / "ours" / "__init__.py", "from pathlib import Path\nRATE = Path(__file__).with_name('rate.txt').read_text()\n")
    publish(p.root / "src" / "ours" / "rate.txt", body)


READ = "text = {}\nstage.save(a=str(text))"
# what is there before, what the stage does, what is changed, what the reason has to name
CASES = {
    "beside the notebook": (
        lambda p: text(p, "notebooks/stages/x.csv", "1"),
        READ.format("open('x.csv').read()"),
        lambda p: text(p, "notebooks/stages/x.csv", "2"),
        "x.csv changed"),
    "in reports": (
        lambda p: text(p, "reports/x.md", "1"),
        READ.format("(stage.project.root / 'reports/x.md').read_text()"),
        lambda p: text(p, "reports/x.md", "2"),
        "x.md"),
    "a link that points elsewhere": (
        two,
        READ.format("open('../../link').read()"),
        lambda p: link(p, "two.txt"),
        "link changed"),
    "a script that is executed": (
        helper,
        "exec(open('helper.py').read())\nstage.save(a=VALUE)",
        lambda p: helper(p, "VALUE = 2\n"),
        "helper.py changed"),
    "%run": (
        helper,
        "%run helper.py\nstage.save(a=VALUE)",
        lambda p: helper(p, "VALUE = 2\n"),
        "helper.py changed"),
    "runpy": (
        helper,
        "import runpy\nstage.save(a=runpy.run_path('helper.py')['VALUE'])",
        lambda p: helper(p, "VALUE = 2\n"),
        "helper.py changed"),
    "a file that was not there": (
        None,
        "try: text = open('../../late.txt').read()\nexcept FileNotFoundError: text = ''\nstage.save(a=text)",
        lambda p: text(p, "late.txt", "1"),
        "late.txt is new"),
    "a file that was only asked for": (
        None,
        READ.format("(stage.project.root / 'late.txt').exists()"),
        lambda p: text(p, "late.txt", "1"),
        "late.txt is new"),
    "a module that was not there": (
        None,
        "try: import helper\nexcept ImportError: helper = None\nstage.save(a=str(helper))",
        helper,
        "helper.py is new"),
    "a folder's names": (
        lambda p: text(p, "in/1.txt", ""),
        READ.format("sorted(p.name for p in (stage.project.root / 'in').glob('*.txt'))"),
        lambda p: text(p, "in/2.txt", ""),
        "in/ changed"),
    "os.walk": (
        lambda p: text(p, "in/deep/1.txt", ""),
        "import os\n" + READ.format("[f for *_, f in os.walk('../../in')]"),
        lambda p: text(p, "in/deep/2.txt", ""),
        "in/deep/ changed"),
    "one name in two folders": (
        lambda p: [text(p, f"{d}/x.txt", "1") for d in "ab"],
        "import os\nos.chdir('../../a'); open('x.txt').read(); os.chdir('../b'); " + READ.format("open('x.txt').read()"),
        lambda p: text(p, "b/x.txt", "2"),
        "b/x.txt changed"),
    "a package under development": (
        lambda p: package(p, "1"),
        "import sys; sys.path.insert(0, '../../src')\nimport ours\nstage.save(a=ours.RATE)",
        lambda p: package(p, "2"),
        "rate.txt changed"),
    "below the verdict": (
        lambda p: text(p, "x.txt", "1"),
        "stage.save(a=n); stage.verdict('early')\nopen('../../x.txt').read()",
        lambda p: text(p, "x.txt", "2"),
        "x.txt changed"),
    "a variable of the environment": (
        None,
        "import os\n" + READ.format("os.environ.get('MY_REGION')"),
        lambda p: os.environ.update(MY_REGION="kr"),
        "MY_REGION"),
    "settings by another way": (
        None,
        "from mlwb.core.workspace import find_project\n" + READ.format("find_project().settings.target"),
        lambda p: publish(p.root / "settings.ini", (p.root / "settings.ini").read_text().replace("target = y", "target = z")),
        "target"),
    "settings read by hand": (
        None,
        "import configparser\nini = configparser.ConfigParser(); ini.read('../../settings.ini')\n" + READ.format("dict(ini['workbench'])"),
        lambda p: p.settings("language = ko\n"),
        "settings.ini changed"),
    "a program's file": (
        lambda p: text(p, "x.txt", "1"),
        "import subprocess\n" + READ.format("subprocess.run(['cat', '../../x.txt'], capture_output=True).stdout"),
        lambda p: text(p, "x.txt", "2"),
        "x.txt changed"),
    "a line of shell": (
        lambda p: text(p, "x.txt", "1"),
        "got = !cat ../../x.txt\nstage.save(a=list(got))",
        lambda p: text(p, "x.txt", "2"),
        "x.txt changed"),
    "Parquet by pandas": (
        lambda p: parquet(p, 1),
        "import pandas as pd\n" + READ.format("pd.read_parquet('../../x.parquet').x.sum()"),
        lambda p: parquet(p, 2),
        "x.parquet changed"),
    "Parquet by polars": (
        lambda p: parquet(p, 1),
        "import polars as pl\n" + READ.format("pl.read_parquet('../../x.parquet')['x'].sum()"),
        lambda p: parquet(p, 2),
        "x.parquet changed"),
    "a notebook of helpers": (
        lambda p: notebook(p, "VALUE = 1"),
        "%run ./_helpers.ipynb\nstage.save(a=VALUE)",
        lambda p: notebook(p, "VALUE = 2"),
        "_helpers.ipynb changed"),
    "compiled, in a folder that has a name": (
        lambda p: [(p.root / "data").mkdir(exist_ok=True), parquet(p, 1, "data/x.parquet")],
        "import polars as pl\nDATA = stage.project.root / 'data'\n" + READ.format("pl.read_parquet(DATA / 'x.parquet')['x'].sum()"),
        lambda p: parquet(p, 2, "data/x.parquet"),
        "x.parquet changed"),
    "compiled, by a pattern": (
        lambda p: parquet(p, 1),
        "import polars as pl\n" + READ.format("pl.read_parquet('../../*.parquet')['x'].sum()"),
        lambda p: parquet(p, 2, "y.parquet"),
        "changed"),
    "compiled, by a name that was given before": (
        lambda p: parquet(p, 1),
        "import polars as pl\nplace = '../../x.parquet'\n"
        + READ.format("pl.SQLContext(t=pl.scan_parquet(place)).execute('SELECT x FROM t').collect()['x'].sum()"),
        lambda p: parquet(p, 2),
        "x.parquet changed"),
    "a file that it changes": (
        lambda p: text(p, "x.txt", "1"),
        "with open('../../x.txt', 'r+') as f: n = len(f.read()); f.write('0')\nstage.save(a=n)",
        lambda p: text(p, "x.txt", "2222"),
        "x.txt changed"),
    "its own file, changed by somebody": (
        None,
        "open('../../out.txt', 'w').write(str(n))\nstage.save(a=n)",
        lambda p: text(p, "out.txt", "2"),
        "out.txt changed"),
    "its own file, gone": (
        None,
        "open('../../out.txt', 'w').write(str(n))\nstage.save(a=n)",
        lambda p: (p.root / "out.txt").unlink(),
        "out.txt is gone"),
    "settings before the stage": (
        lambda p: helper(p, "from mlwb.core.workspace import find_project\nVALUE = find_project().settings.target\n"),
        None,
        lambda p: publish(p.root / "settings.ini", (p.root / "settings.ini").read_text().replace("target = y", "target = z")),
        "target"),
    "SQLite": (
        lambda p: sqlite(p, 1),
        "import sqlite3\nfrom contextlib import closing\n"
        "with closing(sqlite3.connect('../../x.db')) as db: stage.save(a=db.execute('SELECT * FROM t').fetchall()[-1][0])",
        lambda p: sqlite(p, 2),
        "x.db changed"),
    "a forked child's file": (
        lambda p: text(p, "x.txt", "1"),
        "import os\npid = os.fork()\nif not pid: open('../../x.txt').read(); os._exit(0)\nos.waitpid(pid, 0)\nstage.save(a=n)",
        lambda p: text(p, "x.txt", "2"),
        "x.txt changed"),
    "a log that it reads and adds to": (
        lambda p: text(p, "x.txt", "1\n"),
        "text = open('../../x.txt').read()\nopen('../../x.txt', 'a').write('more\\n')\nstage.save(a=n)",
        lambda p: text(p, "x.txt", "2"),
        "x.txt changed"),
    "outside, in a temporary folder": (
        lambda p: publish(outside(p), "1"),
        READ.format("open(open('../../where').read()).read()"),
        lambda p: publish(outside(p), "2"),
        "data.txt changed"),
}


def parquet(p, x, name="x.parquet"):
    import pandas as pd
    pd.DataFrame({"x": [x]}).to_parquet(p.root / name)


def notebook(p, source):
    import nbformat
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    publish(p.root / "notebooks" / "stages" / "_helpers.ipynb", nbformat.writes(nb))


def sqlite(p, x):
    import sqlite3
    from contextlib import closing
    with closing(sqlite3.connect(p.root / "x.db")) as db:
        db.execute("CREATE TABLE IF NOT EXISTS t (x)")
        db.execute("INSERT INTO t VALUES (?)", (x,))
        db.commit()


def outside(p):
    place = p.root.parent / f"{p.root.name}-outside" / "data.txt"
    publish(p.root / "where", str(place))
    return place


@pytest.mark.parametrize("case", CASES)
def test_what_was_read_is_noticed(tiny: Tiny, case, monkeypatch):  # noqa: F811
    monkeypatch.delenv("MY_REGION", raising=False)
    before, code, change, named = CASES[case]
    if before: before(tiny)
    tiny.stage("a", code or "stage.save(a=helper.VALUE)", knobs="n: int = 1\n" + ("" if code else "import helper\n"))
    first = tiny.run()
    assert statuses(first) == {"a": "ok"}, first.record()["stages"][0]["error"]
    again = tiny.run()
    assert statuses(again) == {"a": "cached"}, reasons(again)
    monkeypatch.setenv("MY_REGION", "")
    del os.environ["MY_REGION"]
    change(tiny)
    changed = tiny.run()
    assert statuses(changed) == {"a": "ok"} and named in reasons(changed)["a"], (statuses(changed), reasons(changed))


def test_more_in_the_parameters_cell(tiny):  # noqa: F811
    tiny.stage("a", "stage.save(a=size(n))", knobs="n: int = 1\ndef size(n): return n\n")
    assert statuses(tiny.run()) == {"a": "ok"}
    tiny.stage("a", "stage.save(a=size(n))", knobs="n: int = 1  # another comment\ndef size(n): return n\n")
    assert statuses(tiny.run()) == {"a": "cached"}
    tiny.stage("a", "stage.save(a=size(n))", knobs="n: int = 1\ndef size(n): return n + 1\n")
    assert reasons(tiny.run())["a"] == "its code changed"


def test_an_edit_while_it_runs(tiny):  # noqa: F811
    """b was decided upon what the disk held when a had ended, not when the run began."""
    text(tiny, "x.txt", "1")
    tiny.stage("a", "stage.save(a=n)")
    tiny.stage("b", "stage.save(b=open('../../x.txt').read())", needs=["a"])
    tiny.run()
    tiny.stage("a", "open('../../x.txt', 'w').write('2')\nstage.save(a=n)")
    run = tiny.run()
    assert statuses(run) == {"a": "ok", "b": "ok"} and "x.txt changed" in reasons(run)["b"]


def test_a_copy_of_the_environment_asks_for_none(tiny, monkeypatch):  # noqa: F811
    tiny.stage("a", "import os\nchild = {**os.environ, 'X': '1'}; more = dict(os.environ); stage.save(a=len(child) > 1)")
    tiny.run()
    monkeypatch.setenv("MY_TERMINAL", "another")
    assert statuses(tiny.run()) == {"a": "cached"}


def test_a_variable_is_not_written_down(tiny, monkeypatch):  # noqa: F811
    monkeypatch.setenv("MY_REGION", "a-very-plain-value")
    tiny.stage("a", "import os\nx = os.environ['MY_REGION']; stage.save(a=len(x))")
    run = tiny.run()
    trace = run.record()["stages"][0]["trace"]
    assert len(trace["variable:MY_REGION"]) == 16 and not any(b"a-very-plain-value" in p.read_bytes() for p in run.path.rglob("*") if p.is_file())
    assert (tiny.root / "workspace" / ".key").stat().st_mode & 0o77 == 0 or sys.platform == "win32"


def test_a_save_below_the_verdict_wants_another_verdict(tiny):  # noqa: F811
    path = tiny.stage("a", "stage.verdict('early') if False else None\nstage.save(a=1)")
    import nbformat
    nb = nbformat.read(path, 4)
    nb.cells.append(nbformat.v4.new_code_cell("stage.save(a=2)"))
    nbformat.write(nb, path)
    run = tiny.run()
    assert statuses(run) == {"a": "failed"} and "without its verdict" in run.record()["stages"][0]["error"]["message"]


QUIET = {  # what a stage may do without being executed again when nothing has changed
    "writes a table and reads it": "import pandas as pd\npd.DataFrame({'x': [1]}).to_parquet('../../o.parquet')\n"
                                   "stage.save(a=int(pd.read_parquet('../../o.parquet').x[0]))",
    "keeps a result": "import polars as pl\np = stage.project.root / 'memo.parquet'\nif not p.exists(): pl.DataFrame({'x': [1]}).write_parquet(p)\n"
                      "stage.save(a=pl.read_parquet(p)['x'][0])",
    "sets a variable": "import os\nos.environ['MY_OWN'] = '1'; os.environ.setdefault('MY_OTHER', '2')\n"
                       "stage.save(a=os.environ['MY_OWN'] + os.environ['MY_OTHER'])",
    "asks for what the kernel sets": "import os\nstage.save(a=[os.environ.get(k) for k in ('OMP_NUM_THREADS', 'MPLBACKEND', 'PYTHONHASHSEED')])",
    "writes a module": "open('made.py', 'w').write('X = 1')\nimport made\nstage.save(a=made.X)",
    "works in a temporary folder": "import tempfile, os\nwith tempfile.TemporaryDirectory(dir=stage.project.root) as d:\n"
                                   "    open(d + '/x', 'w').close(); n = len(os.listdir(d))\n"
                                   "stage.save(a=n)",
    "adds to a log": "import logging\nlogging.basicConfig(filename='../../log.txt', force=True); logging.warning('here'); stage.save(a=n)",
    "replaces a file whole": "import os\nopen('../../t', 'w').write('1'); os.replace('../../t', '../../o.txt'); stage.save(a=open('../../o.txt').read())",
    "hands functions to processes": "import os, pickle, importlib\nstage.save(a=pickle.loads(pickle.dumps(os.stat)) is os.stat and "
                                    "pickle.loads(pickle.dumps(importlib.import_module)) is importlib.import_module)",
    "asks odd things": "import os\nstage.save(a=[os.path.exists(x) for x in ('a\\0b', '\\ud800', b'x', 'x' * 5000)])",
}


@pytest.mark.parametrize("case", QUIET)
def test_nothing_has_changed(tiny, case):  # noqa: F811
    tiny.stage("a", QUIET[case])
    tiny.stage("log", "import logging\nlogging.basicConfig(filename='../../log.txt', force=True); logging.warning('here too'); stage.save(log=n)", needs=["a"])
    first = tiny.run()
    assert set(statuses(first).values()) == {"ok"}, first.record()["stages"][0]["error"]
    again = tiny.run()
    assert set(statuses(again).values()) == {"cached"}, reasons(again)


def test_what_another_run_has_written_is_written_again(tiny):  # noqa: F811
    tiny.stage("a", "(stage.project.root / 'out.txt').write_text(str(n)); stage.save(a=n)")
    tiny.stage("b", "stage.save(b=int((stage.project.root / 'out.txt').read_text()))", needs=["a"])
    from mlwb.run.artifacts import load_artifact
    for n in (1, 2, 1): assert load_artifact(tiny.run(given=(f"a.n={n}",)), "b") == n


@pytest.mark.parametrize("one, two", [
    ("pd.DataFrame({'x': [1, 2]}, index=[1, 2])", "pd.DataFrame({'x': [1, 2]}, index=[3, 4])"),
    ("pd.DataFrame({'x': pd.Categorical(['a'], ['a', 'b'])})", "pd.DataFrame({'x': pd.Categorical(['a'], ['b', 'a'])})"),
    ("pd.DataFrame({'x': [0.]})", "pd.DataFrame({'x': [-0.]})"), ("{'x': 1, 'y': 2}", "{'y': 2, 'x': 1}")])
def test_all_of_an_output_counts(tiny, one, two):  # noqa: F811
    tiny.stage("b", "stage.save(b=str(stage.load('a')))", needs=["a"], number=50)
    tiny.stage("a", f"import pandas as pd\nstage.save(a={one})")
    tiny.run()
    tiny.stage("a", f"import pandas as pd\nstage.save(a={two})")
    assert statuses(tiny.run()) == {"a": "ok", "b": "ok"}
    tiny.stage("a", f"import pandas as pd\nx = 1\nstage.save(a={two})")
    assert statuses(tiny.run()) == {"a": "ok", "b": "cached"}
