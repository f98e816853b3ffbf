"""Where a run is written by default."""

import pytest

from rxrx_jax.main import LONGEST_NAME, default_name


@pytest.mark.parametrize(
    "arguments, name",
    [
        (["--config=/a/configs/mae_vit.py"], "mae_vit"),
        (["--config=mae_vit.py:rxrx1,variant=B/16"], "mae_vit-rxrx1-variant=B_16"),
        (["--config=mae_vit.py", "--config.optim.lr=0.001"], "mae_vit-optim.lr=0.001"),
        (["--config=mae_vit.py", "--config.seed=2", "--config.optim.lr=1"], "mae_vit-optim.lr=1-seed=2"),
        (
            ["--config=mae_vit.py", "--config.optim.lr=1", "--config.seed=1", "--config.seed=2"],
            "mae_vit-optim.lr=1-seed=2",
        ),
        (["--config=probe.py", "--config.init.path=runs/a b"], "probe-init.path=runs_a_b"),
        (["--config=mae_vit.py", "--noconfig.tensorboard", "--multihost"], "mae_vit-noconfig.tensorboard"),
        (["--config=mae_vit.py", "--config.measure=loader"], "mae_vit-measure=loader"),
    ],
)
def test_it_is_named_by_the_config_and_its_overrides(arguments, name):
    assert default_name(["main", *arguments]) == name


def test_long_names_stay_apart_and_within_what_file_systems_take():
    names = {default_name(["main", "--config=a.py", f"--config.init.path={'x' * 300}{i}"]) for i in range(3)}
    assert len(names) == 3 and all(len(name) < LONGEST_NAME + 10 for name in names)
