"""What the launchers print with --dry-run, compared with tests/launch/*.txt; its shell text is sound."""

import contextlib
import io
import json
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from launch_tools import COMMIT, HERE, ROOT, finish, launch, make_clone

from launch import common, gke, host, local, remote, slurm, tpu_pod
from rxrx_jax import main
from rxrx_jax.base import command

TRAIN = ["--", "--config=mae_vit.py:rxrx3,variant=L/8", "--config.init.path=it's here"]
FIXED = [f"--commit={COMMIT}", "--dry-run", *TRAIN]
SLICE = ["--zone=us-west4-a", "--type=v5litepod-256", "--runtime=v2-alpha-tpuv5-lite", "--workdir=gs://bucket/Run_1"]
CASES = {
    "local": (local, ["--processes=2", "--devices=4", "--port=1234", "--workdir=/data/run 1", "--dry-run", *TRAIN]),
    "host": (host, ["--workdir=/data/run", "--dry-run", *TRAIN]),
    "host_ssh": (host, ["--ssh=me@server", "--workdir=/data/run", *FIXED]),
    "tpu_pod": (tpu_pod, [*SLICE, "--project=mine", "--spot", "--prepare=gcsfuse bucket /mnt/data", *FIXED]),
    "gke_tpu": (
        gke,
        ["--image=registry/rxrx_jax", "--tpu=tpu-v5-lite-podslice", "--topology=16x16", "--spot", "--data=bucket"]
        + ["--workdir=gs://bucket/Run_1", *FIXED],
    ),
    "gke_gpu": (
        gke,
        ["--image=registry/rxrx_jax", "--gpu=nvidia-h200-141gb", "--hosts=8", "--workdir=gs://bucket/7", *FIXED],
    ),
    "slurm": (
        slurm,
        ["--nodes=8", "--gpus=8", "--sbatch=--partition=gpu", "--python=python", "--workdir=/shared/run 1", *FIXED],
    ),
}


@pytest.fixture(autouse=True, scope="module")
def figures_once():
    """They are of one config."""
    original, found = main.figures, {}

    def once(values):
        key = repr(values)
        if key not in found:
            found[key] = original(values)
        return found[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main, "figures", once)
        yield


def printed(module, arguments, capsys, monkeypatch) -> str:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    assert module.main(arguments) == 0
    return capsys.readouterr().out.replace(sys.executable, "python")


@pytest.mark.parametrize("name", CASES)
def test_a_dry_run_prints_what_is_stored(name, capsys, monkeypatch):
    """After an intended change: python tests/launch/test_launch_dry_run.py rewrites the files."""
    assert printed(*CASES[name], capsys, monkeypatch) == (HERE / "stored" / f"{name}.txt").read_text()


