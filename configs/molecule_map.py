"""Molecules against phenomics: a molecule tower that finds the wells of compounds that were never screened.

    python -m rxrx_jax.main --config=molecule_map.py --config.init.path=runs/mole
    python -m rxrx_jax.main --config=molecule_map.py:data=NAME,phenomics=wells.parquet --config.init.path=runs/mole

A symmetric contrastive loss between MolE's encoder and the frozen embeddings of the same compounds; the dose is a token
of the molecule, replicates are averaged, and a compound weighs as much as its replicates agree. Scored is zero-shot
retrieval on scaffolds that training has not seen, beside chance, the dose alone, and what Morgan fingerprints give by
ridge regression or the nearest training molecule. Without init.path the encoder starts untrained.

The default is a SIMULATED screen of the simulated library: what a compound does is a hidden function of its
substructures, with cliffs, and six in ten compounds do nothing. data: molecules that `python -m tfds_builders.prepare
molecules` made with the vocabulary of the encoder's library; phenomics: embeddings of wells with the columns inchikey
and concentration_um.
"""

from rxrx_jax.base.config import parse_arguments
from rxrx_jax.training.base_config import molecule_adamw, molecule_config


def get_config(argument=None):
    arg = parse_arguments(argument, full=False, data="", phenomics="", lr=1e-3, dropout=0.1, seed=0)
    config = molecule_config(arg, arg.data, minibatch=512 if arg.full else 64)
    config.data.phenomics = arg.phenomics
    config.data.screen_seed = arg.seed  # of the simulated screen
    config.selection = "best_val"
    config.task = dict(name="contrast", width=64, temperature=0.1, dropout=arg.dropout)
    config.optim = molecule_adamw(arg.lr)
    config.total_epochs = 20.0
    config.evaluate_epochs = 5.0
    config.evaluators = dict(retrieval=dict(baselines=True))
    return config
