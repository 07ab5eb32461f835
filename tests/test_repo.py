"""The repository holds what it promises: pins that agree, notebooks in the house's style, a catalogue without gaps."""

import ast
import json
import os
import re
import shutil
import string
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPO = Path(__file__).resolve().parent.parent
STAGES = sorted((REPO / "notebooks" / "stages").glob("*.ipynb"))
LIBRARY = sorted((REPO / "notebooks" / "lib").rglob("*.ipynb"))
PYPROJECT = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]


def pins(lines) -> dict:
    found = [re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)", line.strip()) for line in lines]
    return {canonicalize_name(m[1]): m[2] for m in found if m}


def direct() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    return [Requirement(r) for r in [*PROJECT["dependencies"], *(r for x in extras.values() for r in x)] if not r.startswith("mlwb[")]


@pytest.fixture(scope="module")
def constraints() -> dict:
    return pins((REPO / "constraints.txt").read_text(encoding="utf-8").splitlines())


# --- pins --------------------------------------------------------------------------------------------------------------

def test_constraints_are_plain_sorted_and_whole(constraints):
    lines = [x for x in (REPO / "constraints.txt").read_text(encoding="utf-8").splitlines() if x and not x.startswith("#")]
    assert len(lines) == len(constraints), "each line is name==version, once"
    assert lines == sorted(lines)
    assert not [x for x in lines if "+" in x or ";" in x], "no local versions (+cpu), no markers"


def test_every_direct_dependency_is_pinned_within_its_range(constraints):
    for r in direct():
        assert canonicalize_name(r.name) in constraints, f"{r} has no pin in constraints.txt"
        assert r.specifier.contains(constraints[canonicalize_name(r.name)]), f"{r} against {constraints[canonicalize_name(r.name)]}"


def test_metadata_leaves_room_beside_the_users_own_packages():
    for r in direct():
        assert r.specifier and all(s.operator == ">=" for s in r.specifier), f"{r}: a range with a lower bound, and no upper one"


def test_nothing_is_installed_at_another_version(constraints):
    """`make` installs exactly the pins; in another environment than make's this test has nothing to say."""
    if not (Path(sys.prefix) / ".mlwb-installed").is_file(): pytest.skip("not the environment that make made")
    have = {canonicalize_name(d.name): d.version.split("+")[0] for d in metadata.distributions()}
    wrong = {k: (have[k], v) for k, v in constraints.items() if k in have and have[k] != v}
    assert not wrong, f"installed, pinned: {wrong}"
    loose = {k for k in needed() if k not in constraints and k != "mlwb"}
    assert not loose, f"needed, but not pinned: {sorted(loose)}"
    extra = set(constraints) - needed()
    assert not extra, f"pinned, but nothing needs it: {sorted(extra)}"


def needed() -> set:
    """What mlwb[all,dev] needs, directly or not, by the metadata of what is installed."""
    todo, seen, names = [(r, frozenset(r.extras)) for r in direct() if not r.marker or r.marker.evaluate()], set(), set()
    while todo:
        r, extras = todo.pop()
        name = canonicalize_name(r.name)
        if (name, extras) in seen: continue
        seen.add((name, extras)); names.add(name)
        for text in metadata.requires(name) or []:
            q = Requirement(text)
            if not q.marker or any(q.marker.evaluate({"extra": e}) for e in ("", *extras)): todo.append((q, frozenset(q.extras)))
    return names


def test_conda_environment_agrees_with_the_constraints(constraints):
    env = yaml.safe_load((REPO / "environment.yml").read_text(encoding="utf-8"))
    assert env["name"] == "mlwb"
    conda = [d for d in env["dependencies"] if isinstance(d, str)]
    pip = next(d["pip"] for d in env["dependencies"] if isinstance(d, dict))
    assert "python=3.11" in conda and "pip" in conda
    assert {"--constraint constraints.txt", "--editable .[all,dev]"} <= set(pip)
    theirs = pins(pip)
    assert set(theirs) == {canonicalize_name(r.name) for r in direct()}, "every direct dependency, and nothing else"
    assert theirs == {k: constraints[k] for k in theirs}


def test_python_versions_agree():
    assert PROJECT["requires-python"] == ">=3.11,<3.14"
    assert "(3, 11) <= sys.version_info[:2] < (3, 14)" in (REPO / "Makefile").read_text(encoding="utf-8")


