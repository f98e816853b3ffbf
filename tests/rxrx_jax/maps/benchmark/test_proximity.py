"""Genes on chromosome arms, how biased a map is by them, and how far centring removes it without removing biology."""

import numpy as np
import pytest
from reference.maps import cases

from rxrx_jax.base.errors import UserError
from rxrx_jax.maps import relate, statistics
from rxrx_jax.maps.benchmark import genome, proximity


def test_every_pair_is_counted_once(monkeypatch):
    x, arm, _, _ = cases.arms()
    u = relate.unit(x)
    cosines, same = u @ u.T, arm[:, None] == arm
    upper = np.triu(np.ones_like(same), 1)
    whole, each = proximity.per_arm(u, arm, 5)
    expected = statistics.compare(cosines[same & upper], cosines[~same & upper])
    np.testing.assert_allclose(whole, expected, rtol=1e-9)
    for a in range(4):
        mine = (arm == a)[:, None] & (arm == a)
        cross = (arm == a)[:, None] & (arm != a)
        np.testing.assert_allclose(each[a], statistics.compare(cosines[mine & upper], cosines[cross]), rtol=1e-9)
    assert each[4] is None  # without genes
    monkeypatch.setattr(proximity, "cores", lambda: [0, 1, 2])
    monkeypatch.setattr(relate.blocks, "__defaults__", (None, 7))
    assert proximity.per_arm(u, arm, 5)[0].n_y == whole.n_y == (~same & upper).sum()
    np.testing.assert_allclose(proximity.per_arm(u, arm, 5)[0], whole, rtol=1e-9)
    few, alone = proximity.per_arm(u[:6], np.zeros(6, int), 1)
    assert alone == [None] and np.isnan(few.probability)


def planted(genes, arms, strength, seed=0):
    """(x, arm) of genes that share a little of their arm, as if all were unexpressed."""
    random = np.random.default_rng(seed)
    arm = random.integers(0, arms, genes)
    return random.normal(size=(genes, 32)) + strength * random.normal(size=(arms, 32))[arm], arm


def test_shrunk_centring_leaves_no_bias_and_the_published_one_over_corrects():
    probability = {}
    for strength in (0.0, 0.25):
        x, arm = planted(600, 12, strength)
        for how in ("published", "shrunk"):
            y, factor, genes = proximity.centre_arms(x, arm, 12, np.ones(len(x), bool), how)
            probability[strength, how] = proximity.per_arm(relate.unit(y), arm, 12)[0].probability
            assert genes.sum() == len(x) and (factor <= 1).all()
    assert abs(probability[0.25, "shrunk"] - 0.5) < 0.02 and abs(probability[0.0, "shrunk"] - 0.5) < 0.01
    assert probability[0.25, "published"] < 0.49 and probability[0.0, "published"] < 0.49


def test_shrunk_centring_by_hand_and_what_is_left_alone():
    x, arm, _, unexpressed = cases.arms()
    unexpressed = unexpressed & ~((arm == 0) & (np.cumsum(arm == 0) > 3))  # three or fewer there
    found, factor, genes = proximity.centre_arms(x, arm, 4, unexpressed, "shrunk")
    centre = x[unexpressed].mean(0)
    for a in range(1, 4):
        part = x[unexpressed & (arm == a)]
        offset = part.mean(0) - centre
        noise = part.var(0, ddof=1).sum() / len(part)
        c = max(0, 1 - np.sqrt(noise / (offset @ offset)))
        assert factor[a] == pytest.approx(c) and 0 < c < 1 and genes[a] == len(part)
        np.testing.assert_allclose(found[arm == a], x[arm == a] - c * offset)
    assert factor[0] == 0 and genes[0] < 5
    np.testing.assert_array_equal(found[arm == 0], x[arm == 0])
    np.testing.assert_array_equal(proximity.centre_arms(x, np.full(150, -1), 4, unexpressed)[0], x)


