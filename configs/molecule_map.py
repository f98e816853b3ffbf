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

import ml_collections

from rxrx_jax.base.config import parse_arguments
from rxrx_jax.training.base_config import molecule_encoder, molecules, run_keys


def get_config(argument=None):
    arg = parse_arguments(argument, full=False, data="", phenomics="", lr=1e-3, dropout=0.1, seed=0)
    config = ml_collections.ConfigDict()
    config.seed = arg.seed
    config.mesh = dict(fsdp=1, tensor=1)
    config.data = molecules(arg.data, arg.seed, minibatch=512 if arg.full else 64)
    config.data.phenomics = arg.phenomics
    config.data.screen_seed = arg.seed  # of the simulated screen
    run_keys(config, False)
    config.selection = "best_val"
    config.task = dict(name="contrast", width=64, temperature=0.1, dropout=arg.dropout)
    config.model = molecule_encoder(arg.full, arg.dropout)
    config.optim = dict(
        name="adamw",
        lr=arg.lr,
        betas=(0.9, 0.98),
        weight_decay=0.01,
        clip_norm=1.0,
        ema_decay=0.0,
        warmup_percent=5.0,
    )
    config.total_epochs = 20.0
    config.evaluate_epochs = 5.0
    config.evaluators = dict(retrieval=dict(baselines=True))
    return config
