"""Views without a browser: what they cost to import, and what a notebook is given."""

import os
import subprocess
import sys


def run(code, **env):
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_views_import_nothing_heavy():
    heavy = "anywidget,ipywidgets,pandas,polars,plotly,sklearn,torch,scipy,mlflow,shap"
    code = f"import sys, mlwb.show.views, mlwb.show.explore, mlwb.show.drift, mlwb.show.explain; print([m for m in {heavy.split(',')} if m in sys.modules])"
    assert run(code) == "[]"


def test_lazy_names_are_functions():
    assert run("import mlwb; print(callable(mlwb.explore), callable(mlwb.drift), callable(mlwb.explain))") == "True True True"
    assert run("import mlwb, mlwb.show.explore; print(callable(mlwb.explore))") == "True"


BUNDLE = """
import polars as pl, mlwb
from ipykernel.zmqshell import ZMQInteractiveShell
view = mlwb.explore(pl.DataFrame({"a": [1, 2, 3]}))
print(*sorted(view._repr_mimebundle_()), view._repr_mimebundle_()["text/html"].count("<script"))
"""


def test_without_a_kernel_a_view_is_html(): assert run(BUNDLE) == "text/html text/plain 2"
def test_in_a_run_the_result_travels_along(): assert run(BUNDLE, MLWB_RUN="r1") == "application/vnd.mlwb.result+json text/html text/plain 2"


def test_rendering_is_deterministic():
    code = """
import hashlib, mlwb, polars as pl
view = mlwb.explore(pl.DataFrame({"a": [1.5, 2, None] * 50, "b": list("xyz") * 50}))
print(hashlib.sha256(view.document().encode()).hexdigest())"""
    assert run(code, PYTHONHASHSEED="1") == run(code, PYTHONHASHSEED="2")
