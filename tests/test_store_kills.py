"""Extracts and appends that are killed, full disks, two writers: the table opens at its last good version. The campaign does it fifty times."""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "campaigns"))
import data_kills as kills  # noqa: E402

ROWS = 20_000


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a table of one version; the environment of its writers, and how long their phases take."""
    folder = tmp_path_factory.mktemp("kills")
    return folder, *kills.prepare(folder, ROWS)


@pytest.mark.parametrize("i", range(8))
def test_killed(place, i):
    folder, env, took = place
    case = kills.plan(8, 1)[i]
    kills.go(case, folder, ROWS, took, env)
    assert not case.wrong, f"{case.kind} struck at {case.struck}: {case.wrong}"


def test_the_campaign_strikes_every_phase():
    aims = [c.aim for c in kills.plan(50, 0)]
    assert all(aims.count(p) >= 5 for p in kills.PHASES) and aims.count("") == 17 and {c.kind for c in kills.plan(50, 0)} == {"extract", "append"}


def test_two_processes_that_append_at_once(place):
    folder, env, _ = place
    assert not kills.two_at_once(folder, ROWS, env)


@pytest.mark.parametrize("limit", [1_200, 100_000])  # bytes of a file
def test_a_full_disk(place, limit):
    folder, env, _ = place
    assert not kills.full(folder, ROWS, env, limit)


def test_a_folder_for_reading_only(place):
    """By its rights, and by its mount where this process may mount anything."""
    folder, env, _ = place
    assert not kills.forbidden(folder, ROWS, env)
    assert not kills.read_only(folder, ROWS, env)


def test_a_full_temporary_folder(place, tmp_path):
    """What has to be unpacked does not fit: the error names the folder, and how to name another one."""
    folder, env, _ = place
    csv = kills.source(tmp_path, 1, ROWS)
    code = ("import resource, signal, sys\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (9999, 9999))\n"
            "from mlwb.data.sources import open_source\ntry: open_source(sys.argv[1], said=[])\nexcept Exception as e: print(type(e).__name__, e)")
    done = subprocess.run([sys.executable, "-c", code, str(csv)], env=env, capture_output=True, text=True)
    assert done.stdout.startswith("MlwbError The temporary folder") and "File too large" in done.stdout and "TMPDIR" in done.stdout, done.stdout + done.stderr
    assert not kills.scratch(Path(env["TMPDIR"]))
