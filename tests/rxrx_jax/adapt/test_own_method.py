"""A method in a user's own file: trained, resumed and evaluated on two real processes; what a bad one is told."""

import dataclasses
import signal

import numpy as np
import pytest
from hosts_tools import finish, start, values

from rxrx_jax import adapt
from rxrx_jax.adapt import Needs, make_method, method_class
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.training import metrics

METHOD = '''
import dataclasses
import jax.numpy as jnp
from rxrx_jax.adapt.method import Method, Needs
from rxrx_jax.data.batch import HELD_OUT, TRAIN

@dataclasses.dataclass(frozen=True)
class MeanMatch(Method):
    """The mean features of the training and of the held-out experiments are pulled together."""

    weight: float = 0.1

    @property
    def needs(self):
        return Needs(streams=(HELD_OUT,), batch_norm=True, transductive=True)

    @property
    def read_by(self):
        return "experiment"

    def init(self, key, features):
        return {}, {"steps": jnp.zeros(len(self.shares))}

    def loss(self, params, carry, out, progress, key):
        train, held_out = (out.batch.of(name, out.features) for name in (TRAIN, HELD_OUT))
        penalty = jnp.square(train.mean(0) - held_out.mean(0)).sum()
        trained = jnp.array(self.shares)[out.domains] > 0
        metrics = {"steps": carry["steps"].max() + 1, "penalty": penalty}
        metrics["train_is_train"] = out.batch.of(TRAIN, trained & out.labelled).mean()
        metrics["held_out_is_held_out"] = out.batch.of(HELD_OUT, ~trained & ~out.labelled).mean()
        return out.risk + self.weight * penalty, {"steps": carry["steps"] + 1}, metrics

    def at_test(self, predict, network, group):
        return predict(network._replace(batch_stats=predict.batch_statistics(network, group.members)), group.rows)
'''


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "mine" / "mean_match.py"
    path.parent.mkdir()
    path.write_text(METHOD)
    return path


@pytest.mark.slow
def test_a_method_of_ones_own_trains_resumes_and_is_evaluated_on_two_processes(own, tmp_path):
    settings = {"adapt": {"name": str(own), "weight": 0.3}, "data.unlabelled_minibatch": 4}
    tiny = values(tmp_path / "data", "convnet.py:normalisation=image", **settings)
    runs = {}
    for name, processes in (("one", 1), ("two", 2)):
        codes, hosts = finish(tmp_path / name, tiny, processes=processes, devices=2 // processes)
        assert codes == [0] * processes, hosts.log()
        runs[name] = metrics.read(tmp_path / name / "metrics.jsonl")
    stopped = start(tmp_path / "stopped", tiny, processes=2)
    stopped.until("step 5/12")
    stopped.signal(1, signal.SIGTERM)
    assert stopped.wait() == [0, 0], stopped.log()
    assert "stopped at step" in stopped.log()
    codes, again = finish(tmp_path / "stopped", tiny, processes=2)
    assert codes == [0, 0] and "resuming" in again.log()
    runs["stopped"] = metrics.read(tmp_path / "stopped" / "metrics.jsonl")

    # Each stream is whole on both processes, and the carry continues after the stop.
    for lines in runs.values():
        training = [line for line in lines if "loss" in line]
        assert all(line["train_is_train"] == line["held_out_is_held_out"] == 1 for line in training)
        assert all(line["steps"] == line["step"] for line in training)
        assert lines[-1]["transductive"] is True
    assert runs["stopped"][-1]["parameters_sha256"] == runs["two"][-1]["parameters_sha256"]
    final = {name: next(line for line in lines if line.get("final")) for name, lines in runs.items()}
    for key, value in final["two"].items():
        if key.endswith("/sites"):
            assert final["one"][key] == final["stopped"][key] == value > 0
    assert final["stopped"]["cross_batch/site_accuracy"] == final["two"]["cross_batch/site_accuracy"]
    losses = [[line["loss"] for line in runs[name] if "loss" in line] for name in ("one", "two")]
    np.testing.assert_allclose(*losses, rtol=1e-3)


# What a bad one is told.

SHARES = {"experiment": (0.5, 0.5), "plate": (0.25,) * 4}


def test_the_fields_of_a_method_are_its_keys(own):
    found = make_method({"name": str(own), "weight": 2.0}, SHARES)
    assert (found.weight, found.shares, type(found).__name__) == (2.0, (0.5, 0.5), "MeanMatch")
    with pytest.raises(UserError, match="^adapt.wieght: MeanMatch takes domain, weight$"):
        make_method({"name": str(own), "wieght": 2.0}, SHARES)
    with pytest.raises(UserError, match="^adapt.weight='x': expected a number$"):
        make_method({"name": str(own), "weight": "x"}, SHARES)
    with pytest.raises(UserError, match="^adapt.domain='well': expected experiment or plate$"):
        make_method({"name": "dann", "domain": "well"}, SHARES)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            ("def loss(", "def los("),
            r"MeanMatch.los is not a hook; the hooks are needs, read_by, init, mix, .*at_test$",
        ),
        (("class MeanMatch(Method)", "class MeanMatch"), "must define one Method, and defines 0$"),
        (("import jax.numpy as jnp", "import jax.nunpy as jnp"), r"cannot be imported at line \d+ \(ModuleNotFound"),
    ],
)
def test_a_file_that_is_not_a_method_is_one_line(own, change, message):
    own.write_text(METHOD.replace(*change))
    with pytest.raises(UserError, match=message) as error:
        method_class(str(own))
    assert "\n" not in str(error.value) and str(own) in str(error.value)