def test_the_published_centring_needs_more_than_twenty_genes():
    x = np.array([[1.0], [3.0], [8.0]]).repeat(10, 0)
    arm = np.repeat([0, 1], [20, 10])
    for n, c in ((20, 0.0), (21, 1.0)):
        arm = np.repeat([0, 1], [n, 30 - n])
        found, factor, _ = proximity.centre_arms(x, arm, 2, np.ones(30, bool), "published")
        assert factor.tolist() == [c, 0]
        assert found[arm == 0].mean() == pytest.approx(0 if c else x[:20].mean())


def test_the_rank_along_an_arm_runs_from_the_centromere():
    position, probability = np.array([10, 30, 20, 40]), np.array([0.1, 0.3, 0.2, 0.4])
    assert proximity.along_arm(probability, position, is_long=True)[0] == pytest.approx(1)
    assert proximity.along_arm(probability, position, is_long=False)[0] == pytest.approx(-1)
    assert np.isnan(proximity.along_arm(probability[:2], position[:2], True)[0])


REFSEQ = ("#bin\tname\tchrom\ttxStart\ttxEnd\tname2\n"
          "1\ta\tchr1\t10\t40\tLEFT\n1\tb\tchr1\t5\t20\tLEFT\n1\tc\tchr1\t90\t99\tRIGHT\n"
          "1\td\tchr1\t40\t51\tOVER\n1\te\tchr1\t1\t2\tTWO\n1\tf\tchrX\t1\t2\tTWO\n1\tg\tchr1\t1\t2\tLOC123\n"
          "1\th\tchr1\t1\t2\tLOX\n1\ti\tchr1_alt\t1\t2\tALT\n")  # fmt: skip


def write_ucsc(folder):
    (folder / "ncbirefseq.tsv").write_text(REFSEQ)
    spans = "".join(f"1\t{name}\t40\t50\tG\n1\t{name}\t50\t60\tG\n" for name in genome.CHROMOSOMES)
    (folder / "centromeres.tsv").write_text("#bin\tchrom\tchromStart\tchromEnd\tname\n" + spans)


def test_arms_of_ucsc_s_tables(tmp_path):
    write_ucsc(tmp_path)
    found = genome.read(tmp_path)
    rows = list(zip(found.gene, found.arm, found.start, found.end))
    assert rows == [
        ("LEFT", "chr1p", 5, 40),
        ("LOX", "chr1p", 1, 2),
        ("OVER", "chr1q", 40, 51),
        ("RIGHT", "chr1q", 90, 99),
    ]
    (tmp_path / "arms.tsv").write_text("gene\tchrom\tstart\tend\tchrom_arm_name\nA\tchr1\t1\t2\tchr1p\n")
    assert genome.read(tmp_path / "arms.tsv").places(np.array(["B", "A"], object)).tolist() == [-1, 0]


def test_the_mean_expression_of_a_gene(tmp_path):
    (tmp_path / "e.csv").write_text("gene,zfpkm\nA,-4\nA,-2\nB,\nC,1\n")
    assert genome.read_expression(tmp_path / "e.csv") == {"A": -3, "C": 1}


def test_what_is_not_a_genome_is_one_line(tmp_path):
    path, head = tmp_path / "a.tsv", "gene\tchrom\tstart\tend\tchrom_arm_name\n"
    for text, words in (
        ("gene\tchrom\nA\tchr1\n", "has no column start; it needs gene, chrom"),
        (head + "A\tchr1\tx\t2\tchr1p\n", "the column start must hold whole numbers"),
        (head + "A\tchr1\t1\t2\t1p\n", "'1p' is not a chromosome arm such as chr1p"),
        (head + 2 * "A\tchr1\t1\t2\tchr1p\n", "the gene A is there twice"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=words):
            genome.read(path)
    with pytest.raises(UserError, match=r"holds 0 tables named \*refseq"):
        genome.read(tmp_path)
    (tmp_path / "e.csv").write_text("gene,zfpkm\nA,low\n")
    with pytest.raises(UserError, match="the column zfpkm must hold numbers"):
        genome.read_expression(tmp_path / "e.csv")
