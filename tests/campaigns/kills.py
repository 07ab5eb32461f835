"""Runs that are killed at random moments, gone on with, and compared with a run that nobody disturbed.

    python tests/campaigns/kills.py [--kills 60] [--seed 0] [--jobs 2] [--cases 3,17] [--aim STAGE] [--no-disk] [--keep]

A small project (Adult, three trials). Two undisturbed runs side by side give the digests of all outputs and the time that a run
takes. Then a third of the kills each go to the runner, to one of the kernels that live at that moment (in turns to any of them, and
to one that has a stage at work), and to runner, nursery, kernels and all that they have started at once; each by SIGKILL, at a
moment drawn uniformly over the time of a run, in a fresh copy of the project. `mlwb run --failed` goes on, and then everything is
looked at: status, digests, the registry, every `ok`, processes, temporary files. Last, the disk is full at several moments, and has
room again. The table goes to benchmarks/results/campaign.md; the exit code is 1 if anything deviates. `make campaign` runs all of
it, which takes more than an hour.
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from harness import MLWB, conditions, copy_project, differences, document, environment, false_ok, gone, mlwb, versions, write

KINDS = ("runner", "kernel", "everything")
KNOBS = ("-p", "train.trials=3")


@dataclass
class Case:
    """One kill and what became of it."""
    number: int
    kind: str
    moment: float                # seconds after the start
    struck: str = ""             # what was at work
    ended: str = ""              # how the run itself ended
    resumes: int = 0             # how often it had to be gone on with
    seconds: float = 0           # of the last resume
    gone: float = 0              # seconds until no process was left
    wrong: list = field(default_factory=list)
    temporary: list = field(default_factory=list)


# --- striking ----------------------------------------------------------------------------------------------------------

def kernels(runner: psutil.Process) -> list[psutil.Process]:
    """The kernels of a runner: what its nursery has forked, and what it has started alone."""
    found = []
    for p in runner.children():
        line = " ".join(p.cmdline())
        if "nursery.serve" in line: found += p.children()
        elif "nursery.become" in line: found.append(p)
    return found


def busy(root: Path) -> set[int]:
    """The kernels that have a stage at work, by the journal."""
    from mlwb.core.workspace import Project
    from mlwb.run.record import list_runs
    runs = list_runs(Project(root))
    return {s["pid"] for s in runs[0].record()["stages"] if s["status"] == "running"} if runs else set()


def strike(case: Case, process: subprocess.Popen, root: Path, rng: random.Random) -> bool:
    """SIGKILL to the runner, to a kernel, or to everything; whether it could be done."""
    runner = psutil.Process(process.pid)
    if case.kind == "runner": process.kill(); return True
    if case.kind == "kernel":
        while process.poll() is None:
            try: living = [k.pid for k in kernels(runner)]
            except psutil.Error: continue
            if case.number % 2: living = [p for p in living if p in busy(root)]
            if living: os.kill(rng.choice(living), signal.SIGKILL); return True
            time.sleep(.01)  # between two stages: the next kernel that comes
        return False
    for p in [runner, *runner.children(recursive=True)]:
        try: p.kill()
        except psutil.NoSuchProcess: pass  # it went with its parent
    return True


def await_stage(process, root, stage):
    """Wait until a stage has begun: moments then count from there."""
    from mlwb.core.workspace import Project
    from mlwb.run.record import list_runs
    while process.poll() is None:
        if any(e["event"] == "start" and e["stage"] == stage for r in list_runs(Project(root))[:1] for e in r.events()): return
        time.sleep(.02)


def disturbed(case: Case, root: Path, env: dict, rng, aim: str) -> bool:
    """Start a run and strike; False where it had ended before."""
    with (root.parent / "out").open("w") as out, (root.parent / "err").open("w") as err:
        process = subprocess.Popen([MLWB, "run", "--json", *KNOBS], cwd=root, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True)
        try:
            if aim: await_stage(process, root, aim)
            process.wait(case.moment)
        except subprocess.TimeoutExpired:
            try: hit = strike(case, process, root, rng)
            except psutil.NoSuchProcess: hit = False  # it ended just now
            process.wait(900)
            case.ended = f"exit code {process.returncode}"
            return hit
    return False


def at_work(root: Path) -> str:
    """What a killed run was doing, by its journal."""
    from mlwb.core.workspace import Project
    from mlwb.run.record import list_runs
    runs = list_runs(Project(root))
    if not runs: return "before the journal"
    record = runs[0].record()
    if record["status"] == "done": return "the report"
    names = [s["name"] for s in record["stages"] if s["status"] == "killed"]
    return ", ".join(names) or "between stages"


# --- one case ----------------------------------------------------------------------------------------------------------

def go(case: Case, base: Path, place: Path, reference: dict, aim: str = "") -> Case:
    """Copy, run, strike, go on, look."""
    rng, root = random.Random(f"{case.number}"), place / f"{case.number}" / "p"
    shutil.rmtree(root.parent, ignore_errors=True)
    copy_project(base, root)
    tag, tmp = f"{place.name}-{case.number}", root.parent / "t"
    env = environment(tag, tmp)
    if not disturbed(case, root, env, rng, aim):
        shutil.rmtree(root.parent)
        case.moment *= .9
        return go(case, base, place, reference, aim)
    look_after_the_kill(case, root, env, tag)
    go_on(case, root, env)
    look_at_the_end(case, root, env, tag, reference)
    case.temporary = sorted(p.name for p in tmp.iterdir())
    if mine := [t for t in case.temporary if t.startswith("mlwb-")]: case.wrong.append(f"left in the temporary folder: {mine}")
    if not case.wrong: shutil.rmtree(root.parent)
    return case


def look_after_the_kill(case, root, env, tag):
    case.gone, left = gone(tag)
    if left: case.wrong.append(f"processes 10 s after the kill: {left}")
    case.struck = at_work(root)
    if case.kind == "kernel": case.struck = retried(root) or "a kernel standing by"
    case.wrong += [f"after the kill, false ok: {f}" for f in false_ok(root)]
    listed = mlwb("runs", "--json", cwd=root, env=env)
    if listed.returncode: case.wrong.append(f"mlwb runs after the kill: {listed.stderr[-300:]}")


def retried(root):
    from mlwb.core.workspace import Project
    from mlwb.run.record import list_runs
    return ", ".join(e["stage"] for r in list_runs(Project(root)) for e in r.events() if e["event"] == "retry")


def go_on(case, root, env):
    """`mlwb run --failed` until the run is done, at most three times; once more, it finds nothing to do."""
    done = document(mlwb("show", "--json", cwd=root, env=env)).get("status") == "done"
    while not done and case.resumes < 3:
        start = time.monotonic()
        outcome = mlwb("run", "--failed", "--json", *KNOBS, cwd=root, env=env)
        case.resumes, case.seconds = case.resumes + 1, time.monotonic() - start
        done = document(outcome).get("status") == "done"
        if not done or outcome.returncode: case.wrong.append(f"resume {case.resumes} ended with {outcome.returncode}: {outcome.stderr[-600:]}")
    before = len(list((root / "workspace" / "runs").iterdir()))
    again = mlwb("run", "--failed", "--json", *KNOBS, cwd=root, env=env)
    if again.returncode: case.wrong.append(f"--failed where nothing has failed ended with {again.returncode}: {again.stderr[-300:]}")
    if len(list((root / "workspace" / "runs").iterdir())) != before: case.wrong.append("--failed where nothing has failed made a new run")


def look_at_the_end(case, root, env, tag, reference):
    shown = document(mlwb("show", "--json", cwd=root, env=env))
    if shown["status"] != "done": case.wrong.append(f"status {shown['status']}")
    if other := differences(shown.get("outputs", {}), reference): case.wrong.append(f"other digests: {', '.join(other)}")
    try: n = versions(root)
    except Exception as e: n = f"no readable registry ({type(e).__name__}: {str(e)[:120]}), so no"
    if n != 1: case.wrong.append(f"{n} registered versions")
    case.wrong += [f"at the end, false ok: {f}" for f in false_ok(root)]
    _, left = gone(tag)
    if left: case.wrong.append(f"processes at the end: {left}")


# --- a full disk -------------------------------------------------------------------------------------------------------

def disk_full(base: Path, place: Path, reference: dict, share: float, needed: int) -> list[str] | None:
    """Run on a file system that holds a share of what is needed, then on the same with room enough; None where nothing can be mounted."""
    mount, tag = place / f"full-{share:g}", f"{place.name}-full-{share:g}"
    mount.mkdir()
    size = round((used(base) + share * needed) / 1024)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(mount)], capture_output=True).returncode: return None
    try: return _full(base, mount, place, reference, tag)
    finally: subprocess.run(["umount", "-l", str(mount)], check=True)


def _full(base, mount, place, reference, tag):
    wrong, env = [], environment(tag, place / "t")
    root = copy_project(base, mount / "p")
    case = Case(0, "disk", 0)
    done = mlwb("run", "--json", *KNOBS, cwd=root, env=env)
    if not done.returncode: wrong.append("it ended well, though the disk was too small")
    if not re.search("No space left|disk (I/O error|is full)", done.stderr): wrong.append(f"it does not say what is wrong: {done.stderr[-400:]}")
    case.wrong += [f"on the full disk, false ok: {f}" for f in false_ok(root)]
    if left := gone(tag)[1]: wrong.append(f"processes: {left}")
    subprocess.run(["mount", "-o", "remount,size=1g", str(mount)], check=True)
    go_on(case, root, env)
    look_at_the_end(case, root, env, tag, reference)
    return wrong + case.wrong


# --- the campaign ------------------------------------------------------------------------------------------------------

def prepare(place: Path) -> Path:
    """The project as `mlwb init` leaves it."""
    data = Path(os.environ.get("MLWB_TEST_DATA", REPO_DATA)) / "adult.parquet"
    if not data.is_file(): raise SystemExit(f"{data} is not there. MLWB_TEST_DATA names the folder that holds adult.parquet.")
    done = mlwb("init", str(place / "base"), "--data", str(data), "--target", "class", cwd=place, env=environment("init", place / "t"))
    if done.returncode: raise SystemExit(done.stderr)
    return place / "base"


REPO_DATA = "shared/data"


def undisturbed(base: Path, place: Path, jobs: int) -> tuple[dict, float, dict, int]:
    """Digests of the outputs, seconds, seconds of each stage and bytes of a run; of several side by side, which must agree."""
    def one(i):
        root, start = copy_project(base, place / f"reference-{i}" / "p"), time.monotonic()
        env = environment(f"reference-{i}", root.parent / "t")
        done = mlwb("run", "--json", *KNOBS, cwd=root, env=env)
        if done.returncode: raise SystemExit(f"The undisturbed run failed: {done.stderr}")
        shown = document(mlwb("show", "--json", cwd=root, env=env))
        return shown["outputs"], time.monotonic() - start, {s["name"]: s["seconds"] for s in shown["stages"]}, used(root / "workspace")
    with ThreadPoolExecutor(jobs) as pool: found = list(pool.map(one, range(max(2, jobs))))
    for outputs, *_ in found[1:]:
        if other := differences(outputs, found[0][0]): print(f"two undisturbed runs differ in {', '.join(other)}", file=sys.stderr)
    return found[0][0], sum(f[1] for f in found) / len(found), found[0][2], max(f[3] for f in found)


def used(folder: Path) -> int: return sum(p.stat().st_blocks * 512 for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def table(cases: list[Case], disk: dict, seconds: float, args) -> str:
    lines = ["# Killed, gone on with, compared", "",
             "Made by `make campaign`; what is done stands at the head of tests/campaigns/kills.py.", conditions(),
             f"An undisturbed run takes {seconds:.0f} s with {args.jobs} side by side; seed {args.seed}.", "",
             "| SIGKILL to | kills | ended well by itself | resumed once | more than once | equal digests | false `ok` | left processes | not one version | "
             "other deviations |", "|---|---|---|---|---|---|---|---|---|---|"]
    for kind in KINDS:
        mine = [c for c in cases if c.kind == kind]
        has = lambda c, text: any(text in w for w in c.wrong)
        known = ("other digests", "false ok", "processes", "registered versions")
        rest = sum(any(not any(k in w for k in known) for w in c.wrong) for c in mine)
        figures = [len(mine), *(sum(min(c.resumes, 2) == n for c in mine) for n in range(3)), sum(not has(c, known[0]) for c in mine),
                   *(sum(has(c, k) for c in mine) for k in known[1:]), rest]
        lines.append(f"| {kind} | {' | '.join(map(str, figures))} |")
    left = [t for c in cases for t in c.temporary]
    struck = Counter(s for c in cases for s in c.struck.split(", "))
    lines += ["", "At work when it was struck: " + ", ".join(f"{k} {n}" for k, n in struck.most_common()) + ".",
              f"All processes were gone after {max((c.gone for c in cases if c.kind != 'kernel'), default=0):.2f} s at most; a resume took "
              f"{max((c.seconds for c in cases), default=0):.0f} s at most. "
              f"Temporary folders of mlwb left: {sum(t.startswith('mlwb-') for t in left)}, "
              f"other temporary files: {sum(not t.startswith('mlwb-') for t in left)}.", ""]
    for share, wrong in disk.items():
        lines.append(f"- A disk that holds {share:.0%} of what a run writes: " + ("could not be mounted here" if wrong is None else "; ".join(wrong) or
                     "the run fails and says so; with room, `mlwb run --failed` ends in the same digests and one version"))
    if bad := [c for c in cases if c.wrong]: lines += ["", "## Deviations", ""]
    lines += [f"- {c.number}, {c.kind} at {c.moment:.1f} s ({c.struck}): " + "; ".join(c.wrong).replace("\n", " ") for c in bad]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="projects side by side")
    parser.add_argument("--cases", default="", help="only these numbers")
    parser.add_argument("--aim", default="", help="only while this stage is at work")
    parser.add_argument("--disk", action=argparse.BooleanOptionalAction, default=True, help="with the full disk")
    parser.add_argument("--known", default="", help="outputs that differ between undisturbed runs, left out of the comparison")
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    args = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="kills-"))
    base = prepare(place)
    reference, seconds, lengths, size = undisturbed(base, place, args.jobs)
    reference = {k: v for k, v in reference.items() if k not in args.known.split(",")}
    print(f"{place}: an undisturbed run takes {seconds:.1f} s and {size / 1e6:.1f} MB", file=sys.stderr)
    rng, chosen = random.Random(args.seed), {int(c) for c in args.cases.split(",") if c}
    cases = [Case(i, KINDS[i % 3], rng.uniform(0, lengths[args.aim] if args.aim else seconds)) for i in range(args.kills)]
    cases = [c for c in cases if not chosen or c.number in chosen]
    with ThreadPoolExecutor(args.jobs) as pool:
        for c in pool.map(lambda c: go(c, base, place, reference, args.aim), cases):
            print(f"{c.number} {c.kind} at {c.moment:.1f} s, {c.struck}: {c.ended}, {c.resumes} resumes, gone in {c.gone:.2f} s, left {c.temporary}, "
                  f"{'; '.join(c.wrong) or 'fine'}", file=sys.stderr, flush=True)
    disk = {s: disk_full(base, place, reference, s, size) for s in (.02, .1, .3, .5, .7, .9)} if args.disk else {}
    text = table(cases, disk, seconds, args)
    write("campaign.md", text) if args.kills >= 60 and not (chosen or args.aim) else print(text)
    deviates = any(c.wrong for c in cases) or any(disk.values())
    if not (args.keep or deviates): shutil.rmtree(place)
    else: print(f"kept: {place}", file=sys.stderr)
    sys.exit(deviates)


if __name__ == "__main__": main()
