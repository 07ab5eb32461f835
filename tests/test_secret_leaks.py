"""Every way by which a secret could reach the disk, tried: what is said, what is saved, what is noted, what a kill leaves behind."""

import json
import os
import signal

import pytest
from test_runner import Tiny, error, started, statuses, until

from mlwb.core.secrets import Mask
from mlwb.core.workspace import publish
from mlwb.run.gc import leftovers
from mlwb.run.outcome import document
from mlwb.run.record import list_runs
from mlwb.show.report import write_report

VALUE, PIN = "s3cr3t-Päss\"word", "4711081522"
TOKEN = "import mlwb\ntoken = mlwb.secret('env:' + 'TINY_' + 'SECRET')"  # no cell names it


@pytest.fixture
def tiny(tmp_path): return Tiny(tmp_path.resolve())


@pytest.fixture(autouse=True)
def _values(monkeypatch):
    monkeypatch.setenv("TINY_SECRET", VALUE)
    monkeypatch.setenv("TINY_PIN", PIN)
    monkeypatch.setenv("TINY_NAME", "hunter22")  # one that can stand in a file's name


def mask(): return Mask(["TINY_SECRET", "TINY_PIN", "TINY_NAME"])


def leaks(tiny):
    """Files under the workspace and reports that hold a value in any form, in whatever they pack it."""
    from mlwb.core.hidden import inside
    files = [p for d in ("workspace", "reports") for p in (tiny.root / d).rglob("*") if p.is_file()]
    return [str(p.relative_to(tiny.root)) for p in files if inside(mask(), p.read_bytes()) or mask().found(p.name)]


def clean(tiny, run):
    """Nothing of it in the workspace, in the report, in what `--json` says."""
    write_report(run)
    assert not leaks(tiny) and not mask().found(json.dumps(document(run)))
    return True


def without_last_cell(tiny, name="10_a.ipynb"):
    """Take the verdict away that Tiny gives a stage."""
    path = tiny.root / "notebooks" / "stages" / name
    book = json.loads(path.read_text())
    del book["cells"][-1]
    path.write_text(json.dumps(book))


class TestSaid:
    def test_verdict_and_metrics(self, tiny):
        tiny.stage("a", TOKEN, "stage.save(a=n)\nstage.verdict(f'done with {token}', metrics={token: 1, 'how': token, 'n': 7})")
        without_last_cell(tiny)
        run = tiny.run()
        said = run.stage_record("a")
        assert statuses(run) == {"a": "ok"} and clean(tiny, run)
        assert said["verdict"] == "done with [env:TINY_SECRET]" and said["metrics"] == {"[env:TINY_SECRET]": 1, "how": "[env:TINY_SECRET]", "n": 7}

    def test_digits_as_a_number(self, tiny):
        tiny.stage("a", "import mlwb\npin = int(mlwb.secret('env:TINY_PIN'))", "pin", "from IPython.display import JSON, display\ndisplay(JSON({'pin': pin}))",
                   "stage._record['note'] = {'pin': pin}\nstage.save(a=n)")
        assert clean(tiny, tiny.run())

    @pytest.mark.parametrize("code", [
        "raise ValueError(f'bad {token}')",
        "def f(x): raise KeyError(x)\nf(token)",
        "raise type(token[:0] + 'E' + token.encode().hex(), (Exception,), {})(token)",
        "import logging; logging.warning('with %s', token); import warnings; warnings.warn(token); raise SystemExit(token)",
        "import os, sys; os.write(2, (token[:7] + '\\n').encode()); sys.exit(token)",
        "import os; os.write(2, f'crashed with  {token}'.encode()); os._exit(3)",
        "import sys; print(token[:5], end='', flush=True); print('x', file=sys.stderr, flush=True); 1 / 0",
        "%xmode Verbose\ndef f(x): return 1 / 0\nf(token)",
    ])
    def test_failures(self, tiny, code):
        tiny.stage("a", TOKEN, code, "stage.save(a=n)")
        tiny.settings("\n[run]\nretries = error 1, died 1\n")
        run = tiny.run()
        assert statuses(run)["a"] in ("failed", "killed") and any(e["event"] == "retry" for e in run.events()) and clean(tiny, run)

    def test_whitespace_in_one_that_a_dying_kernel_prints(self, tiny, monkeypatch):
        monkeypatch.setenv("TINY_SECRET", "two  words\nand lines")
        tiny.stage("a", TOKEN, "import os; os.write(2, f'crashed with {token}'.encode()); os._exit(3)", "stage.save(a=n)")
        run = tiny.run()
        assert "[env:TINY_SECRET]" in error(run, "a")["message"] and "two words and lines" not in run.journal.read_text()

    def test_the_notice_of_a_failure(self, tiny):
        from mlwb.run.notify import notify
        tiny.stage("a", TOKEN, "print(token)\nraise ValueError(token)", "stage.save(a=n)")
        run = tiny.run()
        notify(tiny.project, [run], "file:notice.jsonl", [write_report(run)])
        text = (tiny.root / "notice.jsonl").read_text()
        assert "[env:TINY_SECRET]" in text and not mask().found(text)

    def test_the_commands(self, tiny, cli):
        tiny.stage("a", TOKEN, "stage.save(a=n)\nstage.verdict(token)")
        without_last_cell(tiny)
        tiny.stage("b", TOKEN, "print(token)\nraise ValueError(token)", "stage.save(b=n)")
        for args in (("run",), ("show",), ("show", "--json"), ("runs", "--json"), ("run", "--json", "--dry-run")):
            done = cli(*args, cwd=tiny.root)
            assert not mask().found(done.stdout + done.stderr) and (args[0] != "run" or done.stdout + done.stderr)
        assert clean(tiny, list_runs(tiny.project)[0])


