"""A workdir in an object store: the same run, kept and continued there, and used by what comes after it."""

import importlib.util
import json
import subprocess
import sys

import pytest
from paths import ROOT

SCRIPT = ROOT / "tests" / "tools" / "checkpoint" / "gcs_run.py"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    for package in ("gcsfs", "gcp_storage_emulator"):
        if not importlib.util.find_spec(package):
            pytest.skip(f"{package} is not installed: pip install gcsfs gcp-storage-emulator")
    folders = [str(tmp_path_factory.mktemp(name)) for name in ("data", "out")]
    done = subprocess.run([sys.executable, str(SCRIPT), *folders], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.full
def test_a_run_there_is_the_same_as_here(found):
    assert found["there"] == found["here"]
    files = "checkpoints config.json embeddings.parquet metrics.jsonl profile reconstruction.png seen.parquet".split()
    assert found["files"] == files and found["profile"]
    assert found["checkpoints"] == ["2", "3"]
    assert found["embeddings"] and found["steps"] == [2, 3, 3, 3]


@pytest.mark.full
def test_a_killed_run_resumes_from_what_is_complete(found):
    assert found["newest"] == "2"
    assert found["again"] == found["finished"] == found["here"]
    assert found["steps again"] == found["steps"]


@pytest.mark.full
def test_the_next_stage_embed_and_export_read_it(found):
    assert found["probe"] is True and found["embedded"] and found["normalisation"] == "plate"
    assert found["exported"] == found["here"] and found["plates"] is True
