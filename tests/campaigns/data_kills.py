"""Extracts and appends that are killed, and what must be true of the table afterwards.

    python tests/campaigns/data_kills.py [--kills 50] [--seed 0] [--rows 60000] [--keep]

A process opens a packed CSV of some megabytes and stores it as a new version of a table, or appends it to the table, as the stage extract
does. SIGKILL strikes it at a moment drawn uniformly over the time that an undisturbed one takes (every third kill), or at a moment drawn
over the length of one phase, once that has begun: opening, writing rows, reading them back for the digest, committing, settling (what follows
the commit). Then

- the table opens at a version that is whole: the last one before, or the new one; rows and digest are those that the version says;
- the next write ends well, and holds what it should;
- after that write no file is in the table's folder that no version names, and the scratch folders of dead processes are gone.

Last, two writers at once, a disk that is full at several moments, and a folder that can't be written to: each a clear error, and the table as
it was. The table goes to benchmarks/results/data_campaign.md; the exit code is 1 if anything deviates. `make campaign-data` runs all of it.
"""

import argparse
import gzip
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from harness import REPO, conditions, write

PHASES = ("open", "sink", "digest", "commit", "settle")
AIMS = ("open", "sink", "digest", "commit", "settle", "commit")
VICTIM = """
import os, sys, time
def tell(phase): os.write(1, f"{phase} {time.monotonic()}\\n".encode())
tell("start")
from pathlib import Path
from mlwb.data.sources import open_acquired
from mlwb.data.store import Store
from mlwb.data.targets import check_source
def said(phase, f):
    def g(*args, **more):
        tell(phase)
        try: return f(*args, **more)
        finally: tell(phase + "-over")
    return g
for method, phase in dict(_sink="sink", _reference="digest", _publish="commit").items(): setattr(Store, method, said(phase, getattr(Store, method)))
sweeps, phases = Store.sweep, iter(("clear", "settle"))  # before the rows are written, after the commit
Store.sweep = lambda *args: said(next(phases), sweeps)(*args)
source, folder, append = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "append"
tell("open")
opened, _ = check_source(open_acquired(source, folder, []), "n", "", "day", [])
tell("open-over")
Store(folder / "data").write("t", opened, opened.note, time="day", said=[], append=append)
tell("end")
"""


@dataclass
class Case:
    """One kill and what became of it."""
    number: int
    kind: str                # extract or append
    aim: str                 # a phase, or "" for any moment
    share: float             # of the phase's, or of the whole, time
    struck: str = ""         # what the process was at
    outcome: str = ""        # the version that was there afterwards: before, new
    left: int = 0            # files that no version named, before the next write
    wrong: list = field(default_factory=list)


# --- a table and its writers -------------------------------------------------------------------------------------------

def source(folder: Path, number: int, rows: int) -> Path:
    """A packed CSV, another one for each number."""
    import polars as pl
    path = folder / f"{number}.csv.gz"
    df = pl.select(i=pl.int_range(rows), day=pl.datetime(2024, 1, 1) + pl.duration(minutes=pl.int_range(rows)), n=pl.int_range(rows) * (number + 7) % 997,
                   x=(pl.int_range(rows) * (number + 1.5)).sin(), text=pl.format("{} 행 {}", pl.int_range(rows) * 7919 % 10_007, pl.lit(number)))
    path.write_bytes(gzip.compress(df.write_csv().encode(), 1))
    return path