class TestShown:
    @pytest.mark.parametrize("code", [
        "from IPython.display import HTML, display\nh = display(HTML('x'), display_id=True)\nprint(1)\nh.update(HTML(f'<b>{token}</b>'))",
        "from IPython.display import display\ndisplay({'text/plain': 'x', 'application/json': {token: [token]}}, raw=True, metadata={'how': token})",
        "from IPython.display import display\nh = display('x', display_id=token)\nh.update('y')",
        "import ipywidgets as w\nw.Text(value=token, description=token)",
        "import ipywidgets as w\nw.Image(value=token.encode())",
        "import ipywidgets as w\no = w.Output()\nwith o:\n    print(token[:5], end='', flush=True)\n    print(token[5:], flush=True)\no",
        "import anywidget, traitlets as t\nclass W(anywidget.AnyWidget):\n    _esm = 'export default {}'\n    data = t.Bytes().tag(sync=True)\n"
        "W(data=token.encode())",
        "print('a', flush=True); print(token[:4], end='', flush=True)\nprint(token[4:], flush=True)\nprint(f'\\x1b[31m{token[:3]}\\x1b[0m{token[3:]}')",
        "from IPython.display import display\nprint('a', flush=True); print('b', flush=True)\nh = display('x', display_id=True)\n"
        "print(token[:4], end='', flush=True)\nprint(token[4:], flush=True)\nh.update('y')",
    ])
    def test_in_an_output(self, tiny, code):
        tiny.stage("a", TOKEN, code, "stage.save(a=n)")
        run = tiny.run()
        assert statuses(run) == {"a": "ok"} and clean(tiny, run)

    def test_a_display_that_is_updated_stays_where_it_was(self, tiny):
        named = "import mlwb\ntoken = mlwb.secret('env:TINY_SECRET')"
        tiny.stage("a", named, "from IPython.display import display\nprint('a', flush=True); print('b', flush=True)\n"
                               "h = display({'text/plain': 'x'}, raw=True, display_id=True)\n"
                               "print(token[:4], end='', flush=True)\nprint(token[4:], flush=True)\nh.update({'text/plain': 'y'}, raw=True)", "stage.save(a=n)")
        run = tiny.run()
        outputs = json.loads((run.notebooks / "10_a.ipynb").read_text())["cells"][3]["outputs"]
        said = "".join("".join(o.get("text") or o["data"]["text/plain"]) for o in outputs)
        assert said == "a\nb\ny[env:TINY_SECRET]\n", outputs

    def test_what_is_given_is_only_a_reference(self, tiny):
        tiny.stage("a", "mlwb.secret(password)\nstage.save(a=n)", knobs="n: int = 1\npassword: str = ''")
        run = tiny.run(given=("a.password=env:TINY_SECRET",))
        meta = json.loads((run.notebooks / "10_a.ipynb").read_text())["metadata"]["papermill"]
        assert meta["parameters"] == {"password": "env:TINY_SECRET"} and clean(tiny, run)


