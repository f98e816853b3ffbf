"""What a config says of adaptation: methods by name, what they refuse, and what a network is read by post hoc."""

import types

import numpy as np
import pytest

from rxrx_jax import adapt
from rxrx_jax.adapt.invariance.dann import Dann
from rxrx_jax.adapt.method import Method
from rxrx_jax.adapt.statistics.adabn import AdaBN
from rxrx_jax.adapt.statistics.cs_bn import CSBN
from rxrx_jax.base.config import Config, load
from rxrx_jax.base.errors import UserError

SHARES = {"experiment": (1 / 12,) * 12, "plate": (1 / 48,) * 48}


def config(name, group="experiment", groups=1, model="convnet", minibatch=64):
    data = {"group": group, "groups_per_minibatch": groups, "minibatch": minibatch}
    values = {"data": data, "model": {"name": model}}
    return Config({"adapt": {"name": name}} | values)


def test_methods_by_name():
    assert adapt.make_method({"name": "erm"}, SHARES) == Method("experiment", SHARES["experiment"])
    assert adapt.make_method({"name": "adabn"}, SHARES, 1) == AdaBN(SHARES["experiment"], 1)
    ben = adapt.make_method({"name": "ben", "read": "experiment"}, SHARES, 1)
    assert (ben.domain, ben.shares, ben.read_by) == ("plate", SHARES["plate"], "experiment")
    dann = {"name": "dann", "domain": "plate", "grl_weight": 0.5, "hidden": 32}
    assert adapt.make_method(dann, SHARES) == Dann("plate", SHARES["plate"], 0, 0.5, 32)
    for changes, message in (
        ({"domain": "well"}, "adapt.domain='well'.*experiment or plate"),
        ({"name": "corall"}, "adapt.name='corall'"),
        ({"weight": 0.0}, "adapt.weight: Dann takes domain, grl_weight, hidden, schedule, within, smoothing$"),
        ({"shares": ()}, "adapt.shares: Dann takes domain, grl_weight, hidden, .*smoothing$"),
        ({"grl_weight": "0"}, "adapt.grl_weight='0': expected a number"),
    ):
        with pytest.raises(UserError, match=message):
            adapt.make_method(dann | changes, SHARES)


def test_adabn_refuses_mixed_minibatches_and_other_groups():
    adabn = adapt.make_method({"name": "adabn"}, SHARES, 1)
    adapt.check(adabn, config("adabn"), True, ("train",))
    with pytest.raises(UserError, match="adapt.name=adabn needs data.groups_per_minibatch=1, not 4"):
        adapt.check(adabn, config("adabn", groups=4), True, ("train",))
    with pytest.raises(UserError, match="adapt.name=adabn needs data.group=experiment, its domain, not plate"):
        adapt.check(adabn, config("adabn", group="plate"), True, ("train",))
    with pytest.raises(UserError, match="adapt.name=adabn needs a model with BatchNorm, and model.name=vit has none"):
        adapt.check(adabn, config("adabn", model="vit"), False, ("train",))


@pytest.mark.parametrize("name", ["dann", "cdan", "groupdro"])
def test_one_domain_is_nothing_to_compare(name):
    alone = {"experiment": (0.0, 1.0, 0.0), "plate": (0.5, 0.5)}
    method = adapt.make_method({"name": name}, alone)
    with pytest.raises(UserError, match=f"adapt.name={name} compares experiments and all training images are of one: "):
        adapt.check(method, config(name, groups=0), True, ("train",))
    adapt.check(adapt.make_method({"name": name}, SHARES), config(name, groups=0), True, ("train",))
    if name != "groupdro":
        adapt.check(method, config(name, groups=0), True, ("train", "held_out"))  # an experiment of its own


@pytest.mark.parametrize("name", ["coral", "mmd", "irm", "vrex", "ib_erm", "fishr", "fish"])
@pytest.mark.parametrize("groups", [0, 1])
def test_one_domain_in_a_minibatch_is_refused(name, groups):
    method = adapt.make_method({"name": name}, SHARES, groups)
    with pytest.raises(UserError, match=f"adapt.name={name} needs data.groups_per_minibatch=2 or more, not {groups}"):
        adapt.check(method, config(name, groups=groups), True, ("train",))