class Writer:
    """A process that writes the table, and what it says that it is at."""

    def __init__(self, csv: Path, folder: Path, kind: str, env: dict, under: tuple = ()):
        self.process = subprocess.Popen([*under, sys.executable, "-c", VICTIM, str(csv), str(folder), kind], env=env, cwd=folder, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, start_new_session=True)
        self.text = b""

    def said(self) -> list:
        """(phase, when), so far."""
        return [(p, float(t)) for p, t in (line.split() for line in self.text.decode().splitlines(keepends=True) if line.endswith("\n"))]

    def wait(self, seconds: float, phase: str = "") -> bool:
        """Read until a time is over, or until a phase has begun; False when the process has ended before."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if phase and any(p == phase for p, _ in self.said()): return True
            if not select.select([self.process.stdout], [], [], left)[0]: return not phase
            piece = os.read(self.process.stdout.fileno(), 4096)
            if not piece: return False
            self.text += piece
        return not phase

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.text += self.process.stdout.read()
        self.process.wait()
        self.close()

    def end(self) -> str:
        """What it says on stderr, when it ends by itself."""
        out, err = self.process.communicate(timeout=300)
        self.text += out
        return err.decode() if self.process.returncode else ""

    def close(self):
        for f in (self.process.stdout, self.process.stderr): f.close()

    def at(self) -> str:
        """What it was at last."""
        return self.said()[-1][0] if self.said() else "before Python ran"


def lengths(said: list) -> dict:
    """Seconds of each phase's first time, and of the whole."""
    first = {}
    for p, t in said: first.setdefault(p, t)
    return {p: first[f"{p}-over"] - first[p] for p in PHASES} | {"": said[-1][1] - said[0][1]}


def environment(tmp: Path) -> dict:
    tmp.mkdir(parents=True, exist_ok=True)
    return {**os.environ, "TMPDIR": str(tmp), "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH")]))}


# --- looking -----------------------------------------------------------------------------------------------------------

def newest(folder: Path):
    """The newest version's reference, after reading all of its rows; AssertionError if they are not what it says."""
    from mlwb.data.store import Store, digest
    store = Store(folder / "data")
    ref, df = store.versions("t")[-1], store.read("t")
    assert df.height == ref.rows and digest(df) == ref.digest, f"version {ref.version}: {df.height} rows, {digest(df)}, instead of {ref.rows}, {ref.digest}"
    return ref


def unnamed(folder: Path) -> list[str]:
    """Files in the table's folder that belong to no version."""
    from mlwb.data.store import Store
    named = {f for c in Store(folder / "data").commits("t") for f in c["files"]}
    log = re.compile(r"_delta_log/(\d{20}\.(json|checkpoint\.parquet)|_last_checkpoint)|_mlwb/note\.json")
    table = folder / "data" / "t"
    return sorted(n for p in table.rglob("*") if p.is_file() and (n := p.relative_to(table).as_posix()) not in named and not log.fullmatch(n))


def scratch(tmp: Path) -> list[str]: return sorted(p.name for p in tmp.iterdir())


# --- one case ----------------------------------------------------------------------------------------------------------

def go(case: Case, folder: Path, rows: int, took: dict, env: dict) -> Case:
    """Start, strike, look, write again, look."""
    csv, before = source(folder, case.number, rows), newest(folder)
    while True:
        w = Writer(csv, folder, case.kind, env)
        hit = (not case.aim or w.wait(120, case.aim)) and w.wait(case.share * took[case.aim])
        if hit and w.process.poll() is None: w.kill(); break
        w.kill()
        if newest(folder).version != before.version: before = newest(folder); csv = source(folder, case.number + 5000 * (case.number < 5000), rows)
        case.share *= .9
    case.struck, case.left = w.at(), len(unnamed(folder))
    _after_the_kill(case, folder, before, rows)
    _next_write(case, folder, csv, env)
    csv.unlink(missing_ok=True)
    return case


def _after_the_kill(case, folder, before, rows):
    try: now = newest(folder)
    except Exception as e: case.wrong.append(f"the table does not open: {type(e).__name__}: {e}"); return
    case.outcome = "before" if now.version == before.version else "new"
    wanted = before.rows if case.outcome == "before" else rows + before.rows * (case.kind == "append")
    if now.rows != wanted or case.outcome == "before" and now.digest != before.digest: case.wrong.append(f"{case.outcome}: {now.rows} rows, not {wanted}")
    if now.version > before.version + 1: case.wrong.append(f"version {now.version} after {before.version}")


