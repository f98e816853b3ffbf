"""Every protocol of RxRx1 through the trainer, on a simulated tree in the published layout with RxRx1's experiment
names: what a run says is what a few lines say of the predictions and embeddings that it stored."""

import json

import numpy as np
import protocol_tools
import pyarrow.parquet as pq
import pytest
import tiny

from rxrx_jax import submission
from rxrx_jax.base import embeddings
from rxrx_jax.base.errors import UserError
from rxrx_jax.evaluate.cellsignal import NAME
from rxrx_jax.training import train


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """(the tree, where it is prepared): the simulated screen with RxRx1's experiments and numbers of classes."""
    return protocol_tools.published(tmp_path_factory.mktemp("rxrx1"))


def run(published, workdir, protocol, config="convnet.py", **changes):
    """(the last evaluation, the last line, predictions as columns) of a run under a protocol."""
    changes = {"data.builder": {}, "protocol.name": protocol, "model.widths": (4,), "normalisation": "image"} | changes
    changes.setdefault("evaluators", {"accuracy": {}, "predictions": {}, "embeddings": {}})
    if config != "convnet.py":
        del changes["model.widths"]
    values = tiny.values(f"{config}:data=rxrx1", published[1], **changes)
    done = train.run(values, workdir)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    final = next(line for line in reversed(lines) if line.get("final"))
    path = workdir / "predictions.parquet"
    found = {key: np.array(value) for key, value in pq.read_table(path).to_pydict().items()} if path.exists() else {}
    return final, done, found


def agree(final, found, roles):
    """Whether the accuracies are those of the stored predictions; and all roles have some."""
    right, well = (found[key] == found["perturbation_id"] for key in ("predicted", "predicted_well"))
    _, first = np.unique(found["well_id"], return_index=True)
    for role in roles:
        mine, wells = found["role"] == role, found["role"][first] == role
        assert final[f"{role}/site_accuracy"] == pytest.approx(right[mine].mean()) and mine.any()
        assert final[f"{role}/well_accuracy"] == pytest.approx(well[first][wells].mean())
        each = [right[mine & (found["perturbation_id"] == c)].mean() for c in set(found["perturbation_id"][mine])]
        assert final[f"{role}/balanced_accuracy"] == pytest.approx(np.mean(each))
    assert set(found["role"]) == set(roles)


def test_cellsignal_to_a_submission_that_scores_as_the_run_says(published, tmp_path, capsys):
    final, done, found = run(published, tmp_path, "cellsignal:controls,partial", total_steps=6)
    agree(final, found, ("public", "private"))
    assert final["marks/private"] == "C" and final["marks/public"] == "C"  # labels of their controls were trained on
    assert {final[f"marks/private/{part}/hungarian"] for part in ("stages", "stages_without_HUVEC-18")} == {"TC"}
    assert final["marks/public/stages/plate_group"] == "TC" and "marks/private/stages/well" not in final
    assert done["partial"].startswith("fit is 85,716 images of 51 experiments and this dataset has ")
    given = submission.read(tmp_path / NAME)
    assert len(given) == final["submission/wells"] == 5 * 8 and set(given.values()) <= set(map(str, range(8)))
    for well, plate in {(name, name.rpartition("_")[0]) for name in given}:
        assert [label for name, label in given.items() if name.startswith(plate + "_")].count(given[well]) == 1
    submission.main([str(tmp_path / NAME), f"--truth={published[0] / 'metadata.csv'}"])
    said = dict(
        line.split(maxsplit=1) for line in capsys.readouterr().out.replace(" without ", "-").splitlines() if line
    )
    for name, metric in (("public", "public/stages"), ("private", "private/stages"),
                         ("private-HUVEC-18", "private/stages_without_HUVEC-18")):  # fmt: skip
        assert said[name] == f"{final[f'{metric}/hungarian']:.5f} of {final[f'{metric}/wells']} wells"
    for stage in ("site", "well", "plate_group", "hungarian"):
        assert f"private/stages/{stage}/HUVEC-21" in final and f"private/stages/{stage}_ci_low" in final


def test_counts_that_differ_are_refused(published, tmp_path):
    words = "protocol cellsignal: fit is 81,224 images .* or score this part as cellsignal:partial$"
    with pytest.raises(UserError, match=words):
        run(published, tmp_path, "cellsignal")


