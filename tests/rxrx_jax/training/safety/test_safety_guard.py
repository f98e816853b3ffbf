"""NaN or diverging losses, unreadable images, and what a run leaves out after rolling back."""

import json
import types

import numpy as np
import pytest

from rxrx_jax.base.errors import UserError
from rxrx_jax.data.images import Images, LeavingOut
from rxrx_jax.training.safety import guard
from rxrx_jax.training.safety.guard import Diverged, Guard


def found(loss=1.0, **more):
    return {"loss": loss, "gradient_norm": 1.0} | more


@pytest.mark.parametrize("name", ["loss", "gradient_norm"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_nan_stops_at_the_first_step(name, value):
    with pytest.raises(Diverged, match=f"{name} is {value} at step 1$"):
        Guard(max_loss_ratio=0, unreadable=0, epoch=10).check(1, found() | {name: value})


def test_a_loss_that_max_loss_ratios_is_compared_with_the_median_of_the_last_ones():
    one = Guard(max_loss_ratio=10, unreadable=0, epoch=10)
    for step in range(1, 20):
        one.check(step, found(2.0))  # 19 are too few to judge by
    one.check(20, found(1000.0))
    one.check(21, found(19.9))
    with pytest.raises(Diverged, match=r"loss is 20.1, 10 times its usual 2 at step 22$"):
        one.check(22, found(20.1))


def test_a_loss_that_creeps_up_is_noticed_and_one_that_falls_is_not():
    rising, falling = Guard(10, 0, 10), Guard(10, 0, 10)
    with pytest.raises(Diverged):
        for step in range(1, 200):
            rising.check(step, found(1.05**step))
    for step in range(1, 500):
        falling.check(step, found(7 * 0.98**step))
    falling.check(500, found(0.9))  # noise of a loss that is nearly 0
    with pytest.raises(Diverged):
        falling.check(501, found(1.1))


def test_zero_lets_any_number_pass():
    one = Guard(max_loss_ratio=0, unreadable=0, epoch=10)
    for step, loss in enumerate([1.0] * 30 + [1e30], 1):
        one.check(step, found(loss))


def test_images_that_cannot_be_read_are_counted_against_a_budget_an_epoch():
    one = Guard(max_loss_ratio=0, unreadable=2, epoch=5)
    one.check(1, found(unreadable=2))
    one.check(5, found(unreadable=0))
    one.check(6, found(unreadable=2))  # the second epoch meets them again
    assert one.unreadable == 4
    with pytest.raises(UserError, match=r"^5 images could not be read by step 10.*data.unreadable=2"):
        one.check(10, found(unreadable=1))
    with pytest.raises(UserError, match="^1 images"):
        Guard(max_loss_ratio=0, unreadable=0, epoch=5).check(1, found(unreadable=1))


def test_what_was_counted_before_a_restart_counts():
    one = Guard(max_loss_ratio=0, unreadable=2, epoch=5, carried={"unreadable": 2})
    with pytest.raises(UserError):
        one.check(4, found(unreadable=1))


def test_a_restarted_run_judges_by_the_losses_of_before():
    one = Guard(max_loss_ratio=10, unreadable=0, epoch=5)
    for step in range(1, 150):
        one.check(step, found(2.0))
    again = Guard(max_loss_ratio=10, unreadable=0, epoch=5, carried=json.loads(json.dumps(one.carry())))
    assert again.carry() == one.carry() and len(one.carry()["losses"]) == 100
    with pytest.raises(Diverged):
        again.check(150, found(20.1))


def test_a_penalty_that_begins_makes_another_loss():
    def check(one, step, loss, weight):
        one.check(step, found(loss) | {"penalty_weight": weight})

    one = Guard(max_loss_ratio=10, unreadable=0, epoch=5)
    for step in range(1, 501):
        check(one, step, 2.0, 0.0)
    again = Guard(max_loss_ratio=10, unreadable=0, epoch=5, carried=json.loads(json.dumps(one.carry())))
    for each in (one, again):  # also where the run was started again between the two
        for step in range(501, 530):
            check(each, step, 25.0, 100.0)
        with pytest.raises(Diverged, match="10 times its usual 25 at step 530"):
            check(each, 530, 251.0, 100.0)


class Rows:
    size = 4

    def rows(self, step):
        return np.arange(4) + 10 * step


def test_a_minibatch_left_out_is_replaced_by_one_that_no_other_step_has():
    one = LeavingOut(Rows(), step=3, instead=20)
    assert [one.rows(step)[0] for step in range(5)] == [0, 10, 20, 200, 40]
    assert one.size == 4


class Chosen(Rows):
    """A sampler of these rows, whatever the step."""

    def __init__(self, *rows):
        self.chosen = np.array(rows)

    def rows(self, step):
        return self.chosen


def source(**samplers):
    table = types.SimpleNamespace(site_id=("a", "b", "c"), split=("train",) * 3, experiment=(0, 1, 1), plate=(0, 1, 2))
    dataset = types.SimpleNamespace(sites=table, experiments=("E-01", "E-02"), plates=("E-01/1", "E-02/1", "E-02/2"))
    augment = types.SimpleNamespace(crop=8)
    return Images(augment, {}, (8, 8, 1), {}, dataset, samplers, 0)


def test_a_source_leaves_a_minibatch_out_of_every_stream():
    one = source(train=Rows(), held_out=Rows()).without(step=3, instead=20)
    for sampler in one.samplers.values():
        assert [sampler.rows(step)[0] for step in range(5)] == [0, 10, 20, 200, 40]


BAD = Diverged(7, "loss is nan", {"loss": float("nan"), "gradient_norm": 2.0})


def test_a_bad_minibatch_is_kept_image_by_image(tmp_path):
    images = source(train=Chosen(2), held_out=Chosen(0)).rows(6)
    with pytest.raises(UserError) as error:
        guard.stop_or_roll_back(tmp_path, BAD, images, may_roll_back=False)
    path = tmp_path / "diverged-7.json"
    for part in ("loss is nan at step 7", str(path), "optim.lr", "guard.rollback=True"):
        assert part in str(error.value)
    kept = json.loads(path.read_text())
    assert kept["step"] == 7 and kept["loss"] == "nan" and kept["gradient_norm"] == 2.0
    assert kept["images"] == [
        {"stream": "train", "row": 2, "site_id": "c", "split": "train", "experiment": "E-02", "plate": "E-02/2"},
        {"stream": "held_out", "row": 0, "site_id": "a", "split": "train", "experiment": "E-01", "plate": "E-01/1"},
    ]
    assert guard.rolled_back(tmp_path) is None


def test_a_run_goes_back_once(tmp_path, capsys):
    guard.stop_or_roll_back(tmp_path, BAD, source(train=Chosen(2)).rows(6), may_roll_back=True)
    assert guard.rolled_back(tmp_path) == 7
    assert "WARNING: loss is nan at step 7; going back to the last checkpoint, once" in capsys.readouterr().err
    with pytest.raises(UserError, match="again after going back once"):
        guard.stop_or_roll_back(tmp_path, BAD, source(train=Chosen(1)).rows(6), may_roll_back=True)


def test_noise_has_no_images_to_keep(tmp_path):
    with pytest.raises(UserError, match="of noise"):
        guard.stop_or_roll_back(tmp_path, BAD, [], may_roll_back=True)
    assert not list(tmp_path.iterdir())