def _next_write(case, folder, csv, env):
    from mlwb.data.store import Store
    before = newest(folder)
    w = Writer(csv, folder, "extract", env)
    if err := w.end(): case.wrong.append(f"the next write fails: {err[-300:]}"); return
    now, want = newest(folder), _rows(csv)
    if now.rows != want: case.wrong.append(f"the next write has {now.rows} rows, not {want}")
    if case.outcome == "new" and case.kind == "extract" and now.version != before.version: case.wrong.append("the same content became another version")
    if left := unnamed(folder): case.wrong.append(f"left in the table's folder: {left}")
    if left := scratch(Path(env["TMPDIR"])): case.wrong.append(f"left in the temporary folder: {left}")
    if Store(folder / "data").sweep("t"): case.wrong.append("a sweep after a write that ended well finds something")


def _rows(csv):
    import polars as pl
    return pl.read_csv(csv).height


def plan(kills: int, seed: int) -> list[Case]:
    """Extract and append in turns; a third at any moment, the others at each phase in turns."""
    rng = random.Random(seed)
    return [Case(i, ("extract", "append")[i // 3 % 2], "" if i % 3 == 0 else AIMS[(2 * (i // 3) + i % 3 - 1) % len(AIMS)], rng.random()) for i in range(kills)]


def prepare(folder: Path, rows: int) -> tuple[dict, dict]:
    """A table with one version; the environment of writers, and how long each of their phases takes."""
    env = environment(folder / "tmp")
    took = {}
    for number in (9000, 9001):  # the second finds modules compiled, and a table
        w = Writer(source(folder, number, rows), folder, "extract", env)
        if err := w.end(): raise SystemExit(err)
        took = lengths(w.said())
    return env, took


# --- other ends --------------------------------------------------------------------------------------------------------

def two_at_once(folder: Path, rows: int, env: dict) -> list[str]:
    """Two processes that append at the same time: both end well, and nothing is lost."""
    before = newest(folder)
    writers = [Writer(source(folder, 7000 + i, rows), folder, "append", env) for i in range(2)]
    wrong = [e[-300:] for w in writers if (e := w.end())]
    now = newest(folder)
    if (now.version, now.rows) != (before.version + 2, before.rows + 2 * rows): wrong.append(f"version {now.version} with {now.rows} rows after {before}")
    return wrong + unnamed(folder)


def full(folder: Path, rows: int, env: dict, limit: int) -> list[str]:
    """A write that no file may be larger in than a limit: how a full disk shows, where nothing can be mounted."""
    before, csv = newest(folder), folder / "unpacked.csv"
    csv.write_bytes(gzip.decompress(source(folder, 8000, rows).read_bytes()))
    small = f"import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
    command = [sys.executable, "-c", small + VICTIM, str(csv), str(folder), "extract"]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True)
    wrong = [] if done.returncode else ["it ended well"]
    told = re.search("MlwbError: The table 't' can't be written to .*File too large", done.stderr)
    if not told: wrong.append(f"it does not say what is wrong: {done.stderr[-300:]}")
    return wrong + _as_before(folder, before) + scratch(Path(env["TMPDIR"]))


def forbidden(folder: Path, rows: int, env: dict) -> list[str]:
    """A write into folders that nobody has the right to write into; root writes without the capability that overrides rights."""
    before, csv = newest(folder), source(folder, 8002, rows)
    places = [p for p in (folder / "data", *(folder / "data").rglob("*")) if p.is_dir()]
    modes = [p.stat().st_mode for p in places]
    try:
        for p in places: p.chmod(0o555)
        err = Writer(csv, folder, "extract", env, ("setpriv", "--bounding-set", "-dac_override") if os.geteuid() == 0 else ()).end()
    finally:
        for p, mode in zip(places, modes): p.chmod(mode)
    wrong = [] if "MlwbError" in err and "Permission denied" in err else [f"it does not say what is wrong: {err[-300:]}"]
    return wrong + _as_before(folder, before)


def read_only(folder: Path, rows: int, env: dict) -> list[str] | None:
    """A write into a folder that is mounted for reading only; None where nothing can be mounted."""
    before, csv, data = newest(folder), source(folder, 8001, rows), folder / "data"
    if subprocess.run(["mount", "--bind", str(data), str(data)], capture_output=True).returncode: return None
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(data)], check=True)
        err = Writer(csv, folder, "extract", env).end()
        wrong = [] if "MlwbError" in err and "Read-only file system" in err else [f"it does not say what is wrong: {err[-300:]}"]
        return wrong + _as_before(folder, before)
    finally: subprocess.run(["umount", "-l", str(data)], check=True)


