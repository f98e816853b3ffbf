"""The simulated screen as a dataset: small, free, and shaped like RxRx1.

    python -m tfds_builders.prepare rxrx_sim [--set seed=1 --set layout=reshuffled]

Every field of rxrx_jax.simulate.screen.Screen is a setting. Raise VERSION when the simulator's pixels change:
a prepared folder is otherwise taken as it is.
"""

import functools

import tensorflow_datasets as tfds

from rxrx_jax.errors import UserError
from rxrx_jax.simulate import screen as simulate
from tfds_builders import report, screen


class Builder(screen.ScreenBuilder):
    """A simulated screen to one record per site; the config holds a Screen."""

    VERSION = tfds.core.Version("1.0.0")
    settings_type = simulate.Screen
    processes = True  # numpy work that holds the GIL
    about = {
        "description": "A simulated cell painting screen with known effects of perturbation and batch.",
        "license": "Apache-2.0",
    }

    def read_table(self) -> report.Table:
        """Lists the sites of the screen."""
        if self.source is not None:
            raise UserError(f"rxrx_sim is simulated: leave out --source={self.source}")
        rows = simulate.sites(self.settings)
        facts = {"source": "simulated", "source_kind": "simulated", "label_space": "simulated",
                 "classes": self.settings.classes}  # fmt: skip
        return report.Table(rows, classes=report.classes_of(rows), facts=facts)

    def image_shape(self) -> tuple[int, int, int]:
        """Six channels of the screen's size."""
        return self.settings.image_size, self.settings.image_size, 6

    def site_reader(self):
        """A pure function of screen and row."""
        return functools.partial(simulate.render_site, self.settings)
