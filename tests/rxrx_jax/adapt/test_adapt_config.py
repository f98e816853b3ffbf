"""What a config says of adaptation: methods by name, what they refuse, and what a network is read by post hoc."""

import pytest

from rxrx_jax import adapt
from rxrx_jax.adapt.invariance.dann import Dann
from rxrx_jax.adapt.method import Method
from rxrx_jax.adapt.statistics.adabn import AdaBN
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError

SHARES = {"experiment": (1 / 12,) * 12, "plate": (1 / 48,) * 48}


def config(name, group="experiment", groups=1, model="convnet"):
    values = {"data": {"group": group, "groups_per_minibatch": groups}, "model": {"name": model}}
    return Config({"adapt": {"name": name}} | values)


def test_methods_by_name():
    assert adapt.make_method({"name": "erm"}, SHARES) == Method("experiment", SHARES["experiment"])
    assert adapt.make_method({"name": "adabn"}, SHARES, 1) == AdaBN("experiment", SHARES["experiment"], 1)
    dann = {"name": "dann", "domain": "plate", "grl_weight": 0.5, "hidden": 32}
    assert adapt.make_method(dann, SHARES) == Dann("plate", SHARES["plate"], 0, 0.5, 32)
    for changes, message in (
        ({"domain": "well"}, "adapt.domain='well'.*experiment or plate"),
        ({"name": "coral"}, "adapt.name='coral'"),
        ({"weight": 0.0}, "adapt.weight: Dann takes domain, grl_weight, hidden$"),
        ({"shares": ()}, "adapt.shares: Dann takes domain, grl_weight, hidden$"),
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


def test_a_network_without_batch_norm_is_read_by_no_other_statistics():
    adapt.check_post_hoc("mine", AdaBN(), True)
    with pytest.raises(UserError, match="post_hoc.mine: this model has no BatchNorm to re-estimate"):
        adapt.check_post_hoc("mine", AdaBN(), False)


@pytest.mark.parametrize("name", ["erm", "lisa", "mean_teacher"])
def test_a_method_that_only_trains_reads_nothing_post_hoc(name):
    method = adapt.make_method({"name": name}, SHARES)
    with pytest.raises(UserError, match=f"post_hoc.mine: {type(method).__name__} only trains, it reads as without it"):
        adapt.check_post_hoc("mine", method, True)
