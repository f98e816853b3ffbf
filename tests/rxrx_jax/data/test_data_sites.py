"""The table of sites: equal to what the csv module reads, whatever is in it, and errors that name the file."""

import csv
import random

import numpy as np
import pytest

from rxrx_jax.base.errors import UserError
from rxrx_jax.data.roles import hide_labels
from rxrx_jax.data.sites import COLUMNS, read_sites

random.seed(0)


def write(folder, rows, header=(*COLUMNS, "smiles")):
    with open(folder / "sites.csv", "w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(header)
        writer.writerows(rows)


def made_up(n):
    """Plates whose order as text is not that of their numbers, labels withheld, and text that csv must quote."""
    rows = []
    for _ in range(n):
        experiment, plate, well = random.choice(["HUVEC-10", "HUVEC-9", "NA"]), random.randint(1, 12), "B02"
        well_id = f"{experiment}_{plate}_{well}"
        split = random.choice(["train", "val", "id_test"])
        cell_type, kind = random.choice(["RPE", "null", ""]), random.choice(["treatment", "negative_control"])
        smiles = random.choice(["C(=O)N |r,c:1,t:3|", 'a "quoted", one', "two\nlines", ""])
        site, label = random.randint(1, 4), random.randint(-1, 39)
        rows.append([split, f"{well_id}_{site}", well_id, site, kind, label, experiment, plate, cell_type, smiles])
    return rows


@pytest.mark.parametrize("n", [0, 1, 30_000])  # the last takes several blocks
def test_the_table_is_what_the_csv_module_reads(tmp_path, n):
    write(tmp_path, made_up(n))
    with open(tmp_path / "sites.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    column = lambda key: np.array([row[key] for row in rows], str)  # noqa: E731
    sites, experiments, plates, cell_types = read_sites(tmp_path)
    assert len(sites) == n == len(rows)
    for name in ("split", "site_id", "well_id", "well_type"):
        np.testing.assert_array_equal(getattr(sites, name), column(name))
        assert getattr(sites, name).dtype.kind == "U"
    for name, key in (("site", "site"), ("label", "perturbation_id")):
        np.testing.assert_array_equal(getattr(sites, name), column(key).astype(np.int32))
        assert getattr(sites, name).dtype == np.int32 and getattr(sites, name).flags.writeable
    plate_names = np.array([f"{row['experiment']}/{row['plate']}" for row in rows], str)
    groups = {
        "experiment": (experiments, column("experiment")),
        "plate": (plates, plate_names),
        "cell_type": (cell_types, column("cell_type")),
    }
    for name, (names, values) in groups.items():
        expected, codes = np.unique(values, return_inverse=True)
        assert names == expected.tolist()
        np.testing.assert_array_equal(getattr(sites, name), codes)
        assert getattr(sites, name).dtype == np.int32
    for split in np.unique(sites.split):
        np.testing.assert_array_equal(sites.index[sites.split == split], np.arange((sites.split == split).sum()))


def test_labels_outside_the_rows_that_are_fitted_are_hidden(tmp_path):
    write(tmp_path, made_up(200))
    sites, *_ = read_sites(tmp_path)
    fit = np.arange(200) % 3 == 0
    hidden = hide_labels(sites, np.flatnonzero(fit))
    np.testing.assert_array_equal(hidden.label[fit], sites.label[fit])
    assert (hidden.label[~fit] == -1).all() and (sites.label[~fit] >= 0).any() and hidden.label.dtype == np.int32


def test_a_table_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=r"sites.csv cannot be read \(No such file or directory\); rebuild the dataset"):
        read_sites(tmp_path)
    rows = made_up(20)
    write(tmp_path, [row[:-1] for row in rows], [name for name in COLUMNS if name != "plate"] + ["other"])
    with pytest.raises(UserError, match=r"sites.csv cannot be read \(.*plate.*\); rebuild the dataset"):
        read_sites(tmp_path)
    write(tmp_path, [*rows, rows[0][:4]])
    with pytest.raises(UserError, match=r"sites.csv cannot be read \(.*got 4.*\); rebuild the dataset"):
        read_sites(tmp_path)
    write(tmp_path, [*rows, rows[0][:5] + ["four"] + rows[0][6:]])
    with pytest.raises(UserError, match=r"sites.csv cannot be read \(.*four.*\); rebuild the dataset"):
        read_sites(tmp_path)
