"""Tables that `python -m rxrx_jax.reproduce NAME` makes, one file each."""
