"""The table of RxRx3-core: what it runs and prints before anything ran, and its numbers on simulated trees in the
published layout, which a few lines of pandas and scikit-learn give too."""

import csv
import shlex

import numpy as np
import pandas
import pyarrow.parquet as pq
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import StandardScaler

from rxrx_jax import reproduce, rxrx3_core_maps, tables
from rxrx_jax.base import command, config, config_flag
from rxrx_jax.report import columns, runs, status
from rxrx_jax.report import table as writers
from rxrx_jax.simulate import layouts
from rxrx_jax.simulate.design import Screen
from rxrx_jax.training import metrics, train
from rxrx_jax.training.describe import Figures
from tfds_builders import prepare

GENES = [f"G{i:02d}" for i in range(40)]
COMPOUNDS = [f"drug {i}" for i in range(6)]
OF = {name: "G" for name in ("gene-001", "gene-002", "gene-003")} | {"compound-001": "C", "compound-002": "C"}


def annotations(root, genes, compounds):
    """Relations of genes three apart, twice over, and what each compound acts on."""
    folder = root / rxrx3_core_maps.ANNOTATIONS
    folder.mkdir()
    pairs = [f"{a},{b}\n" for one, other in zip(genes, genes[3:]) for a, b in ((one, other), (other, one))]
    for name, of in (("CORUM", pairs), ("Reactome", pairs[:8])):
        (folder / f"{name}.txt").write_text("entity1,entity2\n" + "".join(of))
    lines = ["treatment,gene_symbol,nM_value"]
    for i, compound in enumerate(compounds):
        lines += [f"{compound},{genes[2 * i]},50", f"{compound},{genes[2 * i + 1]},5000"]
    lines += [f"elsewhere,{gene},20000" for gene in genes]
    (folder / rxrx3_core_maps.TARGETS).write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Tables alone: a well's two tiles, an embedding of no listed well and a listed well without one, odd doses."""
    root, random, lines = tmp_path_factory.mktemp("core"), np.random.default_rng(0), []
    for name, kind in OF.items():
        wells = [("EMPTY_control", "", "")] * 30 + [("CRISPR_control", "", "")] * 3
        if kind == "G":
            wells += [(f"{gene}_guide_{g}", gene, "") for gene in GENES for g in (1, 2)]
        else:
            wells += [(one, "", dose) for one in COMPOUNDS for dose in (0.25, 2.5, 2.6)]
        for i, (treatment, gene, dose) in enumerate(wells):
            place = f"{layouts.ROWS[i % 8]}{1 + i // 8:02d}"
            form = "CRISPR" if kind == "G" else "COMPOUND"
            lines.append([f"{name}_1_{place}", name, 1, place, gene, treatment, "", dose, form, "HUVEC", ""])
    layouts.write_csv(root / rxrx3_core_maps.METADATA, (*layouts.RXRX3, "well_type_label"), lines)
    effect = {name: 3 * random.normal(size=8) for name in GENES}
    effect |= {name: -effect[GENES[2 * i]] for i, name in enumerate(COMPOUNDS)}
    well, x = ["gone_1_A01"], [np.zeros(8)]
    for row in lines[1:]:
        name = row[5].partition("_")[0]
        for _ in range(2):
            well.append(row[0])
            x.append(random.normal(size=8) + 2 * list(OF).index(row[1]) + effect.get(name, 0))
    found = pandas.DataFrame(np.array(x, np.float32), columns=[f"feature_{i}" for i in range(8)])
    found.insert(0, "well_id", well)
    found.sample(frac=1, random_state=0).to_parquet(root / rxrx3_core_maps.PUBLISHED, index=False)
    annotations(root, GENES, COMPOUNDS)
    return root


