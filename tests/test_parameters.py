"""What a stage can be told: types, ranges, values of every origin, their exact way into the notebook, and secrets."""

import ast
import base64
import datetime
import decimal
import html
import json
import random
import subprocess
import sys
import urllib.parse
from pathlib import Path, PurePosixPath

import nbformat
import numpy as np
import pandas as pd
import pytest

from mlwb.core.errors import InputError, UsageError
from mlwb.core.secrets import Mask, forms, reference, references, resolved, secret
from mlwb.run.declare import Declaration, declaration, parameters
from mlwb.run.graph import check_defaults, grid, read_stages, run_parameters
from mlwb.run.kinds import kind
from mlwb.run.values import Unfit, fit, read, register_translator, shown, to_source

REPO = Path(__file__).resolve().parent.parent
ALPHABET = "ab 0'\"\\\n\r\t#%!?{}[]$,:=서é\x00\x1b\x85\u2028\ud800\udcff😀"


def stage(cell: str, name: str = "train") -> list[Declaration]:
    return [Declaration(name, Path(f"50_{name}.ipynb"), parameters=parameters(cell, f"50_{name}.ipynb"))]


def one(line: str): return next(iter(parameters(line, "a.ipynb").values()))


def notebook(folder: Path, cell: str, *more: str) -> Path:
    cells = [nbformat.v4.new_code_cell(cell, metadata={"tags": ["parameters"]}), *map(nbformat.v4.new_code_cell, more)]
    meta = {"kernelspec": {"name": "python3", "language": "python", "display_name": "python3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=meta), folder / "in.ipynb")
    return folder / "in.ipynb"


def same(a, b) -> bool:
    """Equal, and of equal types all the way down; -0.0 is not 0.0."""
    if type(a) is not type(b): return False
    if isinstance(a, (list, tuple)): return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict): return len(a) == len(b) and all(same(x, y) and same(a[x], b[y]) for x, y in zip(a, b))
    return repr(a) == repr(b)


# --- random values -----------------------------------------------------------------------------------------------------

def text(r, alphabet=ALPHABET): return "".join(r.choices(alphabet, k=r.randrange(12)))


def number(r): return r.choice([0, 1, -1, r.randrange(-10**6, 10**6), r.getrandbits(64), -r.getrandbits(2000), 10**4299])


def decimal_number(r): return r.choice([0.0, -0.0, 5e-324, 1.7976931348623157e308, r.random(), -r.random() * 10 ** r.randrange(-300, 300)])


def plain(r, depth=0):
    leaf = [lambda: None, lambda: r.random() < .5, lambda: number(r), lambda: decimal_number(r), lambda: text(r)]
    if depth > 3 or r.random() < .5: return r.choice(leaf)()
    many = [plain(r, depth + 1) for _ in range(r.randrange(4))]
    key = r.choice([lambda: text(r), lambda: r.randrange(-99, 99)])
    return r.choice([list, tuple, lambda v: {key(): x for x in v}])(many)


def annotation(r, depth=0):
    if depth > 2 or r.random() < .5: return r.choice(["str", "int", "float", "bool"])
    return r.choice([lambda: f"list[{annotation(r, depth + 1)}]", lambda: f"tuple[{annotation(r, depth + 1)}, ...]",
                     lambda: f"tuple[{annotation(r, depth + 1)}, {annotation(r, depth + 1)}]", lambda: f"dict[str, {annotation(r, depth + 1)}]",
                     lambda: f"{annotation(r, depth + 1)} | None"])()


def of_kind(r, k):
    """A value of a kind, as plain Python, and the same as other packages have it."""
    if k.none and r.random() < .3: return None, None
    if k.name == "str": return (v := text(r, "ab 0'\"\\\n#서é,[]")), r.choice([str, np.str_])(v)
    if k.name == "int": return (v := r.randrange(-2**40, 2**40)), r.choice([int, np.int64, decimal.Decimal, np.array])(v)
    if k.name == "float": return (v := decimal_number(r)), r.choice([float, np.float64, np.array])(v)
    if k.name == "bool": return (v := r.random() < .5), r.choice([bool, np.bool_])(v)
    if k.name == "dict":
        found = {text(r, "abc"): of_kind(r, k.of[1]) for _ in range(r.randrange(4))}
        return {a: v for a, (v, _) in found.items()}, {np.str_(a): w for a, (_, w) in found.items()}
    inner = k.of if ... not in k.of and k.name == "tuple" else k.of[:1] * r.randrange(4)
    pairs = [of_kind(r, i) for i in inner]
    return (list if k.name == "list" else tuple)(v for v, _ in pairs), r.choice([list, tuple])(w for _, w in pairs)


# --- the schema in the cell --------------------------------------------------------------------------------------------

class TestCell:
    @pytest.mark.parametrize("line, good, bad", [
        ("x: int = 12  # budget, at least 1", ["1", "99"], ["0", "-5", "1.0", "true", ""]),
        ("x: int = 3  # at most 10", ["10", "-1"], ["11"]),
        ("x: float = .5  # share, above 0 and below 1", [".001", "0.999"], ["0", "1", "nan", "inf", "-inf", "1e999"]),
        ("x: float = 0.5  # Between 0 and 1", ["0", "1"], ["-0.001", "1.001"]),
        ("x: int = 5_000  # from 1,000 to 25,000 rows", ["1000", "25_000"], ["999", "25001"]),
        ("x: float = -0.5  # from −1 to 1", ["-1"], ["-1.5"]),
        ("x: int = 4  # never above 5, not below 2", ["2", "5"], ["6", "1"]),
        ("x: list[float] = [.1, .9]  # each above 0 and below 1", [".5", "[.2, .3]", ""], [".5, 1", "[0]"]),
        ("x: dict[str, int] = {'a': 1}  # at least 1", ["{'b': 2}"], ["{'b': 0}", "b=1", "[1]"]),
        ("x: list[list[int]] = [[1]]  # at least 1", ["[1,2],[3]", "[[4]]"], ["[1,2],[0]", "1, 2"]),
        ("x: float = 0  # seconds, at least 1; 0: no limit", ["0", "1.5"], ["0.5", "-1"]),
        ("x: str = 'log'  # one of: log, score", ["log", "score"], ["logs", "", "Log"]),
        ("x: str = ''  # one of: log, score; empty: neither", ["", "log"], ["neither"]),
        ("x: str = 'log'  # which (one of: log, score), at least 5 of them", ["score"], ["at least 5 of them"]),
        ("x: int = 2  # one of: 1, 2, 4", ["4"], ["3", "one"]),
        ("x: list[str] = ['a']  # one of: a, b", ["a, b", "[]"], ["a, c"]),
        ("x: int | None = None  # at least 1", ["none", "", "3"], ["0", "nothing"]),
        ("x: 'Optional[float]' = None", ["None", "0"], ["x"]),
        ("x: bool = True  # above 5 it is loud", ["no", "ON", "0"], ["2", "maybe"]),
        ("x: str = 'a'  # at least 5 # characters", ["b"], []),
        ("x = 3", ["4"], ["4.5"]), ("x = (1, 2.5)", ["1, 2"], ["1, b"]), ("x = None", ["none", "text", "[1, 2]"], []),
    ])
    def test_comment_and_annotation_are_checked(self, line, good, bad):
        p = one(line)
        p.verify("a.ipynb")
        for given in good: p.parse(given)
        for given in bad:
            with pytest.raises(UsageError, match="^s.x takes "): p.parse(given, "s")

    @pytest.mark.parametrize("cell, words", [
        ("x: int = 'many'", "the default of the parameter 'x' is 'many', but it takes a whole number."),
        ("x: int = True", "is True, but"), ("x: bool = 1", "is 1, but"), ("x: int = 1.0", "is 1.0, but"), ("x: str = 1", "takes text"),
        ("x: str = ['a']", "takes text"), ("x: float = 1e999", "NaN and infinity"), ("x: list[int] = [1, 'a']", "list of whole numbers"),
        ("x: int = 0  # at least 1", "takes a whole number (at least 1). Change the default, or its comment: at least 1"),
        ("x: list[float] = [.5, 2]  # below 1", "2.0 is out of range"), ("x: str = 'b'  # one of: bb, c", "Did you mean 'bb'?"),
        ("x: tuple[int, int] = (1, 2, 3)", "it has 3 values, not 2"), ("x: str = 'hunter22'  # a secret", "a secret in plain text (not shown here)")])
    def test_a_default_edited_by_hand_names_its_notebook(self, cell, words):
        stages = stage(cell)
        with pytest.raises(InputError, match="^50_train.ipynb: ") as e: run_parameters(stages, {}, given=["train.x=1"])
        assert words in str(e.value) and "hunter" not in str(e.value) and not isinstance(e.value, UsageError)

    @pytest.mark.parametrize("cell", ["x: float = 5", "x: int = None  # at least 1", "x: str = ''  # one of: a, b", "x: float = 0  # above 1; 0: none",
                                      "x = []", "x: list[int] = []  # at least 1", "x: tuple = (1, 'a')", "x: dict[str, list[int]] = {'a': [1]}"])
    def test_a_documented_none_is_no_error(self, cell): check_defaults(stage(cell))

    @pytest.mark.parametrize("cell, words", [
        ("x: pd.DataFrame = None", "`pd.DataFrame` is no type"), ("x: int | str = 1", "is no type"), ("x: set[int] = None", "is no type"),
        ("x: date = '2013-04-01'", "A date or a path is annotated as str"), ("x: pathlib.Path = ''", "annotated as str"), ("x: 'a b' = 1", "is no type"),
        ("x = {1, 2}", "`set` is no type"), ("x = b'a'", "`bytes` is no type"), ("x: int = f()", "must be a plain value"),
        ("x: int = {[]: 1}", "must be a plain value"),
        ("x: int", "has no default"), ("x: int = 3  # from 5 to 1", "no number is at least 5 and at most 1"),
        ("x: int = 3  # above 3, at most 3", "no number is"),
        ("x: int = 3  # one of: three, four", "a choice that its comment lists is not")])
    def test_a_declaration_that_says_nothing_possible_is_refused(self, cell, words):
        with pytest.raises(InputError, match="^a.ipynb: the parameter 'x'") as e: one(cell)
        assert words in str(e.value)

    def test_a_comment_over_several_lines_and_a_hash_in_a_text(self):
        got = parameters('x: list[str] = [  # colours,\n    "#a",\n    "b",  # one of: #a, b\n]\ny: str = "# at least 5"')
        assert got["x"].choices == ("#a", "b") and got["x"].default == ["#a", "b"] and got["y"].help == ""

    def test_a_number_where_a_number_is_meant_has_one_form(self):
        assert same(one("x: float = 5").default, 5.0) and same(one("x: float = 1.").parse("5"), 5.0) and same(one("x: float = 1.").check(5), 5.0)

    def test_the_declaration_of_a_stage(self, tmp_path):
        path = notebook(tmp_path, "x: int = 1",
                        "import mlwb\ns = mlwb.stage('a', [], ['m'], reads=['source'], writes=['registry:champion'], timeout=2.5, cache=False)")
        d = declaration(path)
        assert (d.produces, d.reads, d.writes, d.timeout, d.cache) == (("m",), ("source",), ("registry:champion",), 2.5, False)
        assert declaration(notebook(tmp_path, "", "mlwb.stage('a')")).cache is True

    @pytest.mark.parametrize("arguments, words", [
        ("'a', needs='model'", "needs is a list of names"), ("'a', reads=[1]", "reads is a list"), ("'a', reads=['registri']", "Did you mean 'registry'"),
        ("'a', writes=['http://x']", "Allowed: file, log, registry, source, table"), ("'a', reads=['table:']", "names nothing"),
        ("'a', needs=['']", "list of names"),
        ("'a', timeout='1'", "seconds above 0"), ("'a', timeout=-1", "seconds above 0"), ("'a', timeout=True", "seconds above 0"),
        ("'a', cache=0", "True or False"),
        ("'a', timeout=1e999", "seconds above 0"),
        ("'a', tiemout=1", "Did you mean 'timeout'? Allowed: cache, name, needs, produces, reads, timeout, writes"),
        ("'a', [], [], [], [], 1, True, 2", "takes 7 arguments"), ("needs=[]", "wants a name"), ("**{'name': 'a'}", "argument of mlwb.stage"),
        ("5", "letters, digits")])
    def test_a_wrong_declaration(self, tmp_path, arguments, words):
        path = notebook(tmp_path, "", f"mlwb.stage({arguments})")
        with pytest.raises(InputError) as e: declaration(path)
        assert words in str(e.value) and "in.ipynb" in str(e.value)


# --- values ------------------------------------------------------------------------------------------------------------

class TestValues:
    @pytest.mark.parametrize("type_, value, expected", [
        ("int", np.int64(5), 5), ("int", np.uint8(5), 5), ("int", np.array(5), 5), ("int", decimal.Decimal("5"), 5), ("float", np.float32(.5), .5),
        ("float", 5, 5.0), ("float", decimal.Decimal("0.1"), .1), ("bool", np.bool_(True), True), ("str", np.str_("a"), "a"),
        ("str", datetime.date(2013, 4, 1), "2013-04-01"), ("str", datetime.datetime(2013, 4, 1, 5), "2013-04-01T05:00:00"),
        ("str", pd.Timestamp("2013-04-01 05:00", tz="Asia/Seoul"), "2013-04-01T05:00:00+09:00"), ("str", np.datetime64("2013-04-01"), "2013-04-01"),
        ("str", np.datetime64("2013-04-01T05:00:00.5", "ns"), "2013-04-01T05:00:00.500000"), ("str",
        np.datetime64("2013-04-01T00:00:00.000000001"), "2013-04-01T00:00:00.000000001"),
        ("str", PurePosixPath("/a/b.csv"), "/a/b.csv"), ("list[int]", (1, 2), [1, 2]), ("list[int]", {3, 10, 2}, [2, 3, 10]), ("list[int]", range(2), [0, 1]),
        ("list[float]", np.arange(2), [0.0, 1.0]), ("list[list[int]]", np.eye(2, dtype=int), [[1, 0], [0, 1]]), ("tuple[int, ...]", [1, 2], (1, 2)),
        ("tuple[str, int]", ["a", np.int8(1)], ("a", 1)), ("tuple", (1, (2, "a")), (1, (2, "a"))), ("list", (1, (2,)), [1, (2,)]),
        ("list[str]", frozenset({"b", "a"}), ["a", "b"]),
        ("list[str]", pd.Series(pd.to_datetime(["2013-04-01"])), ["2013-04-01T00:00:00"]), ("list[int]", pd.Index([1, 2]), [1, 2]),
        ("dict[str, list[float]]", {"a": np.array([1, 2])}, {"a": [1.0, 2.0]}), ("dict[int, str]", {np.int64(1): "a"}, {1: "a"}), ("int | None", None, None),
        ("list[int | None]", [1, None], [1, None]), ("dict", {"a": {"b": (None, True)}}, {"a": {"b": (None, True)}})])
    def test_codecs(self, type_, value, expected):
        assert same(one(f"x: {type_} = None").check(value), expected)

    @pytest.mark.parametrize("type_, default, value, words", [
        ("int", 1, True, "not True (bool)"), ("int", 1, 5.0, "not 5.0 (float)"), ("int", 1, "5", "not '5' (str)"), ("int", 1, None, "not None (NoneType)"),
        ("float", 1., np.float64("nan"), "(numpy.float64): NaN and infinity have no place"), ("float", 1., float("inf"), "infinity"),
        ("float", 1., 10**400, "infinity"),
        ("float", 1., decimal.Decimal("NaN"), "NaN"), ("float", 1., True, "(bool)"), ("float", 1., 1j, "(complex)"), ("bool", True, 1, "takes true or false"),
        ("str", "", 5, "not 5 (int)"), ("str", "", b"a", "(bytes)"), ("str", "", pd.NaT, "missing"), ("str", "", pd.NA, "(pandas.NAType)"),
        ("str", "", "\udcff", "surrogate"),
        ("str", "", datetime.timedelta(1), "(datetime.timedelta)"), ("int", 1, np.timedelta64(1, "s"), "(numpy.timedelta64)"),
        ("list[str]", [], "a, b", "not 'a, b' (str)"),
        ("list[float]", [], [1, float("nan")], "NaN"), ("list[int]", [], np.ma.masked_array([1, 2], [True, False]), "(numpy.MaskedArray)"),
        ("list", [], pd.DataFrame({"a": [1]}), "(pandas.DataFrame)"), ("tuple[int, int]", (1, 2), (1, 2, 3), "3 values, not 2"),
        ("dict[str, int]", {}, {1: 1}, "(dict)"),
        ("dict", {}, {"a": 1, 2: 1}, "not all text"), ("dict", {}, {(1, 2): 3}, "(dict)"), ("int", 1, 10**4300, "more than 4,300 digits"),
        ("list", [], [object()], "(list)")], ids=shown)
    def test_what_has_no_form_is_refused_with_its_type(self, type_, default, value, words):
        stages = stage(f"x: {type_} = {default!r}")
        with pytest.raises(UsageError, match=r"^train\.x takes ") as e: run_parameters(stages, {}, values={"train.x": value})
        assert words in str(e.value) and len(str(e.value)) < 400

    @pytest.mark.parametrize("type_, written, value", [
        ("int", "5", np.int64(5)), ("float", "5", 5), ("float", "1e-3", decimal.Decimal("0.001")), ("bool", "yes", np.True_),
        ("str", "2013-04-01", datetime.date(2013, 4, 1)),
        ("str", "a b.csv", PurePosixPath("a b.csv")), ("list[str]", "a, 'b, c'", ("a", "b, c")), ("list[int]", "[1, 2]", {2, 1}),
        ("list[float]", "1, 2", np.array([1, 2])),
        ("tuple[int, ...]", "1,2", [1, 2]), ("tuple[float, str]", "1, a", (1, "a")), ("dict[str, float]", '{"a": 1}', {"a": np.float64(1)}),
        ("list[list[int]]", "[1,2],[3]", [(1, 2), [3]]),
        ("int | None", "none", None), ("list[bool]", "true, no", np.array([True, False])), ("list[bool]", "[true, false]", [True, False]),
        ("dict", '{"a": null}', {"a": None})])
    def test_text_and_python_mean_the_same(self, type_, written, value):
        p = one(f"x: {type_} = None")
        assert same(p.parse(written), p.check(value))

    def test_random_values_of_random_types(self):
        r = random.Random(1)
        for _ in range(3000):
            k = kind(annotation(r))
            value, foreign = of_kind(r, k)
            assert same(fit(value, k), value) and same(fit(foreign, k), value), (str(k), value, foreign)
            assert kind(str(k)) == k
            if isinstance(value, (list, tuple, dict)) or k.name != "str" and value is not None: assert same(read(repr(value), k), value), (str(k), value)

    def test_random_rubbish_is_a_value_or_an_error_of_ours(self):
        r, rubbish = random.Random(2), ["[", "{'a':", "nan", "[[[[", "'", '"a" "b"', "1,,2", "\\", "(1", "{1}", "lambda: 0", "__import__('os')",
        "-" * 3000, "9" * 5000, "\x00", "[1" + "0" * 5000 + "]"]
        refused = 0
        for _ in range(3000):
            p = one(f"x: {annotation(r)} = None")
            given = r.choice([r.choice(rubbish), text(r)])
            try: value = p.parse(given)
            except UsageError as e: refused += 1; assert len(str(e)) < 500
            else: json.dumps(value, allow_nan=False).encode()
        assert 1000 < refused < 3000


# --- into the notebook -------------------------------------------------------------------------------------------------

class TestInjection:
    def translator(self):
        from papermill.translators import papermill_translators
        register_translator()
        return papermill_translators.find_translator("python3", "python")

    def test_random_values_come_back_exactly(self):
        from IPython.core.inputtransformer2 import TransformerManager
        translate, r = self.translator().codify, random.Random(3)
        for i in range(3000):
            value, got = plain(r), {}
            cell = translate({"x": value, "y": i})
            if i % 10 == 0: assert TransformerManager().transform_cell(cell) == cell, "no line is a magic or a shell command"
            exec(compile(cell, "cell", "exec"), got)
            assert same(got["x"], value) and got["y"] == i

    @pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"a": -float("inf")}, np.int64(1), (np.float64(1),),
    datetime.date(2013, 4, 1), Path("a"), {1}, b"a", 1j, ..., 10**4300,
                                       type("Text", (str,), {})("a")], ids=shown)
    def test_what_it_cannot_write_it_refuses_by_name(self, value):
        with pytest.raises(UsageError, match="^The parameter 'since': .*can't be written into a notebook"): self.translator().codify({"since": value})

    def test_registering_twice_changes_nothing_and_values_needs_no_papermill(self):
        assert self.translator() is self.translator()
        code = "import sys, mlwb.run.graph, mlwb.core.secrets; print([m for m in ('papermill', 'numpy', 'pandas', 'nbformat') if m in sys.modules])"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"

    def test_papermill_knows_every_parameter(self):
        cell = {"source": "wait: float | None = None  # seconds\nname: 'str' = '#1'  # of it\nn: int = 5"}
        found = {p.name: (p.inferred_type_name, p.default, p.help) for p in self.translator().inspect(cell)}
        assert found == {"wait": ("float | None", "None", "seconds"), "name": ("str", "'#1'", "of it"), "n": ("int", "5", "")}
        assert [p.name for p in self.translator().inspect({"source": "n: int = f()  # a call"})] == ["n"], "what we refuse, papermill reads in its own way"

    def test_through_papermill_and_a_kernel(self, tmp_path, caplog):
        """A tuple, a date, a path, numpy's numbers and Korean, as they are given, and valid JSON afterwards."""
        import papermill
        cell = ("span: tuple[int, ...] = ()\nsince: str = ''\ndata: str = ''\nrate: float = .1\nname: str = ''\nwait: float | None = 1.\n"
                "tree: dict[str, list[int]] = {}\nhuge: int = 0")
        values = {"span": (1, 2), "since": datetime.date(2013, 4, 1), "data": Path("a b/표.csv"),
        "rate": np.float32(.5), "name": "서울's \"x\"\n%magic", "wait": None,
                  "tree": {"depth": np.array([4, 8])}, "huge": 2**200}
        source = notebook(tmp_path, cell, "import json\nprint(ascii([span, since, data, rate, name, wait, tree, huge]))")
        before = source.read_bytes()
        given = run_parameters(stage(cell), {}, values={f"train.{k}": v for k, v in values.items()})["train"]
        register_translator()
        papermill.execute_notebook(str(source), str(tmp_path / "out.ipynb"), parameters=given, progress_bar=False)
        done = json.loads((tmp_path / "out.ipynb").read_text(encoding="utf-8"), parse_constant=pytest.fail)
        said = "".join(done["cells"][-1]["outputs"][-1]["text"])
        assert same(ast.literal_eval(said), [(1, 2), "2013-04-01", "a b/표.csv", .5, "서울's \"x\"\n%magic", None, {"depth": [4, 8]}, 2**200])
        assert "unknown parameter" not in caplog.text and source.read_bytes() == before and "서울" in "".join(done["cells"][1]["source"])


