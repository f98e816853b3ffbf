"""launch.tpu_pod against a gcloud that only notes how it is called: what is done when slices come and go."""

import re

import pytest
from launch_tools import Stubs, finish, interrupt, launch, make_clone, until

ARGUMENTS = ["--zone=z", "--type=v5litepod-256", "--runtime=r", "--workdir=gs://b/run", "--restarts=2"]
TRAIN = ["--", "--config=x.py"]
UP = ["describe", "create", "state", "scp", "install"]
KINDS = {  # what a call of gcloud is for, in a word; the first that fits
    "state": "value(state.state)",
    "describe": "describe",
    "create": " create ",
    "scp": " scp ",
    "install": "uv pip",
    "start": "setsid",
    "kill": "pkill -KILL",
    "stop": "pkill -TERM",
    "follow": "tail --pid",
    "reach": "--command=true",
    "ask": "exit code $(",
    "delete": " delete ",
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    return make_clone(tmp_path_factory.mktemp("launch") / "clone")


@pytest.fixture
def gcloud(tmp_path):
    return Stubs(tmp_path / "stubs", "gcloud")


def kind(call: str) -> str:
    return next(word for word, text in KINDS.items() if text in call)


def run(clone, gcloud, answers, *options):
    answers = {"state": ["ACTIVE"], "describe": [1]} | answers
    gcloud.answer([[re.escape(text), answers.get(word, [0])] for word, text in KINDS.items()])
    return launch("tpu_pod", *ARGUMENTS, *options, *TRAIN, clone=clone, environment=gcloud.environment())


def calls(gcloud) -> list[str]:
    return [kind(c) for c in gcloud.calls() if c.startswith("gcloud")]


def test_a_run_is_brought_up_followed_and_the_slice_deleted(clone, gcloud):
    code, _, err = finish(run(clone, gcloud, {"state": ["PROVISIONING", "ACTIVE"]}, "--spot"))
    assert code == 0, err
    assert calls(gcloud) == ["describe", "create", "state", "state", "scp", "install", "start", "follow", "delete"]
    assert "sleep 30" in gcloud.calls()
    create, start = (next(c for c in gcloud.calls() if text in c) for text in (" create ", "setsid"))
    assert "--spot" in create and "--accelerator-type=v5litepod-256" in create and "--node-id=run " in create
    assert "JAX_COORDINATOR_PORT=8476" in start and "--multihost --config=x.py --workdir=gs://b/run" in start
    assert "--worker=all" in start and "--force" in gcloud.calls()[-1]


def test_a_preempted_slice_is_deleted_and_the_run_resumes_in_a_new_one(clone, gcloud):
    answers = {"follow": [255, 0], "state": ["ACTIVE", "SUSPENDING", "SUSPENDED", "ACTIVE"]}
    code, _, err = finish(run(clone, gcloud, answers))
    assert code == 0 and "preempted: starting again, 2 left" in err
    end = ["start", "follow"]
    assert calls(gcloud) == [*UP, *end, "state", "state", "delete", *UP, *end, "delete"]


def test_a_lost_run_starts_again_on_the_same_slice(clone, gcloud):
    code, _, err = finish(run(clone, gcloud, {"follow": [75, 137, 0], "ask": [1]}))
    again = ["state", "ask", "kill", "start", "follow"]
    assert code == 0, err
    assert calls(gcloud) == [*UP, "start", "follow", *again, *again, "delete"]


def test_a_lost_slice_of_two_is_waited_for_and_gets_the_code_again(clone, gcloud):
    """The first copy fails: the slice that is new does not answer yet."""
    answers = {"follow": [75, 0], "ask": [1], "scp": [0, 1, 0]}
    code, _, err = finish(run(clone, gcloud, answers, "--slices=2"))
    lost, again = ["state", "ask", "kill"], ["state", "reach", "scp"]
    assert code == 0, err
    end = ["install", "start", "follow", "delete"]
    assert calls(gcloud) == [*UP, "start", "follow", *lost, *again, *lost, *again, *end]
    assert "the run was lost (code 75): starting again, 2 left" in err
    assert all("--node=all" in call for call in gcloud.calls() if " scp " in call or "setsid" in call)


def test_a_log_is_copied_to_the_workdir_while_the_run_lasts_under_a_name_of_its_own(clone, gcloud):
    assert finish(run(clone, gcloud, {}))[0] == 0
    start = next(call for call in gcloud.calls() if "setsid" in call)
    assert "while sleep 60; do gcloud storage cp ../run.log" in start and "/hosts/" in start
    assert "$(hostname)-$(date -u +%Y%m%dT%H%M%S)" in start
    assert start.index("while sleep") < start.index("launch.worker") < start.index('kill "$copying"')


def test_restarts_come_to_an_end(clone, gcloud):
    code, _, err = finish(run(clone, gcloud, {"follow": [75], "ask": [1]}))
    assert code == 75 and calls(gcloud).count("follow") == 3 and calls(gcloud)[-1] == "delete"


def test_a_lost_connection_is_made_again(clone, gcloud):
    code, _, _ = finish(run(clone, gcloud, {"follow": [255, 0]}))
    assert code == 0 and calls(gcloud) == [*UP, "start", "follow", "state", "follow", "delete"]


@pytest.mark.parametrize(
    "answers, code", [({"follow": [1], "ask": [1]}, 1), ({"follow": [75], "ask": ["exit code 2"]}, 2)]
)
def test_what_the_user_must_fix_is_not_started_again(answers, code, clone, gcloud):
    found, _, err = finish(run(clone, gcloud, answers))
    assert found == code and calls(gcloud) == [*UP, "start", "follow", "state", "ask", "delete"], err


def test_a_slice_that_is_there_is_used(clone, gcloud):
    assert finish(run(clone, gcloud, {"describe": [0]}))[0] == 0
    assert calls(gcloud) == ["describe", "state", "scp", "install", "start", "follow", "delete"]


def test_a_slice_that_never_comes_is_asked_for_again_then_given_up(clone, gcloud):
    code, _, err = finish(run(clone, gcloud, {"state": ["FAILED"]}))
    assert code == 75 and "the slice is FAILED" in err
    assert calls(gcloud) == ["describe", "create", "state", "state", "delete"] * 2 + UP[:3] + ["state", "delete"]


@pytest.mark.parametrize(
    "answers, message, end",
    [
        ({"create": [1]}, "request the slice, unless it was requested before: its command ended with code 1", 3),
        ({"install": [3]}, "install it on all hosts: its command ended with code 3", 2),
    ],
)
def test_what_fails_on_the_way_up_is_named_and_cleaned_up(answers, message, end, clone, gcloud):
    code, _, err = finish(run(clone, gcloud, answers))
    assert code == 2 and f"error: {message}" in err and calls(gcloud)[-1] == "delete"
    assert "start" not in calls(gcloud)


def test_keep_leaves_the_slice(clone, gcloud):
    assert finish(run(clone, gcloud, {}, "--keep"))[0] == 0
    assert "delete" not in calls(gcloud)


@pytest.mark.parametrize("last, code", [(85, 0), (75, 75)])
def test_ctrl_c_asks_all_hosts_for_a_checkpoint_then_deletes_the_slice(last, code, clone, gcloud):
    process = run(clone, gcloud, {"follow": ["wait", last]})
    until(lambda: "follow" in calls(gcloud))
    interrupt(process)
    assert finish(process)[0] == code
    assert calls(gcloud)[-4:] == ["follow", "stop", "follow", "delete"]
    assert "--worker=all" in next(c for c in gcloud.calls() if "pkill -TERM" in c)


def test_ctrl_c_before_the_run_deletes_the_slice(clone, gcloud):
    process = run(clone, gcloud, {"install": ["wait"]})
    until(lambda: "install" in calls(gcloud))
    interrupt(process)
    assert finish(process)[0] == 143
    assert calls(gcloud)[-2:] == ["install", "delete"]