def _as_before(folder, before):
    now = newest(folder)
    return ([] if (now.version, now.digest) == (before.version, before.digest) else [f"version {now.version} instead of {before.version}"]) + unnamed(folder)


# --- the campaign ------------------------------------------------------------------------------------------------------

def report(cases: list[Case], other: dict, took: dict, args, mib: float) -> str:
    lines = ["# Extracts and appends, killed", "", "Made by `make campaign-data`; what is done stands at the head of tests/campaigns/data_kills.py.",
             conditions(),
             f"A packed CSV of {args.rows:,} rows ({mib:.1f} MB unpacked); an undisturbed write takes {took['']:.1f} s: "
             + ", ".join(f"{p} {1000 * took[p]:.0f} ms" for p in PHASES) + f". Seed {args.seed}.", "",
             "| SIGKILL to | kills | last version whole | new version whole | left files that no version named | next write well, nothing left | deviations |",
             "|---|---|---|---|---|---|---|"]
    for kind in ("extract", "append"):
        mine = [c for c in cases if c.kind == kind]
        figures = [len(mine), *(sum(c.outcome == o for c in mine) for o in ("before", "new")), sum(c.left > 0 for c in mine), sum(not c.wrong for c in mine),
                   sum(len(c.wrong) for c in mine)]
        lines.append(f"| {kind} | {' | '.join(map(str, figures))} |")
    lines += ["", "At work when it was struck: " + ", ".join(f"{k} {n}" for k, n in Counter(c.struck for c in cases).most_common()) + ".", ""]
    lines += [f"- {what}: " + ("could not be mounted here" if wrong is None else "; ".join(wrong) or good) for what, (wrong, good) in other.items()]
    if bad := [c for c in cases if c.wrong]: lines += ["", "## Deviations", ""]
    lines += [f"- {c.number}, {c.kind} at {c.struck}: " + "; ".join(c.wrong).replace("\n", " ") for c in bad]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="data-kills-"))
    env, took = prepare(folder, args.rows)
    cases = []
    for c in plan(args.kills, args.seed):
        cases.append(go(c, folder, args.rows, took, env))
        print(f"{c.number} {c.kind}, {c.aim or 'any moment'}: struck at {c.struck}, {c.outcome}, left {c.left}, {'; '.join(c.wrong) or 'fine'}",
              file=sys.stderr, flush=True)
    good = "a clear error, the table as before"
    other = {"Two processes that append at once": (two_at_once(folder, args.rows, env), "both are in the table"),
             **{f"No file may be larger than {n:,} bytes": (full(folder, args.rows, env, n), good) for n in (100_000, 500_000)},
             "A folder that may not be written into": (forbidden(folder, args.rows, env), good),
             "A folder that is mounted for reading only": (read_only(folder, args.rows, env), good)}
    mib = len(gzip.decompress(source(folder, 1, args.rows).read_bytes())) / 1e6
    text = report(cases, other, took, args, mib)
    write("data_campaign.md", text) if args.kills >= 50 else print(text)
    deviates = any(c.wrong for c in cases) or any(wrong for wrong, _ in other.values())
    if not (args.keep or deviates): shutil.rmtree(folder)
    else: print(f"kept: {folder}", file=sys.stderr)
    sys.exit(deviates)


if __name__ == "__main__": main()