# --- a run's parameters ------------------------------------------------------------------------------------------------

class TestRun:
    CELL = "trials: int = 12  # at least 1\nmodels: str = 'hgb'\ndepths: list[int] = []\nseed: int = 0\npassword: str = ''"

    def test_layers(self):
        stages, overlays = stage(self.CELL), {"ci": {"train.trials": "2", "train.seed": "7"}}
        assert run_parameters(stages, overlays, "ci", ["train.trials=3"], {"train.depths": np.array([1])}) == {"train": {"trials": 3, "seed": 7, "depths": [1]}}
        assert run_parameters(stages, overlays, "ci", values={"train.seed": 1}) == {"train": {"trials": 2, "seed": 1}}
        assert run_parameters(stages, overlays) == {}

    @pytest.mark.parametrize("arguments, words", [
        (dict(given=["train.trails=3"]), "Did you mean 'trials'"), (dict(values={"train.trails": 3}), "Did you mean 'trials'"),
        (dict(values={"trials": 3}), "Did you mean 'train.trials'"),
        (dict(values={5: 3}), "written stage.key, not 5"), (dict(given=["train.trials=3"], values={"train.trials": 3}), "given twice"),
        (dict(given=["train.trials=0"]), "(at least 1), not '0'"),
        (dict(values={"train.trials": np.int64(0)}), "(numpy.int64)"), (dict(env="prod"), "There is no environment 'prod'")])
    def test_refused_before_anything_runs(self, arguments, words):
        with pytest.raises(UsageError) as e: run_parameters(stage(self.CELL), {}, **arguments)
        assert words in str(e.value)

    def test_an_overlay_that_is_not_used_is_checked_too(self):
        with pytest.raises(UsageError, match=r"in \[run.x\] of settings.ini"): run_parameters(stage(self.CELL), {"x": {"train.trails": "1"}})

    @pytest.mark.parametrize("texts, expected", [
        ([], [{}]), (["train.trials=3"], [{"train.trials": "3"}]),
        (["train.trials=1,2", "train.seed=0, 1"], [{"train.trials": t, "train.seed": s} for t in "12" for s in "01"]),
        (["train.trials=2,1,02, 1"], [{"train.trials": "2"}, {"train.trials": "1"}]),
        (["train.depths=[1,2],[3],[]"], [{"train.depths": v} for v in ("[1,2]", "[3]", "[]")]),
        (["train.depths=1,2"], [{"train.depths": "1"}, {"train.depths": "2"}]),
        (["train.models='a, b',c,\"\""], [{"train.models": v} for v in ("a, b", "c", "")]),
        (["train.models=don't,f(a, b)"], [{"train.models": "don't"}, {"train.models": "f(a, b)"}])])
    def test_grid(self, texts, expected):
        points = grid(stage(self.CELL), texts)
        assert points == expected
        for p in points: run_parameters(stage(self.CELL), {}, given=[f"{k}={v}" for k, v in p.items()])

    @pytest.mark.parametrize("texts, given, words", [
        (["train.trials"], [], "--grid takes stage.key=value"), (["train.trials="], [], "empty value"), (["train.trials=1,"], [], "empty value"),
        (["tran.trials=1"], [], "Did you mean 'train'"),
        (["train.trails=1"], [], "Did you mean 'trials'"), (["trials=1,2"], [], "Did you mean 'train.trials'"), (["train.trials=1",
        "train.trials=2"], [], "twice"),
        (["train.trials=1,2"], ["train.trials=3"], "set by -p and varied by --grid"), (["train.trials=1,0"], [], "not '0'"),
        (["train.depths=[1,2"], [], "a closing ] is missing"),
        (["train.models='a"], [], "a closing ' is missing"), (["train.password=env:A,hunter22"], [], "train.password is a secret"),
        (["train.password=hunter22,"], [], "empty value")])
    def test_grid_refuses(self, texts, given, words):
        with pytest.raises(UsageError) as e: grid(stage(self.CELL), texts, given)
        assert words in str(e.value) and "hunter" not in str(e.value)

    def test_the_eleven_stages(self):
        stages = read_stages(REPO / "notebooks" / "stages")
        check_defaults(stages)
        used = ["train.trials=1", "train.models=logistic, hgb", "frame.min_auc=0.999", "frame.max_calibration_error=1", "frame.min_r2=-1",
        "monitor.source=log",
                "evaluate.resamples=10", "approve.resamples=10", "prepare.cuts=", "frame.cost_hit=0", "release.batch=monitor", "train.seed=4294967295"]
        assert run_parameters(stages, {}, given=used)["train"] == {"trials": 1, "models": "logistic, hgb", "seed": 4294967295}
        for wrong in ("train.trials=0", "train.rows=0", "train.seed=-1", "train.seed=4294967296", "evaluate.resamples=1", "explain.rows=0",
        "monitor.alpha=0", "monitor.alpha=1",
                      "monitor.tolerance=-.1", "frame.min_auc=1.1", "frame.min_r2=-2", "frame.max_calibration_error=-.1", "frame.cost_per_unit=0",
                      "frame.cost_false_alarm=0"):
            with pytest.raises(UsageError, match="Its comment says"): run_parameters(stages, {}, given=[wrong])
        assert not [p.name for d in stages for p in d.parameters.values() if p.secret], "no false alarm"