@pytest.mark.full
@pytest.mark.parametrize(
    "name, roles",
    [
        ("wilds_ood", ("in_batch", "validation", "cross_batch")),
        ("wilds_id", ("in_batch", "validation")),
        ("wilds_mixed", ("in_batch", "validation")),
        ("separated", ("cross_batch",)),
        ("stratified", ("in_batch_wells",)),
        ("context:given=cell_type+plate+well,allow_layout_leak", ("in_batch", "validation", "cross_batch")),
        ("held_out_cell_type:cell_type=RPE", ("in_batch", "validation", "cross_batch")),
    ],
)
def test_a_protocol_of_a_trained_network(published, tmp_path, name, roles):
    final, done, found = run(published, tmp_path, f"{name}{',' if ':' in name else ':'}partial")
    agree(final, found, roles)
    assert done["partial"] and final[f"marks/{roles[-1]}"] == ""
    if name in ("separated", "stratified"):
        treated = found["well_type"] == "treatment"
        right = (found["predicted"] == found["perturbation_id"])[treated]
        assert final[f"{roles[0]}/treatments/site_accuracy"] == pytest.approx(right.mean())
        assert f"{roles[0]}/treatments/well_accuracy" in final


@pytest.mark.full
def test_k_shot_with_controls_is_marked_and_scores_again_from_the_embeddings(published, tmp_path):
    evaluators = {"embeddings": {}}
    final, _, _ = run(published, tmp_path, "k_shot:cell_type=U2OS,controls,partial", evaluators=evaluators)
    columns, x = embeddings.read(tmp_path)
    of_type, treated = columns["cell_type"] == "U2OS", columns["well_type"] == "treatment"
    key = "neighbours/class_mean/cross_batch/site_accuracy"
    other = columns["experiment"] == next(e for e in ("U2OS-01", "U2OS-05") if f"{key}/{e}" in final)
    giving, label = of_type & ~other, columns["perturbation_id"]
    control = of_type & ~treated
    gap = [x[control & other & (label == c)].mean(0) - x[control & giving & (label == c)].mean(0) for c in (1108, 1138)]
    x = x.copy()
    x[other] -= np.mean(gap, 0)
    support = control | giving
    z = (x - x[support].mean(0)) / np.where(x[support].std(0) > 0, x[support].std(0), 1)
    classes = np.unique(label[support])
    means = np.stack([z[support & (label == c)].mean(0) for c in classes])
    scored = other & treated
    right = classes[((z[scored, None] - means) ** 2).sum(2).argmin(1)] == label[scored]
    assert final[key] == pytest.approx(right.mean())
    assert final["marks/neighbours/class_mean/cross_batch"] == "C"


@pytest.mark.full
def test_huvec_by_neighbours_and_a_linear_probe(published, tmp_path):
    final, _, _ = run(published, tmp_path, "huvec_16_4_4:partial", evaluators={"embeddings": {}})
    columns, x = embeddings.read(tmp_path)
    names, label = columns["experiment"], columns["perturbation_id"]
    fit = np.isin(names, ("HUVEC-01", "HUVEC-02"))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for role, held in (("validation", ("HUVEC-17", "HUVEC-18")), ("cross_batch", ("HUVEC-21",))):
        rows = np.isin(names, held)
        nearest = np.argsort(-(unit[rows] @ unit[fit].T), axis=1, kind="stable")[:, :10]
        votes = np.stack([np.bincount(label[fit][n], minlength=1139) for n in nearest])
        right = votes.argmax(1) == label[rows]
        assert final[f"neighbours/knn_10/{role}/site_accuracy"] == pytest.approx(right.mean(), abs=1.5 / rows.sum())
        assert f"probe/pretrained/none/{role}/site_accuracy" in final
    assert "probe/untrained/none/cross_batch/site_accuracy" in final


@pytest.mark.full
def test_the_best_block_by_balanced_accuracy(published, tmp_path, small_models):
    final, _, _ = run(published, tmp_path, "probe_blocks:partial", "mae_vit.py", evaluators={"probe": {}})
    blocks = sorted(
        key.split("/")[1] for key in final if key.endswith("validation/balanced_accuracy") and "block_" in key
    )
    of = {block: final[f"probe/{block}/validation/balanced_accuracy"] for block in blocks if block != "best_block"}
    best = next(block for block in sorted(of) if of[block] == max(of.values()))
    assert final["probe/best_block"] == int(best.rpartition("_")[2]) and len(of) == 2
    assert (
        final["probe/best_block/cross_batch/balanced_accuracy"] == final[f"probe/{best}/cross_batch/balanced_accuracy"]
    )
