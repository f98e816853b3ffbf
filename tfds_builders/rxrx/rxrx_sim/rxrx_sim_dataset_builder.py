"""The simulated screen as a dataset: small, free, and shaped like RxRx1.

    python -m tfds_builders.prepare rxrx_sim [--set seed=1 --set layout=reshuffled]

Every field of rxrx_jax.simulate.screen.Screen is a setting. Raise VERSION when the simulator's pixels or its settings
change: a prepared folder is otherwise taken as it is, or refused for settings that it does not have.
"""

import tensorflow_datasets as tfds

from rxrx_jax.base.errors import UserError
from rxrx_jax.simulate import screen as simulate
from tfds_builders.common import screen, settings, types
from tfds_builders.rxrx.rxrx_sim.reader import Simulated


class Builder(screen.ScreenBuilder):
    """A simulated screen to one record per site; the config holds a Screen."""

    VERSION = tfds.core.Version("3.0.0")
    settings_type = simulate.Screen
    records = settings.Records(encoding="raw")  # images this small are read in less time than they decode in
    channels = ("nucleus", "endoplasmic reticulum", "actin", "nucleolus and RNA", "mitochondria", "Golgi")
    about = {
        "description": "A simulated cell painting screen with known effects of perturbation and batch.",
        "license": "Apache-2.0",
    }

    @classmethod
    def make_config(cls, **fields) -> screen.ScreenConfig:
        """As the base class; simulated images are not files that records could keep."""
        config = super().make_config(**fields)
        if config.records.encoding == "source":
            raise UserError("rxrx_sim: encoding=source keeps image files, and simulated images have none")
        return config

    def read_table(self) -> types.Table:
        """Lists the sites of the screen."""
        if self.source is not None:
            raise UserError(f"rxrx_sim is simulated: leave out --source={self.source}")
        facts = {"source": "simulated", "source_kind": "simulated", "label_space": "simulated"}
        return types.Table(simulate.sites(self.settings), facts, classes=self.settings.classes)

    def reader(self) -> tuple[Simulated, tuple[int, int]]:
        """The renderer."""
        return Simulated(self.settings), (self.settings.image_size, self.settings.image_size)
