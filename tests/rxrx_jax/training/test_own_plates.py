"""Data of a user's own, from files, a builder or arrays, to a masked autoencoder and a cross-batch probe."""

import contextlib
import io
import re
import shlex
import sys
import types

import numpy as np
import plates_tools
import pytest
import tensorflow_datasets as tfds
import tiny
from absl import logging
from paths import ROOT
from PIL import Image

from rxrx_jax import data, datasets, main
from rxrx_jax.base import config_flag, embeddings
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.data.source import make_source
from rxrx_jax.evaluate import embeddings as of_run
from rxrx_jax.evaluate import protocols
from rxrx_jax.training import metrics, train
from rxrx_jax.weights import export
from tfds_builders import prepare

PAGE = (ROOT / "docs" / "own_plates.md").read_text()
LINES = re.search(r"```bash\n(.*?)```", PAGE, re.S)[1].replace("\\\n", " ").splitlines()  # the three commands
SMALL = {"model.variant": "XXS/16", "task.decoder": "(16,1,2)", "total_steps": 2, "augment.crop": 32, "log_steps": 1}
SMALL |= {"data.minibatch": 8, "evaluation_minibatch": 8}


def start(line, folder, **changes):
    """Runs a line of the page in this process, as it is written, in `folder`, where it finds and leaves what it names;
    `changes` are further overrides. Returns what it printed."""
    python, m, module, *argv = shlex.split(line)
    assert (python, m) == ("python", "-m")
    argv += [f"--config.{key}={value}" for key, value in changes.items()]
    printed, verbosity = io.StringIO(), logging.get_verbosity()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tfds.core.constants, "DATA_DIR", str(folder / "datasets"))
            if module == "tfds_builders.prepare":
                prepare.main(argv)
            else:
                assert module == "rxrx_jax.main"
                flags = {"workdir": None, "multihost": False, "print_config": False}  # absl's are the whole process's
                flags |= {argument[2:].partition("=")[::2] for argument in argv if argument.startswith("--workdir=")}
                for name, value in flags.items():
                    patch.setattr(main, name.upper(), types.SimpleNamespace(value=value))
                patch.setattr(sys, "argv", [module, *argv])
                main.main(config_flag.values(argv))
    logging.set_verbosity(verbosity)
    return printed.getvalue()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The folder in which the commands of the page run: with FOLDER and, after the first, the prepared datasets."""
    folder = tmp_path_factory.mktemp("home")
    plates_tools.jump(folder / "FOLDER")
    assert "set aside  0" in start(LINES[0], folder)
    return folder


@pytest.fixture(scope="module")
def prepared(home):
    """The folder of prepared datasets, with my_plates."""
    return home / "datasets"


def config(name, folder, **changes):
    """A config's values, as `--config=NAME:data=my_plates,paper=True,...` and overrides make them."""
    small = {"data.minibatch": 8, "data.unlabelled_minibatch": 0, "augment.crop": 32, "evaluation_minibatch": 8}
    if name == "mae_vit.py":
        small |= {"task.decoder": (16, 1, 2), "evaluators": {"embeddings": {}}}
    argument = "data=my_plates,paper=True,variant=XXS/16,encoder=plain"
    return tiny.values(f"{name}:{argument}", folder, **small | {"data.builder": {}} | changes)


@pytest.fixture(scope="module")
def mae(home):
    """The workdir of the second command."""
    assert start(LINES[1], home, **SMALL).startswith("done: runs/mae step 2 parameters ")
    return home / "runs" / "mae"


def test_the_three_commands_of_the_page_give_a_masked_autoencoder_and_a_cross_batch_probe(home, mae):
    columns, _ = embeddings.read(mae)
    assert set(columns["plate"]) == {"BR00117006", "BR00117007", "BR00121438"}
    one, _ = embeddings.read(mae, plates=["2020_12_08_Batch2/BR00121438"])
    assert set(one["plate"]) == {"BR00121438"} and len(one["plate"]) == 8
    small = {key: value for key, value in SMALL.items() if key != "task.decoder"}
    said = start(LINES[2], home, **small)
    workdir = re.match("done: (runs/.*) step 2 ", said)[1]
    last = {}
    for line in metrics.read(home / workdir / "metrics.jsonl"):
        last |= line
    assert len(LINES) == 3
    assert last["probe/pretrained/none/cross_batch/sites"] == 8
    assert last["probe/pretrained/none/cross_batch/experiments"] == '{"unspecified": ["2020_12_08_Batch2"]}'
    # the width of the spots says the compound: rows and images belong together from the files to the score
    assert last["probe/handcrafted/none/cross_batch/site_accuracy"] >= 0.75