def test_what_methods_of_statistics_need_is_set_and_refused():
    found = load("convnet.py:method=cs_bn")
    drawn = {key: found["data"][key] for key in ("group", "groups_per_minibatch", "control_minibatch")}
    assert drawn == {"group": "plate", "groups_per_minibatch": 1, "control_minibatch": 2}
    assert load("convnet.py:method=cs_bn,rxrx1")["data"]["control_minibatch"] == 128
    assert found["adapt"] == dict(name="cs_bn", train="plate", read="plate", context="both", support=64)
    assert "control_minibatch" not in load("convnet.py:method=ben")["data"]

    cs_bn, arm_bn = (
        adapt.make_method({"name": name}, SHARES, groups) for name, groups in (("cs_bn", 1), ("arm_bn", 4))
    )
    given = config("cs_bn", "plate")
    adapt.check(cs_bn, given, True, ("train", "controls"))
    with pytest.raises(
        UserError, match="adapt.name=cs_bn needs the stream controls: set data.control_minibatch above 0"
    ):
        adapt.check(cs_bn, given, True, ("train",))
    with pytest.raises(
        UserError, match="adapt.name=cs_bn has no use for the stream held_out: set data.unlabelled_mini"
    ):
        adapt.check(cs_bn, given, True, ("train", "controls", "held_out"))
    with pytest.raises(UserError, match="adapt.name=arm_bn has no use for the stream controls: set data.control_minib"):
        adapt.check(arm_bn, config("arm_bn", groups=4), True, ("train", "controls"))
    with pytest.raises(UserError, match="adapt.name=arm_bn needs data.groups_per_minibatch=2 or more, not 1"):
        adapt.check(arm_bn, config("arm_bn"), True, ("train",))


def test_a_plate_without_untreated_wells_is_named_where_they_are_read_with():
    sites = types.SimpleNamespace(plate=np.array([0, 0, 1]), experiment=np.zeros(3, int))
    sites.well_type = np.array(["treatment", "negative_control", "treatment"])
    dataset = types.SimpleNamespace(sites=sites, plates=["A/1", "A/2"], experiments=["A"])
    adapt.check_controls("post_hoc.x", AdaBN(), dataset)
    adapt.check_controls("post_hoc.x", AdaBN(context="controls"), dataset)  # by experiment
    with pytest.raises(UserError, match="^post_hoc.x: CSBN needs untreated wells on every plate, and A/2 has none$"):
        adapt.check_controls("post_hoc.x", CSBN(), dataset)


def test_a_network_without_batch_norm_is_read_by_no_other_statistics():
    adapt.check_post_hoc("mine", AdaBN(), True)
    with pytest.raises(UserError, match="post_hoc.mine: this model has no BatchNorm to re-estimate"):
        adapt.check_post_hoc("mine", AdaBN(), False)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"name": "coral", "weight": -0.1}, "adapt.weight=-0.1: expected a number from 0$"),
        ({"name": "irm", "weight": float("nan")}, "adapt.weight=nan: expected a number from 0$"),
        ({"name": "dann", "grl_weight": -1}, "adapt.grl_weight=-1: expected a number from 0$"),
        ({"name": "coral", "form": "tllib"}, "adapt.form='tllib': expected wilds or sun$"),
        ({"name": "vrex", "warm_up": -1}, "adapt.warm_up=-1: expected a number from 0$"),
        ({"name": "vrex", "warm_up": 0.5}, "adapt.warm_up=0.5: expected a whole number$"),
        ({"name": "fishr", "ema_decay": 1.0}, "adapt.ema_decay=1.0: expected a number from 0 to 0.9999$"),
        ({"name": "cdan", "smoothing": 1.5}, "adapt.smoothing=1.5: expected a number from 0 to 1$"),
        ({"name": "dann", "schedule": "cosine"}, "adapt.schedule='cosine': expected ramp, constant or alternating$"),
        ({"name": "cdan", "within": "nothing"}, "adapt.within='nothing': expected nothing or cell_type$"),
        ({"name": "cs_bn", "context": "control"}, "adapt.context='control': expected all, controls or both$"),
        ({"name": "control_bias", "penalty": -1.0}, "adapt.penalty=-1.0: expected a number from 0$"),
        ({"name": "control_affine", "penalty": float("nan")}, "adapt.penalty=nan: expected a number from 0$"),
        ({"name": "control_mean", "shuffled": "no"}, "adapt.shuffled='no': expected True or False$"),
        ({"name": "cdan", "within": "plate"}, "adapt.within='plate': expected nothing or cell_type$"),
        ({"name": "cdan", "classes": 3}, "adapt.classes: Cdan takes domain, .*projected$"),
    ],
)
def test_a_value_that_a_key_cannot_have_is_one_line(settings, message):
    with pytest.raises(UserError, match=f"^{message}"):
        adapt.make_method(settings, SHARES)