def test_versions_agree():
    import mlwb
    assert metadata.version("mlwb") == mlwb.__version__
    assert f"## [{mlwb.__version__}]" in (REPO / "CHANGELOG.md").read_text(encoding="utf-8")


# --- notebooks ---------------------------------------------------------------------------------------------------------

def cells(path: Path) -> list[dict]:
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [{**c, "source": "".join(c["source"])} for c in found]


def names(paths): return [str(p.relative_to(REPO / "notebooks")) for p in paths]


def python(source: str) -> ast.Module:
    from IPython.core.inputtransformer2 import TransformerManager
    return ast.parse(TransformerManager().transform_cell(source))


def test_there_are_eleven_stages():
    assert [p.stem for p in STAGES] == ["00_frame", "10_extract", "20_validate", "30_explore", "40_prepare", "50_train", "60_evaluate",
                                        "70_explain", "80_approve", "90_release", "95_monitor"]


@pytest.mark.parametrize("path", STAGES, ids=names(STAGES))
def test_stage_notebook_is_thin(path):
    found = cells(path)
    assert found[0]["cell_type"] == "markdown" and found[0]["source"].startswith("# "), "begins with its title"
    tagged = [c for c in found if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1, "exactly one cell tagged `parameters`"
    for c in found:
        if c["cell_type"] != "code": continue
        assert not c["outputs"] and c["execution_count"] is None, f"outputs in git, cell {c['id']}"
        for node in ast.walk(python(c["source"])):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                assert node.end_lineno - node.lineno < 6, f"{node.name} is long: it belongs to notebooks/lib"
    assert not any("#| export" in c["source"] or "#|export" in c["source"] for c in found), "stage notebooks export nothing"
    assert sum(c["source"].count("stage.verdict(") for c in found) >= 1, "ends with a verdict"


@pytest.mark.parametrize("path", STAGES, ids=names(STAGES))
def test_stage_parameters_are_documented(path):
    cell = next(c for c in cells(path) if "parameters" in c["metadata"].get("tags", []))
    for node in python(cell["source"]).body:
        assert isinstance(node, ast.AnnAssign), f"`name: type = value  # help` only: {ast.unparse(node)}"
        line = cell["source"].splitlines()[node.lineno - 1]
        assert re.search(r"#\s*\S+", line), f"a comment says what it is: {line}"
        ast.literal_eval(node.value)


@pytest.mark.parametrize("path", LIBRARY, ids=names(LIBRARY))
def test_library_notebook_keeps_the_rhythm(path):
    found = cells(path)
    assert found[0]["cell_type"] == "markdown" and re.match(r"# .+\n\n?> \S", found[0]["source"]), "first cell: `# title`, then `> promise`"
    exported = [c for c in found if c["cell_type"] == "code" and re.match(r"#\|\s*export", c["source"])]
    for c in exported:
        lines = len(c["source"].strip().splitlines()) - 1
        assert lines <= 40, f"cell {c['id']} exports {lines} lines; 40 is the ceiling"
    total = sum(len(c["source"].strip().splitlines()) for c in exported)
    assert total <= 300, f"{total} exported lines; past 300 a module is split"
    assert len({c["id"] for c in found}) == len(found), "cell ids are unique"


# --- the catalogue -----------------------------------------------------------------------------------------------------

def messages() -> dict:
    """Every message of the code, with the files that say it: what `make messages` extracts."""
    from babel.messages.extract import extract_from_dir
    from babel.messages.frontend import _parse_mapping_toml
    with (REPO / "pyproject.toml").open("rb") as f: method, options = _parse_mapping_toml(f, "pyproject.toml", "pyproject.toml")
    found = {}
    for file, _, message, _, _ in extract_from_dir(REPO, method, options, keywords={"msg": None, "_": None},
                                                   directory_filter=lambda d: Path(d).name[:1] not in "._"):
        for m in message if isinstance(message, tuple) else [message]: found.setdefault(m, set()).add(file)
    return {m: f for m, f in found.items() if m}


def korean() -> dict:
    from babel.messages.pofile import read_po
    with (REPO / "mlwb/locale/ko/LC_MESSAGES/mlwb.po").open("rb") as f: catalogue = read_po(f, locale="ko")
    return {m.id: m for m in catalogue if m.id}


def fields(template: str) -> list:
    return sorted((name, spec or "") for _, name, spec, _ in string.Formatter().parse(template) if name is not None)


def test_korean_catalogue_translates_every_message():
    known = korean()
    missing = {m: sorted(f) for m, f in messages().items() if m not in known or not known[m].string or known[m].fuzzy}
    assert not missing, f"{len(missing)} of {len(messages())} messages without a Korean text (make messages): {list(missing.items())[:5]}"


def test_korean_catalogue_keeps_every_placeholder():
    wrong = {i: m.string for i, m in korean().items() if m.string and {n for n, _ in fields(i)} != {n for n, _ in fields(m.string)}}
    assert not wrong


def test_korean_catalogue_holds_nothing_that_is_not_said():
    assert not set(korean()) - set(messages())


# --- the tests themselves ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("ci, expected", [
    ("true", {"failed": 3, "error": 2, "passed": 1}),
    ("", {"passed": 1, "skipped": 4, "xfailed": 1})])
