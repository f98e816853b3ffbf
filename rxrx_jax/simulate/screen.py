"""The public face of the simulated screen: settings, design, pixels and published trees in one import."""

from rxrx_jax.simulate.design import COLUMNS, Screen, groups, parse, sites
from rxrx_jax.simulate.export import write_kaggle, write_published
from rxrx_jax.simulate.render import render_site

__all__ = ["COLUMNS", "Screen", "groups", "parse", "render_site", "sites", "write_kaggle", "write_published"]
