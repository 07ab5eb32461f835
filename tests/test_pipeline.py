"""The whole lifecycle for real: kernels, notebooks, models, reports."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

REPO = Path(__file__).resolve().parent.parent
STAGES = ["frame", "extract", "validate", "explore", "prepare", "train", "evaluate", "explain", "approve", "release", "monitor"]
LEAKS = ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"]


def artifact(root, document, name):
    from mlwb.core.workspace import Project
    from mlwb.run.artifacts import load_artifact
    from mlwb.run.record import Run
    return load_artifact(Run(Project(root), document["run"]), name)


def papermill(*arguments, cwd):
    return subprocess.run([Path(sys.executable).with_name("papermill"), *arguments], cwd=cwd, capture_output=True, text=True)


def statuses(document): return {s["name"]: s["status"] for s in document["stages"]}


@pytest.fixture(scope="session")
def adult(cli, make_project, data_dir):
    """Adult: classification, strings, missing values, no time; with a goal and costs as init writes them."""
    root = make_project(data_dir / "adult.parquet", "class", name="adult")
    done = cli("run", "--json", "--env", "quick", cwd=root)
    assert done.returncode == 0, done.stderr
    return root, done.json


@pytest.fixture(scope="session")
def bike(cli, make_project, data_dir):
    """Bike rental: regression, ordered by time, two columns that add up to the target."""
    root = make_project(data_dir / "bike_hourly.parquet", "cnt", time="ts", name="bike")
    done = cli("run", "--json", "--env", "quick", cwd=root)
    assert done.returncode == 0, done.stderr
    return root, done.json


@pytest.fixture(scope="session")
def flights(cli, make_project):
    """The main job, as `make run` does it."""
    root = make_project("demo:flights", "late", time="sched_dep", name="flights")
    done = cli("run", "--json", cwd=root)
    assert done.returncode == 0, done.stderr
    return root, done.json


class TestFlights:
    def test_eleven_stages_and_a_metric(self, flights):
        root, document = flights
        assert document["status"] == "done" and [s["name"] for s in document["stages"]] == STAGES
        assert set(statuses(document).values()) == {"ok"} and .5 < document["metrics"]["test_auc"] < 1
        assert all(s["seconds"] > 0 and s["verdict"] for s in document["stages"])
        assert Path(document["report"]).is_file() and (root / "reports" / "index.html").is_file()

    def test_the_join(self, flights):
        root, document = flights
        table = artifact(root, document, "table")
        assert table.rows == 336_776
        split = artifact(root, document, "split")
        assert sum(p.rows - p.labelled for p in split.parts) == 9_430
        assert [p.start[:10] for p in split.parts] == ["2013-01-01", "2013-04-01", "2013-05-01", "2013-07-01"]

    def test_no_leak_reaches_the_model(self, flights):
        root, document = flights
        model, note = artifact(root, document, "model"), artifact(root, document, "acquisition")
        assert sorted(note.unknown_at_prediction) == sorted(LEAKS)
        assert not set(LEAKS) & set(model.columns) and "late" not in model.columns
        assert set(LEAKS) <= set(artifact(root, document, "leaks").dropped)

    def test_at_least_as_good_as_a_plain_booster(self, flights):
        """The same columns (but times, which it can't take), the same months, scikit-learn's defaults and its own handling of categories and gaps."""
        import pandas as pd
        from sklearn.ensemble import HistGradientBoostingClassifier
        from sklearn.metrics import roc_auc_score

        from mlwb.core.workspace import Project
        root, document = flights
        split, model = artifact(root, document, "split"), artifact(root, document, "model")
        split.bind(split.table.pandas(Project(root)))

        train = split.frame("train+validation")
        columns = [c for c in model.columns if not pd.api.types.is_datetime64_any_dtype(train[c])]
        levels = {c: train[c].value_counts().index[:250] for c in columns if not pd.api.types.is_numeric_dtype(train[c])}

        def plain(part):
            df = split.frame(part)
            known = {c: pd.Categorical(df[c].where(df[c].isin(levels[c])), categories=levels[c]) if c in levels else df[c].astype("float64") for c in columns}
            return pd.DataFrame(known, index=df.index), df[split.target].astype(int)
        x, y = plain("train+validation")
        peer = HistGradientBoostingClassifier(random_state=0, categorical_features="from_dtype").fit(x, y)
        for part in ("test", "monitor"):
            x, y = plain(part)
            theirs, ours = roc_auc_score(y, peer.predict_proba(x)[:, 1]), roc_auc_score(y, model.score(split.frame(part)))
            print(f"{part}: plain {theirs:.4f}, champion {ours:.4f}")
            assert ours >= theirs - .005
        test = split.frame("test")
        assert document["metrics"]["test_auc"] == pytest.approx(roc_auc_score(test["late"].astype(int), model.score(test)), abs=1e-6)

    def test_trials_are_in_mlflow(self, flights):
        from mlwb.core.tracking import client, experiment
        from mlwb.core.workspace import Project
        root, document = flights
        project = Project(root)
        runs = client(project).search_runs([experiment(project)], max_results=100)
        trials = [r for r in runs if "mlflow.parentRunId" in r.data.tags]
        assert len(trials) == 13, "twelve and the dummy"
        table = artifact(root, document, "table")
        for r in trials:
            assert r.data.params["model"] and "auc" in r.data.metrics and r.data.tags["data"] == table.digest
            assert r.data.tags["code"].startswith("sha256:") and r.data.tags["env.scikit-learn"]

    def test_again_with_nothing_changed(self, cli, flights):
        """Every stage is taken over and says since when; nothing is registered twice."""
        from mlwb.core.tracking import client
        from mlwb.core.workspace import Project
        root, first = flights
        done = cli("run", "--json", cwd=root)
        assert done.returncode == 0, done.stderr
        assert set(statuses(done.json).values()) == {"cached"} and all(first["run"] in s["reason"] for s in done.json["stages"])
        assert digests(root, first) == digests(root, done.json) and Path(done.json["report"]).is_file()
        assert len(client(Project(root)).search_model_versions(f"name='{Project(root).settings.name}'")) == 1

    def test_kernels_know_what_to_load_from_the_first_run_on(self, flights):
        """mlwb/run/imports.json (make imports) names what the stages import, and no heavy package that a stage does not use."""
        from mlwb.core.workspace import Project
        from mlwb.run.plan import hints
        from mlwb.run.record import Run
        root, document = flights
        said = json.loads((REPO / "mlwb" / "run" / "imports.json").read_text(encoding="utf-8"))
        heavy = {"pandas", "polars", "sklearn", "scipy", "torch", "skorch", "mlflow", "shap", "optuna", "deltalake", "skops"}
        tops = lambda names: {n.partition(".")[0] for n in names} & heavy
        assert {s: tops(m) for s, m in said.items()} == {s: tops(m) for s, m in hints(Run(Project(root), document["run"])).items()}


def digests(root, document):
    from mlwb.core.workspace import Project
    from mlwb.run.record import Run
    run = Run(Project(root), document["run"])
    return {n: o["digest"] for s in STAGES for n, o in run.stage_record(s).get("outputs", {}).items()}


class TestOwnData:
    def test_adult(self, adult):
        root, document = adult
        assert document["status"] == "done" and document["metrics"]["test_auc"] > .91
        assert not artifact(root, document, "leaks").dropped

    def test_adult_again_in_any_case(self, cli, adult):
        """Executed once more, every output is what it was, and the champion itself is met again."""
        root, document = adult
        done = cli("run", "--json", "--env", "quick", "--force", cwd=root)
        assert set(statuses(done.json).values()) == {"ok"} and artifact(root, done.json, "approval").decision == "already champion"
        one, two = digests(root, document), digests(root, done.json)
        assert {n for n in one if one[n] != two[n]} <= {"approval", "release"} and artifact(root, done.json, "release").decision == "already champion"

    def test_bike_names_both_leaks(self, bike):
        root, document = bike
        assert sorted(artifact(root, document, "leaks").dropped) == ["casual", "registered"]
        assert not {"casual", "registered", "cnt"} & set(artifact(root, document, "model").columns)
        assert document["metrics"]["test_r2"] > .5

    def test_the_copy_is_the_one_that_runs(self, cli, project_dir):
        path = project_dir / "notebooks" / "stages" / "00_frame.ipynb"
        nb = json.loads(path.read_text(encoding="utf-8"))
        nb["cells"][-1]["source"] = "".join(nb["cells"][-1]["source"]).replace("stage.verdict(frame)", 'stage.verdict("edited by hand")')
        path.write_text(json.dumps(nb), encoding="utf-8")
        done = cli("run", "--json", "--env", "quick", cwd=project_dir)
        assert done.json["stages"][0]["verdict"] == "edited by hand"

    def test_a_stage_dropped_in_belongs_to_the_pipeline(self, cli, project_dir):
        import nbformat
        cells = [nbformat.v4.new_code_cell("import mlwb\nstage = mlwb.stage('count', needs=['table'], produces=['count'])"),
                 nbformat.v4.new_code_cell("stage.save(count={'rows': stage.load('table').rows}); stage.verdict('counted')")]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), project_dir / "notebooks" / "stages" / "15_count.ipynb")
        done = cli("run", "--json", "--env", "quick", cwd=project_dir)
        assert statuses(done.json)["count"] == "ok" and artifact(project_dir, done.json, "count") == {"rows": 600}


class TestRunAgain:
    """What runs again, and why, when something outside or inside of the notebooks has changed."""

    def run(self, cli, root, *more):
        done = cli("run", "--json", "--env", "quick", *more, cwd=root)
        assert done.returncode == 0, done.stderr
        return {s["name"]: s["reason"] for s in done.json["stages"] if s["status"] == "ok"}

    def test_only_what_has_to(self, cli, project_dir):
        from mlwb.core.tracking import client
        from mlwb.core.workspace import Project
        from mlwb.release.registry import champion
        from mlwb.serve.predlog import PredictionLog
        project, always = Project(project_dir), ("-p", "frame.champion=ignore")
        run = lambda *more: self.run(cli, project_dir, *always, *more)
        assert set(run()) == set(STAGES) and not run()
        # a threshold: the model is judged anew, not trained again
        again = run("-p", "frame.min_auc=0.55")
        assert set(again) <= {"frame", "approve", "release", "monitor"} and "min_auc: 0.0 → 0.55" in again["frame"] and again["approve"] == "acceptance changed"
        assert not run() and not run("-p", "frame.min_auc=0.55")
        # another champion: the judgement is asked for again, and what follows from it
        assert "train" in run("-p", "train.seed=5") and champion(project).version == "2"
        assert {"approve", "release"} <= set(run()) <= {"approve", "release", "monitor"} and champion(project).version == "1" and not run()
        client(project).set_registered_model_alias(project.settings.name, "champion", "2")  # by hand
        again = run()  # that question was answered before; what release had done is undone
        assert again["release"] == "registry:champion changed" and "approve" not in again and champion(project).version == "1"
        # the log grew: only who reads it
        assert not run()
        row = {"model": project.settings.name, "version": "1", "inputs": {"size": 1.0, "region": "north"}, "score": [.5, .5], "prediction": "no"}
        PredictionLog(project.predictions).append([row])
        assert list(run()) == ["monitor"]


class TestFailure:
    def test_a_failing_stage_names_its_cell_and_keeps_its_notebook(self, cli, project_dir):
        import nbformat
        path = project_dir / "notebooks" / "stages" / "30_explore.ipynb"
        nb = nbformat.read(path, 4)
        at = len(nb.cells) - 1
        nb.cells[at].source = "columns = ['a']\ncolumns[7]"
        nbformat.write(nb, path)
        done = cli("run", "--json", "--env", "quick", cwd=project_dir)
        assert done.returncode == 1
        error = next(s for s in done.json["stages"] if s["name"] == "explore")["error"]
        assert error["cell"] == at and error["kind"] == "IndexError" and "columns[7]" in done.stderr
        assert statuses(done.json)["monitor"] == "ok", "what does not need the stage goes on"
        kept = next((project_dir / "workspace" / "runs").glob("*/notebooks/30_explore.ipynb"))
        assert "IndexError" in kept.read_text(encoding="utf-8")

    def test_a_killed_kernel_is_no_success(self, cli, project_dir):
        import nbformat
        path = project_dir / "notebooks" / "stages" / "40_prepare.ipynb"
        nb = nbformat.read(path, 4)
        nb.cells[-1].source = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
        nbformat.write(nb, path)
        done = cli("run", "--json", "--env", "quick", cwd=project_dir)
        assert done.returncode == 1 and statuses(done.json)["prepare"] == "killed" and statuses(done.json)["train"] == "not-run"

    def test_exit_zero_is_no_success(self, cli, project_dir):
        import nbformat
        path = project_dir / "notebooks" / "stages" / "40_prepare.ipynb"
        nb = nbformat.read(path, 4)
        nb.cells[-1].source = "import sys; sys.exit(0)"
        nbformat.write(nb, path)
        assert statuses(cli("run", "--json", "--env", "quick", cwd=project_dir).json)["prepare"] == "failed"

    def test_a_gate_that_says_no_ends_with_3(self, cli, project_dir):
        done = cli("run", "--json", "--env", "quick", "-p", "frame.min_auc=0.999", cwd=project_dir)
        assert done.returncode == 3 and done.json["status"] == "rejected"
        assert statuses(done.json)["release"] == statuses(done.json)["monitor"] == "skipped"


class TestByHand:
    """Each stage notebook is an ordinary notebook: papermill runs it, in a draft that leaves the finished run alone."""

    @pytest.fixture(scope="class")
    def before(self, adult):
        root, document = adult
        return root, document, digests(root, document)

    @pytest.mark.parametrize("number", range(11))
    def test_papermill_runs_it_by_itself(self, before, number, tmp_path):
        root, document, _ = before
        path = sorted((root / "notebooks" / "stages").glob("*.ipynb"))[number]
        done = papermill(path, tmp_path / "out.ipynb", "--no-progress-bar", cwd=root)
        assert done.returncode == 0, done.stderr[-3000:]
        assert not list((root / "notebooks").rglob("out.ipynb"))

    def test_nothing_of_the_run_was_touched(self, before):
        from mlwb.core.tracking import client
        from mlwb.core.workspace import Project
        root, document, old = before
        assert digests(root, document) == old
        assert len(client(Project(root)).search_model_versions(f"name='{Project(root).settings.name}'")) == 1

    def test_help_shows_type_and_help_of_every_parameter(self, before):
        from mlwb.run.graph import read_stages
        for d in read_stages(before[0] / "notebooks" / "stages"):
            done = papermill("--help-notebook", d.path, cwd=before[0])
            flat = " ".join(done.stdout.split())
            for p in d.parameters.values():
                assert f"{p.name}: {p.type} (default" in flat and p.help in flat and p.help, (d.name, p.name)

    def test_a_fresh_project_says_what_to_run_first(self, project_dir, tmp_path):
        done = papermill(project_dir / "notebooks/stages/50_train.ipynb", tmp_path / "out.ipynb", cwd=project_dir)
        assert done.returncode != 0 and "Run 40_prepare.ipynb first" in done.stderr

    def test_the_batch_prediction_can_be_repeated(self, before):
        from mlwb.core.workspace import Project
        from mlwb.release.registry import champion
        root, document, _ = before
        split, predictions = artifact(root, document, "split"), artifact(root, document, "predictions")
        split.bind(split.table.pandas(Project(root)))
        model = champion(Project(root)).load()
        np.testing.assert_array_equal(model.score(split.frame("test", labelled=False)), predictions["score"])


class TestServed:
    """`mlwb serve` as a process: what the champion answers is what the batch prediction of its release said, and it is in the log."""

    @pytest.fixture(scope="class")
    def server(self, adult):
        import socket
        import time
        import urllib.request
        root, document = adult
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
        process = subprocess.Popen([Path(sys.executable).with_name("mlwb"), "serve", "--port", str(port)], cwd=root, stderr=subprocess.PIPE)
        try:
            for _ in range(240):
                try: urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5); break
                except OSError:
                    assert process.poll() is None, process.stderr.read().decode()
                    time.sleep(.25)
            yield f"127.0.0.1:{port}", root, document
        finally:
            process.terminate(); process.wait(20)

    def test_the_numbers_of_the_batch_and_the_rows_in_the_log(self, server):
        import tritonclient.http as triton
        from test_serve import triton_inputs

        from mlwb.core.workspace import Project
        from mlwb.serve.predlog import PredictionLog
        url, root, document = server
        project = Project(root)
        split, model, batch = (artifact(root, document, n) for n in ("split", "model", "predictions"))
        split.bind(split.table.pandas(project))
        rows = split.frame("test", labelled=False).head(200)
        before = len(PredictionLog(project.predictions))
        outputs = [triton.InferRequestedOutput("score", binary_data=False)]
        answer = triton.InferenceServerClient(url).infer(project.settings.name, triton_inputs(triton, rows, model.columns), outputs=outputs)
        np.testing.assert_array_equal(answer.as_numpy("score"), batch["score"].head(200))
        log = PredictionLog(project.predictions).read()
        assert len(log) == before + 200 and set(log["version"]) == {"1"}
        assert sorted(log["score"].tail(200)) == sorted(batch["score"].head(200))

    def test_monitor_reads_the_log_on_request(self, server, cli):
        _, root, _ = server
        done = cli("run", "--json", "--env", "quick", "-p", "monitor.source=log", cwd=root)
        assert done.returncode == 0, done.stderr
        assert artifact(root, done.json, "monitoring").source == "log"


def test_the_repository_is_a_project(tmp_path):
    """What `make run` runs: this repository's own settings and stages (without running them again)."""
    from mlwb.core.workspace import Project
    from mlwb.run.graph import read_stages
    root = Path(__file__).resolve().parent.parent
    assert Project(root).settings.source == "demo:flights" and [d.name for d in read_stages(Project(root).stages)] == STAGES
    assert shutil.which("git") is None or not subprocess.run(["git", "check-ignore", "-q", "mlwb/stages"], cwd=root).returncode == 0


def test_stage_titles_can_be_translated():
    """The report's catalogue holds the titles of the stage notebooks as they are."""
    from mlwb.run.graph import read_stages
    from mlwb.show.report import _PHRASES, title_parts
    root = Path(__file__).resolve().parent.parent
    wanted = {part for d in read_stages(root / "notebooks" / "stages") for part in title_parts(d.title)[1:]}
    assert wanted == {m.text for m in _PHRASES}