def test_ci_accepts_no_skip(tmp_path, ci, expected):
    (tmp_path / "conftest.py").write_text((REPO / "tests" / "conftest.py").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  data: x\n  browser: x\n", encoding="utf-8")
    (tmp_path / "test_some.py").write_text("import pytest\n"
        "def test_real(data_dir): pass\n"
        "def test_page(chromium): pass\n"
        "@pytest.mark.data\ndef test_marked(): pytest.skip('absent')\n"
        "def test_other(): pytest.skip('not here')\n"
        "@pytest.mark.xfail\ndef test_known(): assert False\n"
        "def test_fine(tmp_path): pass\n", encoding="utf-8")
    env = {k: v for k, v in os.environ.items() if k not in ("MLWB_TEST_DATA", "PYTEST_ADDOPTS")} | {"CI": ci, "PATH": ""}
    done = subprocess.run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path)], env=env, cwd=tmp_path,
                          capture_output=True, text=True)
    counts = {what: int(n) for n, what in re.findall(r"(\d+) (passed|xfailed|failed|skipped|error)", done.stdout.splitlines()[-1])}
    assert counts == expected, done.stdout
    if ci: assert "must run where CI=true. MLWB_TEST_DATA does not name" in done.stdout.replace("Skipped: ", "")


# --- make --------------------------------------------------------------------------------------------------------------

@pytest.fixture
def checkout(tmp_path):
    """A folder with a space in its name and what the Makefile reads."""
    folder = tmp_path / "a checkout"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"): shutil.copy(REPO / name, folder / name)
    return folder


def make(folder, *args, **env):
    clean = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PYTHON")}
    return subprocess.run(["make", *args], cwd=folder, env=clean | env, capture_output=True, text=True, timeout=60)


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_refuses_another_python_in_a_sentence(checkout):
    old = checkout / "python3.9"
    old.write_text("#!/bin/sh\n[ \"$1\" = -V ] && echo Python 3.9.2 && exit\nexit 1\n"); old.chmod(0o755)
    done = make(checkout, "run", f"PYTHON={old}")
    assert done.returncode == 2 and not (checkout / ".venv").exists()
    assert "needs Python 3.11, 3.12 or 3.13" in done.stderr and "is Python 3.9.2" in done.stderr and "make run PYTHON=" in done.stderr


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_installs_once_and_anew_where_the_checkout_was_copied(checkout):
    (checkout / ".venv").mkdir()
    stamp = checkout / ".venv" / ".mlwb-installed"
    stamp.write_text(f"{checkout}\n")
    assert make(checkout, "-q", "install").returncode == 0, "up to date"
    os.utime(checkout / "constraints.txt", (stamp.stat().st_mtime + 5,) * 2)
    assert make(checkout, "-q", "install").returncode == 1, "the constraints are newer"
    os.utime(checkout / "constraints.txt", (1, 1))
    stamp.write_text("/elsewhere\n")
    assert make(checkout, "-q", "install").returncode == 1, "this .venv was made elsewhere"


@pytest.mark.parametrize("name", ["run", "wheel"])
def test_ci_scripts_are_executable(name):
    path = REPO / ".ci" / name
    assert os.access(path, os.X_OK)
    assert subprocess.run(["bash", "-n", path]).returncode == 0


# --- the repository ----------------------------------------------------------------------------------------------------

def test_repository_links_lead_somewhere():
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", (REPO / name).read_text(encoding="utf-8")):
            assert (REPO / target).exists(), f"{name} links to {target}"