def test_names_are_the_files_of_the_rooms():
    with pytest.raises(UserError, match=r"adapt.name='dan': expected .*adabn.*dann.*, or the path of a .py file"):
        method_class("dan")
    with pytest.raises(UserError, match="adapt.name=nowhere/mine.py: no such file"):
        method_class("nowhere/mine.py")
    assert method_class("erm").__name__ == "Method" and method_class("fish").__name__ == "Fish"


@pytest.mark.parametrize(
    "needs, changes, message",
    [
        (dict(batch_norm=True), {}, "needs a model with BatchNorm, and model.name=vit has none$"),
        (dict(groups=(2, 9)), {}, "needs data.groups_per_minibatch=2 or more, not 0$"),
        (dict(groups=(2, 9)), {"data.groups_per_minibatch": 1}, "=2 or more, not 1$"),
        (dict(groups=(1, 1)), {"data.groups_per_minibatch": 4}, "needs data.groups_per_minibatch=1, not 4$"),
        (dict(groups=(1, 1)), {"data.groups_per_minibatch": 1, "data.group": "plate"}, "needs data.group=experiment"),
        (dict(pairs="perturbation"), {}, "needs data.pairs=perturbation, not ''$"),
        (dict(streams=("held_out",)), {}, "needs the stream held_out: set data.unlabelled_minibatch above 0$"),
        (dict(averages=True), {}, "needs optim.ema_decay above 0"),
        (dict(whole_minibatch=True), {"accumulate": 2}, "its loss is not a mean over images, so accumulate must be 1$"),
    ],
)
def test_what_a_method_needs_and_a_run_does_not_give_is_one_line(needs, changes, message):
    found = {
        "adapt": {"name": "mine"},
        "model": {"name": "vit"},
        "data": {"groups_per_minibatch": 0, "group": "experiment"},
        "optim": {},
    }
    for key, value in changes.items():
        section, _, name = key.rpartition(".")
        (found[section] if section else found)[name] = value

    @dataclasses.dataclass(frozen=True)
    class Mine(adapt.Method):
        @property
        def needs(self):
            return Needs(**needs)

    with pytest.raises(UserError, match=f"^adapt.name=mine:? .*{message}"):
        adapt.check(Mine(), Config(found), has_batch_norm=False, streams=("train",))
