"""Writes deberta.npz: what the DebertaV2 of transformers makes of random weights and tokens, in float64.

pip install torch==2.13.0 transformers==5.24.0
cd tests && python -m reference.peers.deberta

Text has positions in a row: that of token j for token i is i - j + 64 of the 128, for both of its terms.
"""

import pathlib

import numpy as np
import torch

PATH = pathlib.Path(__file__).parent / "deberta.npz"
SIZES = dict(hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20, vocab_size=11)
LENGTHS = (9, 6)  # of two sequences, padded to the first


def main():
    from transformers import DebertaV2Config, DebertaV2Model

    config = DebertaV2Config(
        **SIZES,
        type_vocab_size=0,
        relative_attention=True,
        max_relative_positions=64,
        position_buckets=-1,
        pos_att_type=["c2p", "p2c"],
        share_att_key=True,
        norm_rel_ebd="layer_norm",
        position_biased_input=False,
        layer_norm_eps=1e-7,
        hidden_act="gelu",
        attn_implementation="eager",
    )
    model, random = DebertaV2Model(config).double().eval(), np.random.default_rng(0)
    weights = {}
    for name, weight in model.state_dict().items():
        around, spread = (1.0, 0.3) if "LayerNorm.weight" in name else (0.0, 0.3)
        weights[name] = (around + spread * random.normal(size=weight.shape)).astype(np.float32)
    model.load_state_dict({name: torch.tensor(weight).double() for name, weight in weights.items()})
    tokens = np.zeros((len(LENGTHS), max(LENGTHS)), np.int64)
    for row, length in zip(tokens, LENGTHS):
        row[:length] = random.integers(1, SIZES["vocab_size"], length)
    with torch.no_grad():
        mask = torch.tensor(tokens > 0)
        found = model(torch.tensor(tokens), attention_mask=mask, output_hidden_states=True).hidden_states
    found = {f"hidden/{i}": x.numpy().astype(np.float32) for i, x in enumerate(found)}
    weights = {f"weight/{name}": weight for name, weight in weights.items()}
    np.savez_compressed(PATH, tokens=tokens.astype(np.int32), **weights, **found)
    print(f"{PATH} {PATH.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