# --- secrets -----------------------------------------------------------------------------------------------------------

NASTY = ["hunter22", 'p"a\'ss\\w/ö&<r>d%+ =', "서울비밀번호123", "two\nlines of it", " padded secret ", "AAAAAA", "ab{}[].*+?^$|()"]


class TestSecrets:
    @pytest.mark.parametrize("line, is_secret", [
        ("password: str = ''", True), ("db_password: str = 'env:DB'", True), ("apiKey: str = ''", True), ("api_key: str | None = None", True),
        ("aws_secret_access_key: str = ''", True),
        ("access_token: str = ''", True), ("dsn: str = ''  # of the database, a secret", True), ("key: str = ''  # column", False),
        ("primary_key: str = ''", False), ("tokens: int = 5", False),
        ("max_tokens: str = ''", False), ("password_column: str = ''", False), ("pad_token: str = '[PAD]'", False),
        ("token: str = ''  # a word, not a secret", False), ("secrets: list[str] = []", False),
        ("secretary: str = ''", False), ("target: str = ''", False)])
    def test_what_counts_as_one(self, line, is_secret): assert one(line).secret is is_secret

    @pytest.mark.parametrize("given", ["hunter22", "env:", "env:1hunter22", "env:hunter 22", "ENV:hunter22", np.str_("hunter22"),
    PurePosixPath("hunter22"), b"hunter22", ["hunter22"]], ids=repr)
    def test_a_plain_one_is_refused_and_never_shown(self, given):
        p = one("password: str = ''  # of the database")
        for take in (p.parse, p.check) if isinstance(given, str) else (p.check,):
            with pytest.raises(UsageError) as e: take(given, "extract")
            assert "hunter" not in str(e.value) and "extract.password" in str(e.value)
            if isinstance(given, str): assert "env:NAME" in str(e.value)

    def test_a_reference_is_fine(self):
        p = one("password: str = ''")
        assert p.parse("env:DB_PASSWORD") == p.check("env:DB_PASSWORD") == "env:DB_PASSWORD" and p.parse("") == ""

    def test_resolving(self, monkeypatch):
        monkeypatch.setenv("T_SECRET", "hunter22"); monkeypatch.setenv("T_SHORT", "12345"); monkeypatch.setenv("T_EMPTY", "")
        import mlwb
        assert mlwb.secret("env:T_SECRET") == "hunter22" and "T_SECRET" in resolved()
        for ref, error, words in (("env:T_SHORT", InputError, "fewer than 6"), ("env:T_EMPTY", InputError, "is empty"),
        ("env:T_SECRT", InputError, "Did you mean 'T_SECRET'"),
                                  ("hunter22", UsageError, "env:NAME"), ("", UsageError, "env:NAME"), (None, UsageError, "env:NAME")):
            with pytest.raises(error, match=words) as e: secret(ref)
            assert "hunter22" not in str(e.value) and "12345" not in str(e.value)
        assert not {"T_SHORT", "T_EMPTY"} & resolved()

    def test_references(self):
        assert references({"a": "env:A", "b": ["x", {"c": ("env:B",)}], "d": "see env:C", 5: {"env:KEY": 1}}) == {"A", "B"}
        assert reference("env:A") == "A" and reference(" env:A ") == "A" and not reference("env:A B") and not reference(5)

    @pytest.mark.parametrize("value", NASTY, ids=repr)
    @pytest.mark.parametrize("show", [
        str, repr, ascii, json.dumps, lambda s: json.dumps(s, ensure_ascii=False), lambda s: json.dumps(repr({"k": [s]})),
        lambda s: json.dumps({"a": json.dumps({"b": s})}), html.escape,
        lambda s: html.escape(s, quote=False), lambda s: html.escape(repr(s)), lambda s: html.escape(json.dumps(s)),
        lambda s: json.dumps(html.escape(s)), urllib.parse.quote,
        urllib.parse.quote_plus, lambda s: urllib.parse.quote(s, safe=""), lambda s: repr(s.encode()), lambda s: s.encode().hex(),
        lambda s: base64.b64encode(s.encode()).decode(),
        lambda s: base64.b64encode(b"a" + s.encode() + b"z").decode(), lambda s: base64.urlsafe_b64encode(b"ab" + s.encode() + b"yz").decode(),
        lambda s: urllib.parse.urlencode({"p": s}), lambda s: json.dumps(s.splitlines(keepends=True)) if len(s.splitlines()[-1]) > 15 else json.dumps(s)])
    def test_every_form_is_found_and_masked(self, value, show):
        mask, said = Mask(["S"], {"S": value}), f"before {show(value)} after"
        assert mask.found(said) == mask.found(said.encode()) == {"S"}
        masked = mask.text(said)
        assert "[env:S]" in masked and not mask.found(masked) and masked.startswith("before ") and masked.endswith(" after")

    def test_overlapping_secrets_leave_nothing(self):
        r = random.Random(4)
        for _ in range(300):
            environ = {n: "".join(r.choices("ab", k=r.randrange(6, 10))) for n in "ABC"}
            mask, said = Mask(environ, environ), "".join(r.choices("ab", k=60))
            masked = mask.text(said)
            for v in environ.values(): assert v not in masked
            inside = [any(said.startswith(v, i) for v in environ.values() for i in range(max(0, at - len(v) + 1), at + 1)) for at in range(60)]
            kept = masked
            for n in environ: kept = kept.replace(f"[env:{n}]", "")
            assert kept == "".join(c for c, hidden in zip(said, inside) if not hidden), "exactly what belongs to no secret stays"
        assert Mask(["A", "B"], {"A": "abcdef", "B": "xxabcdefxx"}).text("1 xxabcdefxx abcdef") == "1 [env:B] [env:A]"
        assert Mask(["A", "B"], {"A": "same-value", "B": "same-value"}).found("a same-value") == {"A", "B"}

    def test_outputs_of_a_notebook(self):
        mask = Mask(["S"], {"S": "hunter22"})
        out = [nbformat.v4.new_output("stream", text="pw hunter22\n"), nbformat.v4.new_output("error", ename="E", evalue="hunter22",
        traceback=["\x1b[31mhun\x1b[0mter22", "ok"]),
               nbformat.v4.new_output("display_data", {"text/html": "<b>hunter22</b>",
                                                           "application/json": {"hunter22": ["hunter22", 1, None, [True]]}, "image/png": "aGVsbG8="})]
        masked = mask.any(out)
        assert not mask.found(json.dumps(masked)) and json.dumps(masked).count("[env:S]") == 6 and all(type(m) is type(o) for m, o in zip(masked, out))
        assert masked[0].text == "pw [env:S]\n" and masked[2].data["application/json"] == {"[env:S]": ["[env:S]", 1, None, [True]]}
        assert "hunter22" in out[0].text, "what was given stays as it was"
        assert mask.any(fine := {"a": [1, "b", ("c",)]}) is fine and not Mask(["UNSET"], {}) and Mask(["UNSET"], {}).text("x") == "x"

    def test_a_key_of_several_lines(self):
        lines = ["".join(random.Random(i).choices("ABCdef0123+/", k=64)) for i in range(5)]
        key = "\n".join(["-----BEGIN SOME KEY-----", *lines, "-----END SOME KEY-----", ""])
        mask = Mask(["KEY"], {"KEY": key})
        assert mask.any([x + "\n" for x in ("a", *key.splitlines(), "b")]) == ["a\n", "[env:KEY]b\n"]
        assert all(mask.found(f"| {x} |") for x in lines) and not mask.found("-----BEGIN SOME KEY-----")
        saved = nbformat.writes(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=[nbformat.v4.new_output("stream", text=key)])]))
        assert mask.found(saved.encode()) == {"KEY"}

    def test_short_ones_are_refused_and_ordinary_text_is_left_alone(self):
        with pytest.raises(InputError, match="environment variable PIN has fewer than 6") as e: Mask(["PIN"], {"PIN": "98765"})
        assert "98765" not in str(e.value)
        r, mask = random.Random(5), Mask(map(str, range(len(NASTY))), {str(i): v for i, v in enumerate(NASTY) if v != "AAAAAA"})
        for p in (REPO / "README.md", REPO / "CONTRIBUTING.md", REPO / "notebooks/stages/50_train.ipynb"): assert not mask.found(p.read_bytes()), p
        assert not mask.found(base64.b64encode(r.randbytes(300_000)).decode()) and all(len(f) >= 6 for v in NASTY for f in forms(v))

    def test_papermills_failure_a_secret_stands_twice_in_the_notebook(self, tmp_path, monkeypatch):
        import papermill
        monkeypatch.setenv("T_DB_PASSWORD", value := 'hunter"22/서울')
        cell = "password: str = ''  # of the database"
        source = notebook(tmp_path, cell, "import mlwb\npw = mlwb.secret(password)\nprint('connecting with', pw)\n{'pw': pw}",
                          "import base64, sys\nfor c in pw: print(c, end='', flush=True)\n"
                          "print(base64.b64encode(f'ann:{pw}'.encode()).decode(), file=sys.stderr)")
        given = run_parameters(stage(cell, "extract"), {}, given=["extract.password=env:T_DB_PASSWORD"])["extract"]
        register_translator()
        nb = papermill.execute_notebook(str(source), str(tmp_path / "out.ipynb"), parameters=given, progress_bar=False)
        mask = Mask(references(given))
        assert given == {"password": "env:T_DB_PASSWORD"} and "env:T_DB_PASSWORD" in nb.cells[1].source
        assert not mask.found(json.dumps([nb.metadata, *[c.source for c in nb.cells]]))
        assert mask.found((tmp_path / "out.ipynb").read_bytes()) == {"T_DB_PASSWORD"}, "the cells printed it"
        safe = nbformat.writes(mask.any(nb))
        assert not mask.found(safe) and value not in safe and safe.count("[env:T_DB_PASSWORD]") == 4


def test_exact_source_is_readable_python(): assert to_source({"이름": ("a", 1)}) == "{'이름': ('a', 1)}"


def test_reading_never_evaluates():
    for given in ("__import__('os').getcwd()", "[f()]", "[x for x in 'ab']", "1 if True else 2"):
        for type_ in ("list[str]", "int", "dict", "Any"):
            try: value = read(given, kind(type_))
            except (Unfit, ValueError): continue
            assert isinstance(value, (str, list)) and all(isinstance(v, str) for v in value)
