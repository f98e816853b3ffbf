"""Reads RxRx3's table: CRISPR knockouts and compounds on HUVEC; one row, and one site, a well.

The source documents `gene` as a gene, an anonymised one (RXRX3-43938) or a control, and `treatment` as the gene
with the number of its guide or the name of a compound. It names the controls EMPTY_control and CRISPR_control and
explains neither; that both are negative controls, each a perturbation of its own, is the reading of this project.
"""

import pathlib
from typing import Any

from rxrx_jax.base.spellings import NEGATIVE_CONTROL, TREATMENT
from tfds_builders.common.rows import tables, treatments
from tfds_builders.common.types import Table

DOWNLOAD = (
    "sign in at https://rxrx3.rxrx.ai/downloads, accept Recursion's licence there, and download metadata.csv to "
    "DIR/metadata.csv and the tar of every plate that you want (83 TB all together) to "
    "DIR/images/EXPERIMENT/PlateN.tar, such as DIR/images/gene-001/Plate1.tar, not unpacked. "
    "Then run: python -m tfds_builders.prepare rxrx3 --source=DIR"
)
FILES = ("metadata.csv", "metadata_rxrx3.csv", "metadata_rxrx3_public.csv")
COLUMNS = ("well_id", "experiment_name", "plate", "address", "gene", "treatment", "SMILES", "concentration",
           "perturbation_type", "cell_type")  # fmt: skip
SITE_COLUMNS = {"well_id": "well_id", "experiment": "experiment_name", "plate": "plate", "well": "address"}
CONTROLS = ("EMPTY_control", "CRISPR_control")
NOTES = (
    "EMPTY_control and CRISPR_control are both read as negative controls, each a perturbation of its own; the source "
    "does not document what either is.",
    "A CRISPR perturbation is the gene, all its guides together, and a compound is one at all its concentrations; the "
    "published name with the guide is in the column treatment.",
)


def read(source: pathlib.Path | None) -> Table:
    """Reads the table, whichever of its published names it has, and splits.csv if there is one; the rows stream."""
    source = tables.check_folder(source, "rxrx3", DOWNLOAD)
    return treatments.read(source, FILES, COLUMNS, SITE_COLUMNS, describe, NOTES, DOWNLOAD)


def describe(cells: dict[str, str], site: dict[str, Any]) -> dict[str, Any] | str:
    """Returns what a row says about its well, or why it contradicts itself."""
    del site
    gene, treatment, smiles = cells["gene"], cells["treatment"], cells["SMILES"]
    kind, dose = cells["perturbation_type"].lower(), tables.concentration(cells["concentration"])
    if kind not in ("crispr", "compound"):
        return f"perturbation_type {cells['perturbation_type']!r} is not CRISPR or COMPOUND"
    if dose is None:
        return f"concentration {cells['concentration']!r} is not a number of zero or more"
    if not treatment:
        return "blank treatment"
    name = gene if kind == "crispr" else treatment
    if not name:
        return "blank gene"
    if not _agree(kind, gene, treatment):
        return f"gene {gene!r} and treatment {treatment!r} of a {cells['perturbation_type']} row disagree"
    if (smiles or dose > 0) and (kind == "crispr" or name in CONTROLS):
        return f"{'SMILES' if smiles else 'concentration'} of what is not a compound, {treatment}"
    return {
        "well_type": NEGATIVE_CONTROL if name in CONTROLS else TREATMENT,
        "perturbation": name,
        "perturbation_id": None,
        "concentration_um": dose,
        "smiles": smiles,
        "perturbation_type": kind,
        "treatment": treatment,
    }


def _agree(kind: str, gene: str, treatment: str) -> bool:
    """Whether gene and treatment name the same: SRC and SRC_guide_2, a control twice, or a compound without a gene."""
    if kind == "compound":
        return gene in ("", treatment)
    return treatment == gene or treatment.startswith(f"{gene}_guide_")