def steps(name) -> dict[str, common.Step]:
    """The steps that are run where --dry-run prints them."""
    module, arguments = CASES[name]
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "show", lambda steps: found.update(enumerate(steps)))
        module.main(arguments)
    return found


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="needs shellcheck")
def test_shellcheck_finds_nothing(tmp_path):
    texts = {}
    for name in CASES:
        texts |= {f"{name}-{i}": step.command for i, step in steps(name).items()} or {
            name: (HERE / "stored" / f"{name}.txt").read_text()
        }
    texts["script"] = re.search(r"<<'END'\n(#!.*?)END$", (HERE / "stored" / "slurm.txt").read_text(), re.S | re.M)[1]
    line = ["-m", "launch.worker", "it's"]
    texts |= {
        "unpack": remote.unpack(COMMIT),
        "install": remote.install(COMMIT, "gpu"),
        "start": remote.start(COMMIT, "run-1", line, {"A": "1 2"}, "begin=1", "true"),
        "follow": remote.follow("run-1"),
        "kill": remote.kill("run-1"),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    # SC2016: what is in single quotes expands on another machine.
    check = ["shellcheck", "--shell=bash", "--exclude=SC2016", *texts]
    result = subprocess.run(check, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("name", ["gke_tpu", "gke_gpu"])
def test_the_manifest_asks_for_every_host_once_and_restarts_by_exit_code(name):
    text = re.search(r"<<'END'\n(.*)END\n", (HERE / "stored" / f"{name}.txt").read_text(), re.S)[1]
    job_set = yaml.safe_load(text)
    assert (job_set["apiVersion"], job_set["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", job_set["metadata"]["name"])
    assert job_set["spec"]["failurePolicy"]["rules"] == [
        {"name": "wrong", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    ]
    (replicated,) = job_set["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert job["completions"] == job["parallelism"] == (64 if name == "gke_tpu" else 8) and job["backoffLimit"] == 0
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["operator"] == "In"
    wrong = rule["onExitCodes"]["values"]
    assert common.FIX in wrong and not any(map(common.helped_by_restart, wrong))
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert rule["onExitCodes"]["containerName"] == container["name"] and pod["restartPolicy"] == "Never"
    workdir = next(a for a in CASES[name][1] if a.startswith("--workdir="))
    assert container["args"][-3:] == [*TRAIN[1:], workdir]
    mounts, volumes = ([x["name"] for x in found] for found in (container["volumeMounts"], pod["volumes"]))
    assert mounts == volumes == (["shm", "data"] if name == "gke_tpu" else ["shm"])
    if name == "gke_gpu":
        host_0 = f"{job_set['metadata']['name']}-{replicated['name']}-0-0.{job_set['metadata']['name']}:8476"
        values = {e["name"]: e.get("value") for e in container["env"]}
        assert values["JAX_COORDINATOR_ADDRESS"] == host_0 and values["JAX_NUM_PROCESSES"] == "8"


def of_embedding(name) -> str:
    """What the dry run of a case prints with an embedding job in place of the trainer's arguments."""
    module, arguments = CASES[name]
    job = ["--", "embed", "--checkpoint=/data/run 2", "--data=rxrx3", "--per=well"]
    found = io.StringIO()
    with contextlib.redirect_stdout(found):
        assert module.main([*arguments[: arguments.index("--")], *job]) == 0
    return found.getvalue()


@pytest.mark.parametrize("name", CASES)
def test_an_embedding_job_is_started_as_a_run_is(name):
    text = of_embedding(name)
    words = [word.strip("'\"") for word in re.split(r"[\s=]+", text)]
    module = "rxrx_jax.embed" if name in ("local", "host") else "embed"
    assert module in words and "--config" not in words and "rxrx_jax.main" not in text
    multihost = "--multihost" in text
    assert multihost == (name in ("tpu_pod", "gke_tpu"))
    after = words[words.index(module) + 1 :]
    after = [word for word in after if word not in ("-", "--multihost")]
    assert after[0] == "--checkpoint" and "/data/run" in after[1] and "--workdir" in text


def test_a_mistake_in_an_embedding_job_is_told_before_anything_is_asked_for(capsys):
    for job in (["--data=rxrx3"], ["--checkpoint=a", "--data=b", "--per=plate"]):
        with pytest.raises(SystemExit, match="2"):
            local.main(["--processes=1", "--devices=1", "--workdir=a", "--", "embed", *job])
        assert "python -m rxrx_jax.embed: error: " in capsys.readouterr().err


# Several slices.


def test_emulated_hosts_are_told_of_slices(capsys):
    module, arguments = CASES["local"]
    assert module.main(["--slices=2", *arguments]) == 0
    text = capsys.readouterr().out
    assert text.count("MEGASCALE_NUM_SLICES=2 ") == 2 == text.count("JAX_PROCESS_ID=")


def test_several_slices_are_one_queued_resource_of_as_many_nodes(capsys):
    module, arguments = CASES["tpu_pod"]
    assert module.main(["--slices=2", *arguments]) == 0
    text = capsys.readouterr().out
    create = re.search("queued-resources create .*", text)[0]
    assert "--node-prefix=run-1 --node-count=2" in create and "--node-id" not in create
    ssh = re.findall("gcloud compute tpus queued-resources (?:ssh|scp) .*", text)
    assert len(ssh) == 8 and all("--node=" in line for line in ssh) and "tpu-vm" not in text
    assert [line for line in text.splitlines() if "--worker=0 --node=0" in line] == [ssh[3]]
    assert text.count("tail --pid") == 2  # of the first host of the first slice, and where what is left is killed


def test_several_slices_are_one_job_set_of_as_many_jobs(capsys):
    module, arguments = CASES["gke_tpu"]
    assert module.main(["--slices=2", *arguments]) == 0
    text = capsys.readouterr().out
    (replicated,) = yaml.safe_load(re.search(r"<<'END'\n(.*)END\n", text, re.S)[1])["spec"]["replicatedJobs"]
    spec = replicated["template"]["spec"]
    assert replicated["replicas"] == 2 and spec["completions"] == 64  # of each
    assert spec["template"]["spec"]["hostNetwork"] is True
    assert "job-completion-index=0,jobset.sigs.k8s.io/job-index=0" in text  # the first host of the first


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("tpu_pod", [*SLICE, "--slices=0"], "--slices=0: expected 1 or more"),
        (
            "gke",
            ["--image=a", "--gpu=b", "--slices=2", "--workdir=gs://b/c"],
            "--slices=2: expected 1 or more, of TPUs",
        ),
        ("local", ["--processes=3", "--devices=1", "--slices=2", "--workdir=a"], "--slices=2 does not divide"),
        ("tpu_pod", [a.replace("gs://bucket", "/data") for a in SLICE], "pass gs://BUCKET/RUN"),
        ("gke", ["--image=a", "--tpu=b", "--workdir=gs://b/c"], "pass the slice's --topology"),
        ("slurm", ["--workdir=run"], "pass a path from / on a file system that all nodes share"),
        ("host", ["--ssh=a", "--workdir=run"], "pass a path from /"),
        ("slurm", ["--workdir=/run", "--commit=nothing"], "git rev-parse"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(name, arguments, message, capsys):
    module = {"tpu_pod": tpu_pod, "gke": gke, "slurm": slurm, "host": host, "local": local}[name]
    assert command.run(module.main, [*arguments, "--dry-run", "--", "--config=convnet.py"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and message in err and err.count("\n") == 1


def test_a_clone_with_changes_is_refused_unless_a_commit_is_named(tmp_path):
    clone = make_clone(tmp_path / "clone")

    def dry(*options):
        return finish(launch("slurm", "--workdir=/a", "--dry-run", *options, "--", "--config=x.py", clone=clone))

    head = subprocess.run(["git", "-C", clone, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert f"git archive {head}" in dry()[1]
    (clone / "new.py").write_text("")
    code, _, err = dry()
    assert code == 2 and "changes that are not committed" in err
    assert f"git archive {head}" in dry("--commit=HEAD")[1]


@pytest.mark.parametrize("name", ["host_ssh", "tpu_pod", "gke_tpu"])
def test_where_compiled_programs_are_kept_is_passed_on(name, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "gs://bucket/cache")
    (start,) = (step for step in steps(name).values() if step.why.startswith("start the run"))
    assert re.search("JAX_COMPILATION_CACHE_DIR(=|\n *value: )gs://bucket/cache", start.command)


def test_the_names_of_runs_suit_every_cluster():
    names = {"gs://b/Run_1/": "run-1", "/data/7": "run-7", "a/b/x--Y..z_": "x-y-z"}
    assert {workdir: common.name_of(workdir) for workdir in names} == names


def test_the_container_file_installs_each_platform():
    """No container is built here: that takes a daemon. The extras exist, what is copied exists."""
    text = (ROOT / "launch" / "Dockerfile").read_text()
    extras = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2]
    platforms = re.findall(r'test "\$PLATFORM" = (\w+)', text)
    assert platforms == ["gpu", "tpu", "cpu"]
    extras_of, asked = re.search(r'(extras="\S+") \\\n.*--editable "(\.\[.*?\])"', text).groups()
    for platform in platforms:
        found = subprocess.run(
            ["sh", "-c", f'PLATFORM={platform}; {extras_of}; echo "{asked}"'], capture_output=True, text=True
        )
        names = found.stdout.strip().removeprefix(".[").removesuffix("]").split(",")
        assert names == [name for name in ("gcs", platform) if name != "cpu"]
        assert all(f"\n{name} = " in extras for name in names)
    for name in re.search(r"COPY (pyproject.*) \./", text)[1].split():
        assert (ROOT / name).exists()
    entry = json.loads(re.search(r"ENTRYPOINT (.*)", text)[1])
    assert entry == ["python", "-m", "launch.worker"]


if __name__ == "__main__":
    for case, (module, arguments) in CASES.items():
        result = subprocess.run(
            [sys.executable, "-m", module.__name__, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
        (HERE / "stored" / f"{case}.txt").write_text(result.stdout.replace(sys.executable, "python"))