FRAME = "import pandas as pd, polars as pl, pyarrow as pa, datetime\n"


class TestSaved:
    @pytest.mark.parametrize("value", [
        "pd.DataFrame({'x': [1]}, index=[token])",
        "pd.DataFrame({'x': [1]}, index=pd.Index([1], name=token))",
        "pd.DataFrame({'x': [1]}, index=pd.MultiIndex.from_tuples([(1, token)]))",
        "df", "pd.DataFrame({'x': pd.Categorical(['a'], ['a', token])})",
        "pd.DataFrame({token: [1]})", "pd.DataFrame({'x': [1]}).rename_axis(columns=token)",
        "pd.DataFrame({'x': [[token]]})", "pd.DataFrame({'x': [{'a': [{'b': token}]}]})", "pd.DataFrame({'x': [{token: 1}]})",
        "pd.DataFrame({'x': [token.encode()]})", "pd.DataFrame({'x': [pin]})", "pd.DataFrame({'x': [float(pin), None]})",
        "pd.DataFrame({'x': [1]}, index=[pin])", "pd.DataFrame({'x': [[pin]]})", "pd.DataFrame({'x': [__import__('decimal').Decimal(pin)]})",
        "pl.DataFrame({'x': [[token]]})", "pl.DataFrame({'x': [{'a': token}]})", "pl.DataFrame({'x': ['a']}, schema={'x': pl.Enum(['a', token])})",
        "pl.DataFrame({'x': [token]}, schema={'x': pl.Categorical})", "pl.DataFrame({'x': [token.encode()]})", "pl.DataFrame({'x': [pin]})",
    ])
    def test_in_a_frame(self, tiny, value):
        code = f"{FRAME}pin = int(mlwb.secret('env:TINY_PIN'))\ndf = pd.DataFrame({{'x': [1]}})\ndf.attrs['url'] = f'db://{{token}}@h'\nstage.save(a={value})"
        tiny.stage("a", TOKEN, code)
        run = tiny.run()
        assert statuses(run) == {"a": "failed"} and "The artifact 'a' holds the value of env:TINY_" in error(run, "a")["message"] and clean(tiny, run)

    @pytest.mark.parametrize("write", [
        "(folder / 'x.txt').write_text(token)", "(folder / token.encode().hex()).write_text('x')",
        "import gzip; gzip.open(folder / 'x.gz', 'wt').write(token)",
        "import zipfile, io\nwith zipfile.ZipFile(folder / 'x.zip', 'w', zipfile.ZIP_DEFLATED) as z: z.writestr('deep/x', token * 9)",
        "import numpy as np; np.savez_compressed(folder / 'x.npz', x=np.array(['a', token]))",
        "import joblib; joblib.dump({'a': [token]}, folder / 'x.joblib', compress=3)",
        "import tarfile, io\nwith tarfile.open(folder / 'x.tgz', 'w:gz') as t:\n"
        "    i = tarfile.TarInfo('x'); i.size = len(token.encode()); t.addfile(i, io.BytesIO(token.encode()))",
        "import pandas as pd; (folder / 'deep').mkdir(); pd.DataFrame({'x': ['a', token] * 99}).to_parquet(folder / 'deep' / 'x.parquet', compression='zstd')",
        "import pandas as pd; pd.DataFrame({'x': ['a', token] * 99}).to_feather(folder / 'x.feather')",
        "import pickle; (folder / 'x.pkl').write_bytes(pickle.dumps({'x': token}))",
        "import skops.io as s; s.dump({'x': token}, folder / 'x.skops')",
    ])
    def test_by_an_object_that_saves_itself(self, tiny, write):
        body = "\n".join(f"        {l}" for l in write.split("\n"))
        tiny.stage("a", TOKEN, f"class Thing:\n    def save(self, folder):\n{body}\n    def digest(self): return 'sha256:1'\nstage.save(a=Thing())")
        run = tiny.run()
        assert statuses(run) == {"a": "failed"} and "The artifact 'a' holds the value of env:TINY_SECRET" in error(run, "a")["message"], error(run, "a")
        assert clean(tiny, run) and not [p for p in run.path.rglob(".tmp-*")]

    def test_in_a_table_of_the_store(self, tiny):
        tiny.stage("a", TOKEN, "import polars as pl\nfrom mlwb.data.store import Store\n"
                               "stage.save(a=Store(stage.project.data).write('log', pl.DataFrame({'url': ['x', f'https://h/?t={token}']})))")
        run = tiny.run()
        assert "The table 'log' holds the value of env:TINY_SECRET" in error(run, "a")["message"] and clean(tiny, run)

    def test_what_holds_none_is_saved(self, tiny):
        tiny.stage("a", TOKEN, f"{FRAME}pin = mlwb.secret('env:TINY_PIN')\n"
                               "stage.save(a=pd.DataFrame({'x': [1, 2], 'day': datetime.date(2024, 1, 1), 'y': [token[:4], token[4:]]}, index=['a', 'b']))")
        run = tiny.run()
        assert statuses(run) == {"a": "ok"} and clean(tiny, run)

    @pytest.mark.parametrize("gone", ["del os.environ['TINY_SECRET']", "os.environ['TINY_SECRET'] = 'something else'"])
    def test_after_its_variable_has_gone(self, tiny, gone):
        tiny.stage("a", TOKEN, f"import os\n{gone}\nstage.save(a={{'t': token}})")
        run = tiny.run()
        assert "holds the value of env:TINY_SECRET" in error(run, "a")["message"] and clean(tiny, run)

    def test_one_that_another_process_of_the_stage_resolved(self, tiny):
        publish(tiny.root / "notebooks" / "stages" / "access.py", "import mlwb\ndef get(name): return mlwb.secret('env:' + name)\n")
        tiny.stage("a", "import multiprocessing as m, access\nwith m.get_context('fork').Pool(1) as p: [token] = p.map(access.get, ['TINY_SECRET'])\n"
                        "print(token)\nstage.save(a={'t': token})")
        run = tiny.run()
        assert "holds the value of env:TINY_SECRET" in error(run, "a")["message"] and clean(tiny, run)

    def test_one_that_the_runner_does_not_know_is_refused(self, tiny):
        for name in ("TINY_OTHER", "TINY_SECRET"):
            tiny.stage("a", f"import os\nos.environ['{name}'] = 'of-the-notebook'[::-1]\ntoken = mlwb.secret('env:{name}')\nprint(token)\nstage.save(a=n)")
            run = tiny.run()
            assert "was set or changed in this notebook" in error(run, "a")["message"] and "koobeton-eht-fo" not in (run.notebooks / "10_a.ipynb").read_text()