def independent(metadata, embeddings, folder, draws):
    """recall of CORUM in all rows, and the mean and median over compounds of average precision, as the notebook has
    them."""
    wells = embeddings.groupby("well_id").mean().astype(float)
    m = metadata.merge(wells, left_on="well_id", right_index=True)
    m["name"] = [t if "_control" in t else t.split("_")[0] for t in m.treatment]
    control, k = m.name == "EMPTY_control", len(embeddings.columns) - 1
    z = PCA(min(128, control.sum() // 4, k)).fit(m[control].iloc[:, -k - 1 : -1]).transform(m.iloc[:, -k - 1 : -1])
    for one in m.experiment_name.unique():
        here = (m.experiment_name == one).to_numpy()
        z[here] = StandardScaler().fit(z[here & control]).transform(z[here])
    m = m[["perturbation_type", "name", "concentration"]].join(pandas.DataFrame(z, m.index))
    m = m[~((m.perturbation_type == "COMPOUND") & m.name.str.contains("_control"))]
    m = m.groupby(["perturbation_type", "name", "concentration"], dropna=False).mean().reset_index()
    m = m[m.concentration.isin([0.0025, 0.01, 0.025, 0.1, 0.25, 1, 2.5, 10]) | m.concentration.isna()]
    u = StandardScaler(with_mean=False, with_std=False).fit_transform(m.iloc[:, 3:])
    cosine = (u @ u.T) / np.outer(*[np.linalg.norm(u, axis=1)] * 2)
    null, genes = np.sort(cosine[np.triu_indices(len(u), 1)]), (m.perturbation_type == "CRISPR").to_numpy()
    at = {name: i for i, name in enumerate(m.name) if genes[i] and "_control" not in name}
    pairs = {tuple(sorted(p)) for p in pandas.read_csv(folder / "CORUM.txt").to_numpy().tolist() if set(p) <= set(at)}
    q = np.array([cosine[at[a], at[b]] for a, b in pairs])
    low, high = (np.searchsorted(null, q, side) / len(null) for side in ("right", "left"))
    known, scores = pandas.read_csv(folder / rxrx3_core_maps.TARGETS), []
    pool, names = sorted(at), sorted({*known.treatment} & {*m.name[~genes]})
    number = {name: i for i, name in enumerate(pool)}
    for seed in range(draws):
        of = []
        for i, compound in enumerate(sorted({*m.name[~genes]} & {*known.treatment})):
            mine = known[(known.treatment == compound) & known.gene_symbol.isin(pool)]
            active = mine.gene_symbol[mine.nM_value <= 1000].tolist()
            rest = [number[g] for g in pool if g in {*known.gene_symbol} - {*mine.gene_symbol[mine.nM_value <= 10000]}]
            if active and rest:
                size = min(max(2 * len(active), 20), len(rest))
                drawn = [pool[j] for j in np.random.default_rng([seed, i]).choice(rest, size, replace=False)]
                best = np.abs(cosine[(m.name == compound).to_numpy() & ~genes]).max(0)
                truth = [1] * len(active) + [0] * len(drawn)
                of.append(average_precision_score(truth, [best[at[g]] for g in active + drawn]))
        scores.append((np.mean(of), np.median(of)))
    assert names
    return np.mean((low <= 0.05) | (high >= 0.95)), *np.mean(scores, axis=0)


def in_table(out):
    """table.csv by features."""
    with open(out / "table.csv", newline="") as file:
        return {(row["features"], row["of"]): row for row in csv.DictReader(file)}


def test_released_embeddings_as_the_notebook_scores_them(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(rxrx3_core_maps.benchmark, "DRAWS", 3)
    table = tables.load("rxrx3_core", tree)
    (run,) = (run for run in table.runs if run.name == "map-published")
    assert command.run(rxrx3_core_maps.main, runs.command(run, tmp_path, 0)[3:]) == 0
    writers.write_csv(tmp_path / "table.csv", table, writers.measure(table, tmp_path, range(1)))
    row = in_table(tmp_path)["OpenPhenom-S/16", "released embeddings"]
    metadata = pandas.read_csv(tree / rxrx3_core_maps.METADATA)
    expected = independent(
        metadata, pandas.read_parquet(tree / rxrx3_core_maps.PUBLISHED), tree / rxrx3_core_maps.ANNOTATIONS, 3
    )
    found = [float(row[name]) for name in ("recall_corum", "targets", "targets_median")]
    assert found == pytest.approx(expected, abs=1e-12) and found[1] > 0.9 > found[0] > 0
    assert row["recall_humap"] == row["recall_reactome"] == ""  # no file, and too few genes
    assert row["marks"] == "C?" and row["recall_corum_reported"] == "0.3"
    assert status.state(run, tmp_path, 0) == "done" and runs.stale(run, tmp_path, 0) == []
    lines = metrics.read(runs.workdir(run.name, tmp_path, 0) / metrics.NAME)
    assert lines[0]["unlisted"] == 1 and lines[0]["map/genes"] == 40 and lines[0]["map/rows"] == 40 + 2 + 12
    assert rxrx3_core_maps.PUBLISHED in lines[-1]["data"]


def test_mistakes_are_one_line(tree, tmp_path, capsys):
    start = [f"--config={rxrx3_core_maps.__file__}:features=published", f"--workdir={tmp_path / 'run'}"]
    empty = tmp_path / "empty"
    empty.mkdir()
    for more, words in (
        ([], "name the folder with RxRx3-core's files"),
        ([f"--config.data.folder={empty}"], "is not a folder of relation files such as CORUM.txt"),
        (["--config.data.fold=x"], "did you mean data.folder?"),
    ):
        assert command.run(rxrx3_core_maps.main, [*start, *more]) == 2
        assert words in capsys.readouterr().err
    with pytest.raises(SystemExit):
        rxrx3_core_maps.main([*start, "--seed=1"])
    with pytest.raises(
        reproduce.UserError, match="expected pretrained, untrained, handcrafted, handcrafted_spatial, p"
    ):
        config.load(f"{rxrx3_core_maps.__file__}:features=best")


def test_before_anything_ran(tmp_path, monkeypatch, capsys):
    made = tables.load("rxrx3_core", tmp_path / "data")
    lines = writers.measure(made, tmp_path, range(1))
    for line in lines:
        for column, cell in zip(made.columns, line.cells):
            assert cell.text == "" or (column.summary is columns.reported and cell.values["_mark"] == "S")
    assert sum(bool(cell.text) for line in lines for cell in line.cells) == 5 * 4 + 6
    figures = Figures(10, 8, 80, "", 1, 1e9, 8e10, 10**6, 0)
    monkeypatch.setattr(status.describe, "measure", lambda values: figures)
    monkeypatch.setattr(status.describe, "steps", lambda values: figures.steps)
    status._figures.cache_clear()
    reproduce.main(["rxrx3_core", f"--out={tmp_path / 'out'}", "--status", "--rows=1,2"])
    text = capsys.readouterr().out
    status._figures.cache_clear()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert rows[2] == ["1", "MAE", "trained here", "1", "missing", "8e+10", "2.22e-07", "2.22e-07", "0.002"]
    assert rows[3][4:] == ["missing", "0", "0", "0", "0"] and "rxrx_jax.rxrx3_core_maps takes is not counted" in text
    reproduce.main(["rxrx3_core", f"--out={tmp_path / 'out'}", "--dry-run", f"--data={tmp_path / 'data'}"])
    mae, *maps = (shlex.split(line) for line in capsys.readouterr().out.splitlines())
    assert mae[:3] == ["python", "-m", "launch.host"] and {tuple(one[:3]) for one in maps} == {
        ("python", "-m", "rxrx_jax.rxrx3_core_maps")
    }
    first = config_flag.values(maps[0][3:])
    assert first["init"]["path"] == mae[3].removeprefix("--workdir=") and first["features"] == "pretrained"
    assert {config_flag.values(one[3:])["data"]["folder"] for one in maps} == {str(tmp_path / "data")}
    values = config_flag.values(mae[5:])
    assert values["data"]["name"] == "rxrx3_core" and values["total_epochs"] == 100 and "leakage" not in values
    reproduce.main(["rxrx3_core", f"--out={tmp_path / 'out'}", "--dry-run", "--partial", "--rows=3"])
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.full
def test_the_whole_chain_on_simulated_images(tmp_path, monkeypatch, small_models):
    screen = Screen(
        treatments=32, replicates=1, positive_controls=1, positive_wells=1, untreated_wells=6, image_size=64,
        train=("SIMA-01", "SIMA-02", "SIMA-03", "SIMA-04"), val=(), test=(), cell_types=("SIMA",),
    )  # fmt: skip
    root, out = tmp_path / "core", tmp_path / "out"
    layouts.write_rxrx3_core(screen, root)
    (root / "splits.csv").unlink()
    metadata = pandas.read_csv(root / rxrx3_core_maps.METADATA)
    genes = sorted({*metadata.gene.dropna()} - {"EMPTY_control"})
    annotations(root, genes, genes[:9])  # the simulated compounds have the names of genes
    prepare.prepare("rxrx3_core", root, root, 1, progress=False)
    released = pandas.DataFrame(np.random.default_rng(0).normal(size=(len(metadata), 16)).astype(np.float32))
    released.columns = [f"feature_{i}" for i in range(16)]
    released.insert(0, "well_id", metadata.well_id)
    released.to_parquet(root / rxrx3_core_maps.PUBLISHED, index=False)
    small = tmp_path / "small.py"
    small.write_text(
        "from rxrx_jax.base.config import make\n"
        "def get_config(argument=None):\n"
        f"    config = make({rxrx3_core_maps.ENCODER!r})\n"
        "    config.model.variant, config.model.dtype, config.augment.crop = 'XXS/8', 'float32', 32\n"
        "    return config\n"
    )

    def run_missing(todo, out, jobs, ended):
        for run, seed in todo:
            values, workdir = config_flag.values(runs.command(run, out, seed)[3:]), runs.workdir(run.name, out, seed)
            if run.module:
                rxrx3_core_maps.run(
                    values | {"draws": 2} | ({"encoder": str(small)} if "encoder" in values else {}), workdir
                )
                continue
            tiny = config.load(str(small))
            values |= {key: tiny[key] for key in ("model", "augment")} | {"total_steps": 2, "log_steps": 1}
            values["data"]["minibatch"], values["evaluation_minibatch"] = 8, 16
            values["task"]["decoder"] = (16, 1, 2)
            values["optim"] = {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "clip_norm": 0.0}
            values.pop("total_epochs")
            train.run(values, workdir)

    monkeypatch.setattr(runs, "run_missing", run_missing)
    reproduce.reproduce("rxrx3_core", out, data=root)
    rows, folder = in_table(out), root / rxrx3_core_maps.ANNOTATIONS
    labels = {"MAE": "pretrained", "untrained": "untrained", "handcrafted features": "handcrafted"}
    labels["handcrafted and spatial features"] = "handcrafted_spatial"
    for name, features in {**labels, "OpenPhenom-S/16": "published"}.items():
        (row,) = (row for (words, _), row in rows.items() if words == name)
        x = released
        if features != "published":
            found = pq.read_table(runs.workdir(f"map-{features}", out, 0) / rxrx3_core_maps.OWN)
            x = pandas.DataFrame(np.stack(found["embedding"].to_numpy()).astype(np.float64))
            x.insert(0, "well_id", found["well_id"].to_pylist())
        expected = independent(metadata, x, folder, 2)
        assert [float(row[key]) for key in ("recall_corum", "targets", "targets_median")] == pytest.approx(expected), (
            name
        )
        assert row["marks"] == {"pretrained": "TC", "published": "C?"}.get(features, "C")
    assert (out / "report.html").exists()
