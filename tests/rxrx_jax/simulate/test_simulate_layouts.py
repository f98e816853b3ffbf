"""The simulated screen as the later datasets are published: columns, names, and pixels equal to render_site."""

import csv
import functools
import hashlib
import importlib

import numpy as np
import pytest

from rxrx_jax.simulate import layouts
from rxrx_jax.simulate.design import WELLS, Screen, sites
from rxrx_jax.simulate.render import render_site
from tfds_builders.common import decode, reading, sources
from tfds_builders.common.rows import tables

SCREEN = Screen(
    treatments=4, replicates=2, positive_controls=1, positive_wells=1, untreated_wells=2, image_size=32, plates=2,
    train=("SIMA-01",), val=("SIMB-01",), test=(),
)  # fmt: skip
SITE = ["site_id", "well_id", "cell_type", "experiment", "plate", "well", "site"]
WELL = ["well_id", "experiment_name", "plate", "address", "gene", "treatment", "SMILES", "concentration",
        "perturbation_type", "cell_type"]  # fmt: skip
FORMS = {  # writer, dataset, kind of source, sites per well, channels of render_site, bits, columns
    "rxrx2": (layouts.write_rxrx2, "rxrx2", sources.Folders, 2, range(6), 8, [*SITE, "treatment", "treatment_conc"]),
    "rxrx19a": (layouts.write_rxrx19a, "rxrx19a", sources.Folders, 2, [0, 1, 2, 3, 5], 8,
                [*SITE, "disease_condition", "treatment", "treatment_conc", "SMILES"]),
    "rxrx19b": (layouts.write_rxrx19b, "rxrx19b", sources.Folders, 1, range(6), 8,
                [*SITE, "disease_condition", "treatment", "treatment_conc", "SMILES"]),
    "rxrx3": (layouts.write_rxrx3, "rxrx3", sources.Tars, 1, range(6), 16, WELL),
    "rxrx3_core": (layouts.write_rxrx3_core, "rxrx3_core", sources.Parquet, 1, range(6), 8,
                   [*WELL, "well_type_label"]),
    "rxrx3_core_webdataset": (functools.partial(layouts.write_rxrx3_core, form="webdataset"), "rxrx3_core",
                              sources.WebDataset, 1, range(6), 8, [*WELL, "well_type_label"]),
}  # fmt: skip


def simulated(sites_per_well: int) -> dict[str, dict]:
    """site_id on the plate of 1,536 wells -> the simulator's row."""
    rows = [row for row in sites(SCREEN) if row["site"] <= sites_per_well]
    return {f"{r['experiment']}_{r['plate']}_{layouts.address(r['well'])}_{r['site']}": r for r in rows}


def digests(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).digest() for path in files}


@pytest.fixture(autouse=True, scope="module")
def pixels():
    """site_id of the simulator -> its pixels; every site is rendered once for all tests."""
    found = {row["site_id"]: render_site(SCREEN, row) for row in sites(SCREEN)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layouts, "render_site", lambda screen, row: found[row["site_id"]])
        yield found


@pytest.mark.parametrize("form", FORMS)
def test_the_builders_read_the_screen_that_was_written(tmp_path, form, pixels):
    write, dataset, kind, sites_per_well, channels, bits, columns = FORMS[form]
    if kind is sources.Parquet:
        pytest.importorskip("pyarrow")
    write(SCREEN, tmp_path / "tree")
    metadata = importlib.import_module(f"tfds_builders.rxrx.{dataset}.metadata")
    [path] = tmp_path.glob("tree/metadata*.csv")
    assert path.name in metadata.FILES
    with path.open(newline="") as file:
        assert next(csv.reader(file)) == columns

    expected = simulated(sites_per_well)
    rows = {row["site_id"]: row for row in metadata.read(tmp_path / "tree").rows}
    assert rows.keys() == expected.keys()
    untreated = "EMPTY_control" if dataset.startswith("rxrx3") else "EMPTY"
    for site_id, row in rows.items():
        original = expected[site_id]
        control = original["well_type"] == "negative_control"
        assert row["cell_type"] == original["cell_type"]
        assert row["split"] == original["split"].replace("id_test", "train")
        assert row["perturbation"] == (untreated if control else original["perturbation"])
        assert row["well_type"] == ("negative_control" if control else "treatment")

    source = kind(tmp_path / "tree")
    assert source.plates() == sorted({(row["experiment"], row["plate"]) for row in rows.values()})
    assert source.size() == (32, 32) and source.strays() == []
    for plate in source.plates():
        on_plate = {site_id: row for site_id, row in rows.items() if (row["experiment"], row["plate"]) == plate}
        with source.open(*plate) as files:
            assert (files.others, files.unreadable) == ([], "")
            assert len(files.keys) == len(on_plate) * len(channels)
            for site_id, row in on_plate.items():
                image = pixels[expected[site_id]["site_id"]]
                image = image if bits == 8 else layouts.sixteen_bits(image)
                for number, channel in enumerate(channels, start=1):
                    data = files.read(row["well"], row["site"], number)
                    assert np.array_equal(decode.decode(data, (32, 32), bits), image[..., channel]), (site_id, number)

    write(SCREEN, tmp_path / "again")
    assert digests(tmp_path / "again") == digests(tmp_path / "tree")


def test_what_a_row_holds_varies(tmp_path):
    layouts.write_rxrx3(SCREEN, tmp_path / "rxrx3")
    layouts.write_rxrx19a(SCREEN, tmp_path / "rxrx19a")
    with (tmp_path / "rxrx3/metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["perturbation_type"] for row in rows} == {"CRISPR", "COMPOUND"}
    assert {"EMPTY_control", "sim0001_guide_2", "sim0001"} <= {row["treatment"] for row in rows}
    assert len({row["concentration"] for row in rows if row["treatment"] == "sim0001"}) == 2
    assert any("," in row["SMILES"] and "|" in row["SMILES"] for row in rows)
    assert any(len(row["address"]) == 4 for row in rows)  # AA02 and such
    with (tmp_path / "rxrx19a/metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["disease_condition"] for row in rows if row["treatment"]} == {"Active SARS-CoV-2"}
    assert len({row["disease_condition"] for row in rows if not row["treatment"]}) == 2


def test_every_well_has_an_address_of_its_own():
    addresses = [layouts.address(well) for well in WELLS]
    assert len(set(addresses)) == len(WELLS) and set(addresses) <= tables.WELLS_1536.names
    assert [layouts.address(well) for well in ("B02", "N02", "O23")] == ["C02", "AA02", "AC44"]


def test_sixteen_bits_hold_the_pixels_exactly_and_more():
    pixels = np.arange(256, dtype=np.uint8).repeat(4).reshape(32, 32)[..., None].repeat(2, -1)
    wide = layouts.sixteen_bits(pixels)
    assert wide.dtype == np.uint16 and wide.shape == pixels.shape
    assert layouts.sixteen_bits(np.full((8, 64, 1), 255, np.uint8)).min() > 65000  # none is beyond 16 bits
    assert np.array_equal(reading.to_8_bits(wide), pixels)
    assert len(np.unique(wide)) > 600  # the low bits are not a function of the pixel
    assert not np.array_equal(reading.to_8_bits(wide.byteswap()), pixels)