class TestNoted:
    def test_the_name_of_a_file(self, tiny):
        publish(tiny.root / "rows-hunter22.csv", "1")
        publish(tiny.root / "plain.csv", "2")
        tiny.stage("a", "name = mlwb.secret('env:TINY_' + 'NAME')\nn = [open(f'../../{x}.csv').read() for x in ('plain', f'rows-{name}')]\nstage.save(a=n)")
        run = tiny.run()
        assert statuses(run) == {"a": "ok"} and clean(tiny, run)
        seen = run.stage_record("a")["seen"]["files"]
        assert seen["rows-[env:TINY_NAME].csv"] == "masked" and len(seen["plain.csv"]) == 16
        for i in (3, 4):  # what can't be looked at again is never taken as unchanged
            publish(tiny.root / "rows-hunter22.csv", str(i))
            run = tiny.run()
            assert statuses(run) == {"a": "ok"} and str(i) in json.dumps(json.loads((run.path / "artifacts" / "a" / "a.json").read_text()))
        publish(tiny.root / "rows-[env:TINY_NAME].csv", "a file of that very name")
        assert statuses(tiny.run()) == {"a": "ok"} and clean(tiny, run)

    def test_the_name_of_a_module(self, tiny):
        publish(tiny.root / "notebooks" / "stages" / "of_hunter22.py", "x = 1\n")
        tiny.stage("a", "import importlib\nx = importlib.import_module('of_' + mlwb.secret('env:TINY_' + 'NAME')).x\nstage.save(a=x)")
        assert clean(tiny, tiny.run()) and statuses(tiny.run()) == {"a": "ok"} and clean(tiny, list_runs(tiny.project)[0])