@pytest.mark.slow
def test_another_screen_does_the_same(tmp_path):
    """Nine channels, images that are not square, sites without a label, splits.csv."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        prepare.main(["images", *plates_tools.nine(tmp_path / "nine"), f"--out={tmp_path}", "--workers=1"])
    chosen = {"data.name": "nine", "data.minibatch": 4}
    pictures = {"reconstruction": {"images": 2}, "leakage": {}, "embeddings": {}}
    train.run(config("mae_vit.py", tmp_path, **chosen, evaluators=pictures), tmp_path / "mae")
    assert list((tmp_path / "mae").rglob("*.png"))
    train.run(config("linear_probe.py", tmp_path, **chosen, **{"init.path": str(tmp_path / "mae")}), tmp_path / "probe")
    last = {}
    for line in metrics.read(tmp_path / "probe" / "metrics.jsonl"):
        last |= line
    assert last["probe/pretrained/none/cross_batch/sites"] == 6  # 8 in the split, of which 2 have no label
    assert last["probe/pretrained/none/validation/sites"] == 5


def test_the_card_of_weights_states_the_licence_of_the_data(prepared, mae, tmp_path, monkeypatch):
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(prepared))
    export.export(mae, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Licence of the data: CC0 1.0" in card and "Recursion" not in card


def test_noise_in_the_shape_of_plates_of_ones_own(prepared):
    found = data.describe("my_plates", {}, str(prepared))
    assert found.image_shape == (48, 48, 5) and found.train_images == 16
    assert [len(part) for part in (found.classes, found.experiments, found.plates)] == [4, 2, 3]


def test_an_unknown_name_is_one_line(prepared):
    with pytest.raises(UserError, match="no dataset is called 'your_plates'; there are: rxrx1, .* none of that name"):
        data.open_dataset("your_plates", {}, str(prepared))


def test_a_builder_by_its_path(prepared, tmp_path):
    """It has no row in any registry; the message says how to prepare it."""
    path = tmp_path / "my_builder.py"
    path.write_text(
        "from tfds_builders.common import screen, sources\nfrom tfds_builders.rxrx.rxrx19a import metadata\n\n"
        "class TwoPlates(screen.ScreenBuilder):\n    about = {'description': 'mine', 'license': 'mine'}\n"
        "    channels = ('a', 'b')\n    extra_columns = {'concentration_um': float, 'smiles': str, 'condition': str}\n"
        "    def read_table(self):\n        return metadata.read(self.source)\n"
        "    def image_source(self):\n        return sources.Folders(self.source)\n"
    )
    with pytest.raises(UserError, match=f"python -m tfds_builders.prepare {path} --source=FOLDER"):
        data.open_dataset(str(path), {}, str(tmp_path / "out"))
    images = tmp_path / "tree" / "images" / "B-01" / "Plate1"
    images.mkdir(parents=True)
    rows = ["site_id,well_id,cell_type,experiment,plate,well,site,disease_condition,treatment,treatment_conc,SMILES"]
    for site in (1, 2):
        rows.append(f"B-01_1_B02_{site},B-01_1_B02,Vero,B-01,1,B02,{site},Mock,drug,1,C")
        for channel in (1, 2):
            Image.fromarray(np.full((32, 32), site, np.uint8)).save(images / f"B02_s{site}_w{channel}.png")
    (tmp_path / "tree" / "metadata.csv").write_text("\n".join(rows))
    folder = prepare.prepare(str(path), tmp_path / "tree", tmp_path / "out", 1, progress=False)
    assert folder == tmp_path / "out" / "two_plates" / "default" / "2.0.0"
    for found in (
        data.open_dataset(str(path), {}, str(tmp_path / "out")),
        datasets.open(str(path), tmp_path / "out"),
    ):
        assert len(found.sites) == 2 and found.image_shape == (32, 32, 2)


def test_the_lines_on_arrays_give_the_trainer_its_minibatches(monkeypatch):
    """Training on arrays itself is a test of test_datasets.py."""
    given = []
    (code,) = re.findall(r"<!-- arrays -->\n```python\n(.*?)```", PAGE, re.S)
    monkeypatch.setattr(train, "run", lambda *arguments: given.append(arguments))
    images = np.random.default_rng(0).integers(0, 256, (32, 16, 16, 2)).astype(np.uint8)
    table = {"experiment": ["a", "b"] * 16, "plate": ["1"] * 32, "well": ["A01"] * 32}
    exec(code, {"images": images, "table": table})
    ((values, _, dataset),) = given
    values = Config(values)
    source = make_source(values, lambda found: protocols.roles(found, values.protocol.name), dataset)
    minibatch = next(iter(source.minibatches(0, 1)))["train"]
    rows = [row["row"] for row in source.rows(0)]
    assert len(rows) == 16 and np.array_equal(minibatch["image"], images[rows])
    columns = of_run.columns(dataset, np.arange(32))
    assert set(columns["perturbation"]) == {""} and set(columns["plate"]) == {1}  # no label at all
