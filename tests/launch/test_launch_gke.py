"""launch.gke against a kubectl and a docker that only note how they are called."""

import pytest
from launch_tools import Stubs, finish, interrupt, launch, make_clone, until

ARGUMENTS = ["--image=r/i", "--gpu=nvidia-h200-141gb", "--workdir=gs://b/run"]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return make_clone(tmp_path_factory.mktemp("launch") / "clone")


@pytest.fixture
def cluster(tmp_path):
    return Stubs(tmp_path / "stubs", "kubectl", "docker")


def run(clone, cluster, answers, *options):
    patterns = {
        "build": "docker build",
        "terminal": "terminalState",
        "reason": "conditions",
        "pods": "get pods",
        "logs": "kubectl logs",
    }
    cluster.answer([[patterns[k], v] for k, v in answers.items()])
    return launch("gke", *ARGUMENTS, *options, "--", "--config=x.py", clone=clone, environment=cluster.environment())


def test_the_image_is_built_pushed_and_run_and_the_job_set_deleted(clone, cluster):
    answers = {"terminal": ["", "", "", "", "Completed"], "pods": ["a", "a", "b"], "logs": [1, 0]}
    code, _, err = finish(run(clone, cluster, answers))
    assert code == 0, err
    calls = [c for c in cluster.calls() if not c.startswith("sleep")]
    assert calls[0].startswith("docker build") and calls[1].startswith("docker push r/i:gpu-")
    assert calls[2] == "kubectl apply -f -" and calls[-1].startswith("kubectl delete jobset run ")
    # of a pod that was not ready once more, of the one after a restart too, of none twice
    assert [c for c in calls if "logs" in c] == [f"kubectl logs --follow pod/{p}" for p in "aab"]


@pytest.mark.parametrize("reason, code", [("ReachedMaxRestarts", 75), ("FailJobSetFailurePolicyAction", 2)])
def test_a_failed_job_set_says_why_and_is_deleted(reason, code, clone, cluster):
    found, _, err = finish(run(clone, cluster, {"terminal": ["Failed"], "reason": [reason]}))
    assert found == code and f"the JobSet failed: {reason}" in err
    assert "kubectl delete jobset run" in cluster.calls()[-1]


def test_ctrl_c_deletes_the_job_set_and_keep_leaves_it(clone, cluster):
    answers = {"terminal": [""], "pods": ["a"], "logs": ["wait"]}
    process = run(clone, cluster, answers)
    until(lambda: any("logs" in c for c in cluster.calls()))
    interrupt(process)
    assert finish(process)[0] == 143
    assert "kubectl delete jobset run" in cluster.calls()[-1]
    assert finish(run(clone, cluster, {"terminal": ["Completed"]}, "--keep"))[0] == 0
    assert sum("delete" in c for c in cluster.calls()) == 1


def test_an_image_that_cannot_be_built_starts_nothing(clone, cluster):
    code, _, err = finish(run(clone, cluster, {"build": [1]}))
    assert code == 2 and "error: build the image" in err
    assert not any("apply" in c for c in cluster.calls())