class TestKilled:
    def parts(self, run): return [p.name for p in run.notebooks.glob(".*.ipynb")]

    def test_what_a_killed_runner_leaves(self, tiny):
        publish(tiny.root / "notebooks" / "stages" / "access.py", "import mlwb\ndef password(): return mlwb.secret('env:' + 'TINY_SECRET')\n")
        wait = "import time\nfrom pathlib import Path\nwhile not (stage.project.root / 'fast').exists(): time.sleep(.02)"
        tiny.stage("a", "import access\nprint(access.password())\nprint(access.password()[:6], end='', flush=True)\nprint(access.password()[6:], flush=True)",
                   f"(stage.project.root / 'there').write_text('')\n{wait}", "stage.save(a=n)")
        process, run = started(tiny)
        until((tiny.root / "there").exists)
        until(lambda: self.parts(run) and "[env:TINY_SECRET]" in (run.notebooks / self.parts(run)[0]).read_text())
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()
        assert self.parts(run) == [".10_a.ipynb"] and not leaks(tiny)
        until(lambda: not run.alive())
        assert [p.name for p in leftovers(tiny.project)] == [".10_a.ipynb"]
        publish(tiny.root / "fast", "")
        assert tiny.run(failed=True) == run and statuses(run) == {"a": "ok"} and not self.parts(run) and clean(tiny, run)

    def test_a_part_of_a_stage_that_does_not_run_again(self, tiny):
        tiny.chain()
        first = tiny.run()
        tiny.stage("b", "1 / 0\nstage.save(b=1)", needs=["a"])
        run = tiny.run()
        publish(run.notebooks / ".10_a.ipynb", "{}")
        assert tiny.run(failed=True) == run and statuses(run)["b"] == "failed" and not self.parts(run) and first != run


def _packed() -> dict[str, bytes]:
    "A table and a text, packed in each way that is looked into."
    import bz2
    import gzip
    import io
    import lzma
    import tarfile
    import zipfile
    import zlib

    import pandas as pd
    import pyarrow as pa
    df, text = pd.DataFrame({"x": ["a", "", "나"] * 99, "n": range(297), "c": pd.Categorical(["u", "v", "w"] * 99), "l": [[1, 2]] * 297}), b"some text " * 999
    out = {"gzip": gzip.compress(text), "bz2": bz2.compress(text), "xz": lzma.compress(text), "zlib": zlib.compress(text)}
    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(f := io.BytesIO(), "w", kind) as z:
            for name in "abc": z.writestr(name, text)
        out[f"zip {kind}"] = f.getvalue()
    with tarfile.open(fileobj=(f := io.BytesIO()), mode="w") as t:
        for name in "abc":
            member = tarfile.TarInfo(name)
            member.size = len(text)
            t.addfile(member, io.BytesIO(text))
    out["tar"] = f.getvalue()
    for kind in ("snappy", "zstd", None):
        df.to_parquet(f := io.BytesIO(), compression=kind)
        out[f"parquet {kind}"] = f.getvalue()
    with pa.ipc.new_file(f := io.BytesIO(), (table := pa.Table.from_pandas(df)).schema) as w: w.write_table(table)
    return out | {"arrow": f.getvalue()}


def test_no_damage_stops_the_search():
    "Damaged at random places, a file is searched as far as it can be read; nothing is raised, and Arrow reads nowhere else."
    import random

    from mlwb.core.hidden import inside
    from mlwb.core.secrets import Mask
    mask, dice = Mask(["KEY", "PIN"], {"KEY": "not-in-there", "PIN": "20240517"}), random.Random(5)
    for kind, whole in _packed().items():
        for _ in range(300):
            data = bytearray(whole[:dice.randrange(6, len(whole))] if dice.random() < .2 else whole)
            for _ in range(dice.choice([1, 1, 2, 8])):
                at = dice.choice([dice.randrange(len(data)), dice.randrange(min(len(data), 120)), -dice.randrange(1, min(len(data), 400))])
                data[at] = dice.choice([0, 255, dice.randrange(256)])
            assert inside(mask, bytes(data)) == set(), kind