@pytest.mark.parametrize("name", ["coral", "mmd", "irm", "vrex", "ib_erm", "fishr"])
def test_penalties_between_domains_refuse_minibatches_of_one(name):
    method = adapt.make_method({"name": name}, SHARES)
    for groups in (0, 1):
        with pytest.raises(
            UserError, match=f"adapt.name={name} needs data.groups_per_minibatch=2 or more, not {groups}"
        ):
            adapt.check(method, config(name, groups=groups), False, ("train",))
    few = config(name, groups=4, minibatch=4)
    if name == "mmd":
        adapt.check(method, few, False, ("train",))
        return
    with pytest.raises(
        UserError, match="needs 2 or more images of each experiment in a minibatch: data.minibatch=4 from"
    ):
        adapt.check(method, few, False, ("train",))


def test_a_stream_that_a_method_by_groups_would_not_see_is_refused():
    for name, seen in (("coral", True), ("mmd", True), ("vrex", False), ("fish", False)):
        method, streams = adapt.make_method({"name": name}, SHARES, 4), ("train", "held_out")
        if seen:
            adapt.check(method, config(name, groups=4), False, streams)
            continue
        with pytest.raises(
            UserError, match=f"adapt.name={name} has no use for the stream held_out: set data.unlabelled"
        ):
            adapt.check(method, config(name, groups=4), False, streams)


def test_a_penalty_that_never_begins_is_one_line():
    vrex = adapt.make_method({"name": "vrex", "warm_up": 20}, SHARES)
    adapt.check(vrex, config("vrex", groups=4), False, ("train",), steps=21)
    with pytest.raises(UserError, match="adapt.name=vrex needs 21 or more steps to begin, and the run has 20"):
        adapt.check(vrex, config("vrex", groups=4), False, ("train",), steps=20)


def test_facts_of_the_run_reach_the_methods_that_have_fields_for_them():
    facts = dict(classes=7, cell_types={"experiment": (0, 1), "plate": (0, 0, 1, -1)})
    cdan = adapt.make_method({"name": "cdan", "domain": "plate"}, SHARES, **facts)
    assert (cdan.classes, cdan.cell_types) == (7, (0, 0, 1, -1))
    adapt.check(cdan, config("cdan"), False, ("train",))  # of no interest without `within`
    for domain, given in (("plate", facts), ("experiment", {})):
        method = adapt.make_method({"name": "dann", "domain": domain, "within": "cell_type"}, SHARES, **given)
        with pytest.raises(UserError, match=f"^adapt.name=dann needs one cell type in each {domain}: set adapt.within"):
            adapt.check(method, config("dann"), False, ("train",))
    assert adapt.make_method({"name": "fishr"}, SHARES, **facts).classes == 7


@pytest.mark.parametrize("name", ["erm", "lisa", "mean_teacher", "coral", "cdan"])
def test_a_method_that_only_trains_reads_nothing_post_hoc(name):
    method = adapt.make_method({"name": name}, SHARES)
    with pytest.raises(UserError, match=f"post_hoc.mine: {type(method).__name__} only trains, it reads as without it"):
        adapt.check_post_hoc("mine", method, True)
