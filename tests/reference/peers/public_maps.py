"""What EFAAR 1.0 and 0.1, proxbias, copairs and neuroCombat make of the cases: called, as their users call them."""

import contextlib
import io
import pathlib
import sys
import tempfile
import unittest.mock

import numpy as np
import pandas as pd
from reference.maps import cases
from sklearn.utils import Bunch

CONTROL = "EMPTY_control"


def efaar_1():
    for name in ("scvi", "scvi.model"):  # gigabytes, for an embedding that is not asked for
        sys.modules.setdefault(name, unittest.mock.MagicMock())
    from efaar_benchmarking import benchmarking, efaar

    names, x = cases.gene_map()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for source, pairs in cases.relations().items():
            pd.DataFrame(pairs, columns=["entity1", "entity2"]).to_csv(
                pathlib.Path(folder) / f"{source}.txt", index=False
            )
        made = Bunch(features=pd.DataFrame(x), metadata=pd.DataFrame({"gene": names}))
        table = benchmarking.known_relationship_benchmark(
            made, "gene", list(cases.relations()), [*map(list, cases.THRESHOLDS)], benchmark_data_dir=folder
        )
    for source, row in zip(table.source, table.itertuples()):
        found[f"recall/{source}"] = np.array([table[f"recall_{lo}_{hi}"][row.Index] for lo, hi in cases.THRESHOLDS])
    x, batch, perturbation = cases.screen()
    metadata = pd.DataFrame({"batch": batch, "perturbation": perturbation})
    for name, of_batch in (("tvn", "batch"), ("tvn_global", None)):
        y = efaar.tvn_on_controls(x, metadata, "perturbation", CONTROL, of_batch)
        found[name] = y @ y[:8].T
    found["centre_scale"] = efaar.centerscale_by_batch(x, metadata, "batch")
    found["centre_scale_controls"] = efaar.centerscale_on_controls(x, metadata, "perturbation", CONTROL, "batch")
    none = [f"N{i}" for i in range(5)]
    one = benchmarking.pert_signal_consistency_benchmark(x, metadata, "perturbation", none, [CONTROL], n_jobs=1)
    two = benchmarking.pert_signal_magnitude_benchmark(x, metadata, "perturbation", none, CONTROL, n_jobs=1)
    one, two = one.set_index("pert").sort_index(), two.set_index("pert").drop(CONTROL).sort_index()
    found |= {"consistency": one.avgcossim, "consistency_p": one.pval, "magnitude": two.edist, "magnitude_p": two.pval}
    made = efaar.aggregate(x, metadata, "perturbation", method="median")
    found["median"] = np.asarray(made.features)
    return {name: np.asarray(value, float) for name, value in found.items()}


def efaar_0_1():
    from efaar_benchmarking import benchmarking, utils
    from efaar_benchmarking import constants as cst

    names, x = cases.gene_map()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        cst.BENCHMARK_DATA_DIR, cst.N_NULL_SAMPLES = pathlib.Path(folder), cases.SAMPLES
        for source, pairs in cases.relations().items():
            pd.DataFrame(pairs, columns=["entity1", "entity2"]).to_csv(
                pathlib.Path(folder) / f"{source}.txt", index=False
            )
        made = Bunch(features=pd.DataFrame(x), metadata=pd.DataFrame({"gene": names}))
        runs = benchmarking.benchmark(made, benchmark_sources=list(cases.relations()))
        table = utils.get_benchmark_metrics(runs)
    for source, value in zip(table.source, table.recall):
        found[f"recall_0_1/{source}"] = np.array(value)
    return found | proxbias()


def proxbias():
    if not hasattr(np, "NaN"):
        np.NaN = np.nan  # as NumPy 1 had it
    from proxbias import arm_centering, metrics

    x, arm, position, unexpressed = cases.arms()
    names = np.array(cases.ARMS)[arm]
    frame = pd.DataFrame(x).assign(chromosome_arm=names, gene=[f"G{i}" for i in range(len(x))])
    frame["zfpkm"] = np.where(unexpressed, -4.0, 1.0)
    about = ["gene", "zfpkm", "chromosome_arm"]
    means = arm_centering.build_arm_centering_df(frame, about)
    centred = arm_centering.perform_arm_centering(frame, about, means)
    found = {"arm_centred": centred.drop(about, axis="columns").to_numpy(float)}
    index = pd.MultiIndex.from_arrays([frame.gene, names, position], names=["gene", "chromosome_arm", "gene_bp"])
    u = x / np.linalg.norm(x, axis=1, keepdims=True)
    whole, each = metrics.bm_metrics(pd.DataFrame(u @ u.T, index, index), list(cases.ARMS))
    columns = ["prob", "stat", "pval", "n_within", "n_between"]
    found["bm_genome"], found["bm_arms"] = (
        whole[columns].to_numpy(float)[0],
        each.loc[list(cases.ARMS)][columns].to_numpy(float),
    )
    genes = metrics.compute_gene_bm_metrics(pd.DataFrame(x, index))
    of = genes.index.get_level_values("gene").str[1:].astype(int)
    found["bm_genes"] = np.full(len(x), np.nan)
    found["bm_genes"][of] = genes.prob.astype(float)
    along = {}
    for name, part in genes.groupby("chromosome_arm"):
        values = part.sort_index(level="gene_bp", ascending=name[-1] == "q").prob.astype(float)
        along[name] = pd.Series(np.arange(len(values))).corr(pd.Series(values.to_numpy()), method="spearman")
    found["along_arms"] = np.array([along.get(name, np.nan) for name in cases.ARMS])
    return found


def copairs():
    from copairs import map as of_copairs

    x, batch, perturbation = cases.screen()
    kept = perturbation != CONTROL
    about = pd.DataFrame({"perturbation": perturbation, "batch": batch})
    found = {}
    for name, differ, rows in (
        ("replicates", [], kept),
        ("cross_batch", ["batch"], kept),
        ("against_controls", [], kept | ~kept),
    ):
        meta, feats = about[rows].reset_index(drop=True), x[rows]
        meta["control"] = np.where(meta.perturbation == CONTROL, 1, -np.arange(len(meta)) - 1)
        negative = dict(neg_sameby=[], neg_diffby=["perturbation", *differ])
        if name == "against_controls":
            meta["is_control"] = meta.perturbation == CONTROL
            negative = dict(neg_sameby=[], neg_diffby=["perturbation", "is_control"])
        ap = of_copairs.average_precision(meta, feats, ["perturbation"], differ, **negative, progress_bar=False)
        found[f"ap/{name}"] = ap.average_precision.to_numpy(float)
        found[f"normalised/{name}"] = ap.normalized_average_precision.to_numpy(float)
    return found


def combat():
    from neuroCombat import neuroCombat

    x, batch, _ = cases.screen()
    with contextlib.redirect_stdout(io.StringIO()):
        return {"combat": neuroCombat(x.T, pd.DataFrame({"batch": batch}), "batch")["data"].T}


def all_of(version: str) -> dict[str, np.ndarray]:
    """version: of EFAAR that can be imported here, "1" or "0.1"."""
    return efaar_1() | copairs() | combat() if version == "1" else efaar_0_1()


if __name__ == "__main__":
    np.savez_compressed(sys.argv[2], **all_of(sys.argv[1]))
