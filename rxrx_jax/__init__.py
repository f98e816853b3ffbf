"""rxrx_jax: models of the RxRx microscopy images that survive a change of experimental batch."""

__version__ = "0.4.0"
