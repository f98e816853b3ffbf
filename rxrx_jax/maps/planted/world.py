"""What is true in a planted screen: where genes lie, which resemble each other and how much, what compounds act on.

The constants were set from shares of variance, before any alignment was scored: of treated wells' variance the batch
is to explain about 23 % and the perturbation about 6 %, as in the simulated screen of pictures.
"""

import dataclasses

import numpy as np

from rxrx_jax.maps.benchmark.genome import ARMS, CHROMOSOMES, Genome

# Middle of the centromere and length in megabases, genes on the short and the long arm: of hg38 by UCSC's tables
# (centromeres, cytoBand, ncbiRefSeq).
GENES_OF_ARMS = dict(zip(CHROMOSOMES, (
    (123.5, 249.0, 1512, 1359), (93.1, 242.2, 691, 1127), (92.2, 198.3, 714, 846), (50.7, 190.2, 322, 770),
    (48.3, 181.5, 279, 1017), (59.2, 170.8, 812, 612), (59.8, 159.3, 450, 855), (45.0, 145.1, 374, 627),
    (44.5, 138.4, 295, 770), (40.6, 133.8, 283, 825), (52.8, 135.1, 609, 1106), (36.0, 133.3, 378, 1020),
    (17.0, 114.4, 0, 628), (17.1, 107.0, 0, 950), (18.4, 102.0, 0, 972), (37.3, 90.3, 625, 496),
    (24.7, 83.3, 454, 1084), (18.2, 80.4, 119, 310), (25.8, 58.6, 718, 1053), (28.2, 64.4, 255, 507),
    (11.9, 46.7, 33, 359), (14.0, 50.8, 1, 636), (60.5, 156.0, 415, 689), (10.4, 57.2, 50, 68),
)))  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings:
    """The constants of a screen. Lengths are of effects in units of a well's noise, whose mean variance per dimension
    is 1; shares are of those that could be."""

    seed: int = 0
    dim: int = 64  # of embeddings
    biology: int = 32  # directions that effects of genes and arms lie in
    genes: int = 3_000
    unexpressed: float = 0.3
    complexes: int = 120
    smallest: int = 3
    largest: int = 20
    mean_size: float = 6.5  # of complexes, about
    on_one_arm: float = 0.1  # complexes all of whose genes lie on one arm
    mixed: float = 0.25  # complexes in which a third of the genes act in the opposite direction
    alike: float = 0.5  # cosine of two genes of a complex
    alone: float = 0.5  # other expressed genes that have an effect
    effect: float = 3.5  # median length of a gene's effect
    effect_spread: float = 0.4  # of its logarithm
    arm: float = 2.5  # length of the effect of an arm at its telomere; it grows from 0 at the centromere
    guides: int = 6  # of a gene; one is a dud, and one hits another gene as well
    weakest_guide: float = 0.6  # share of the effect; the strongest has all of it
    off_target: float = 0.7  # share of the other gene's effect
    compounds: int = 80
    inert: int = 20  # compounds more
    doses: tuple[float, ...] = (0.0025, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0)  # micromolar, of RxRx3
    most_targets: int = 3
    inhibitors: float = 1 / 3  # compounds that act as a knockout does; others act in the opposite direction
    half_maximal: tuple[float, float] = (0.01, 3.0)  # micromolar, log-uniform
    slope: tuple[float, float] = (0.8, 2.5)  # of Hill curves
    batches: int = 12
    blocks: int = 4  # of genes and compounds; a batch has one of them
    compound_wells: int = 2  # of a dose in a batch; of a guide there is one
    plates: int = 14  # of 384 wells in a batch; the wells left over are untreated
    shift: float = 0.65  # deviation of a batch's offset in a dimension
    scale: float = 0.15  # deviation of the logarithm of a batch's gain in a dimension, and of its gain in all
    rotation: float = 0.04  # deviation of the generator of a batch's rotation
    position: float = 1.5  # length of the effect of the last row, of the last column and of the edge
    shared_position: float = 0.7  # share of the variance of its directions that all batches have in common

    def null(self) -> "Settings":
        """The same screen in which no perturbation does anything."""
        return dataclasses.replace(self, effect=0.0, arm=0.0)


@dataclasses.dataclass(frozen=True)
class World:
    """What is true of a screen.

    genome, where its genes [g] lie; arm [g], numbers in `genome.ARMS`; telomere [g], from 0 at the centromere to 1;
    expressed and active (by design, whatever its length is) bool [g]; member [g], the complex of each gene or -1; pairs
    [m, 2], genes of one complex; effects [g, dim] of knockouts without, and knockouts with, what they do to their arm;
    targets, genes of each compound, the inert ones last and without; responses [compounds, doses, dim].
    """

    settings: Settings
    genome: Genome
    arm: np.ndarray
    telomere: np.ndarray
    expressed: np.ndarray
    active: np.ndarray
    member: np.ndarray
    pairs: np.ndarray
    effects: np.ndarray
    knockouts: np.ndarray
    targets: list[np.ndarray]
    responses: np.ndarray


def draw(settings: Settings) -> World:
    """The world of these settings, whose seed decides everything."""
    rng = np.random.default_rng([settings.seed, 0])
    genome, arm, telomere = _genome(rng, settings.genes)
    expressed = np.ones(settings.genes, bool)
    expressed[rng.permutation(settings.genes)[: round(settings.unexpressed * settings.genes)]] = False
    member = _complexes(rng, settings, arm, expressed)
    active = member >= 0
    others = np.flatnonzero(expressed & ~active)
    active[others[rng.random(len(others)) < settings.alone]] = True

    axes = np.linalg.qr(rng.normal(size=(settings.dim, settings.biology)))[0].T  # [biology, dim]
    own, common = _directions(rng, settings.genes, axes), _directions(rng, settings.complexes, axes)
    sign = np.where(rng.random(settings.genes) < 1 / 3, -1.0, 1.0)
    mixed = np.append(rng.random(settings.complexes) < settings.mixed, False)
    sign[~mixed[member]] = 1.0
    shared = np.where(member >= 0, settings.alike, 0.0)[:, None]
    direction = np.sqrt(shared) * sign[:, None] * common[member] + np.sqrt(1 - shared) * own
    length = settings.effect * np.exp(settings.effect_spread * rng.normal(size=settings.genes)) * active
    effects = length[:, None] * direction
    of_arms = settings.arm * _directions(rng, len(ARMS), axes)

    first, second = np.nonzero(np.triu((member[:, None] == member) & (member >= 0)[:, None], 1))
    targets, responses = _compounds(rng, settings, np.flatnonzero(active), effects)
    return World(
        settings, genome, arm, telomere, expressed, active, member, np.stack([first, second], 1), effects,
        effects + telomere[:, None] * of_arms[arm], targets, responses,
    )  # fmt: skip


def _directions(rng: np.random.Generator, n: int, axes: np.ndarray) -> np.ndarray:
    """Unit vectors [n, dim] in the span of axes [k, dim]."""
    found = rng.normal(size=(n, len(axes))) @ axes
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def _genome(rng: np.random.Generator, genes: int) -> tuple[Genome, np.ndarray, np.ndarray]:
    """(genes on arms, as often as real ones; the number of each one's arm; how far it is towards the telomere)."""
    counts = np.array([n for *_, p, q in GENES_OF_ARMS.values() for n in (p, q)], float)
    arm = np.sort(rng.choice(len(counts), genes, p=counts / counts.sum()))
    telomere = rng.random(genes)
    centromere, length = (np.array([one[k] for one in GENES_OF_ARMS.values()])[arm // 2] for k in (0, 1))
    is_long = arm % 2 == 1
    megabases = np.where(is_long, centromere + telomere * (length - centromere), centromere * (1 - telomere))
    start = (megabases * 1e6).astype(np.int64)
    names = np.array([f"GENE{i:05d}" for i in range(genes)], object)
    return Genome(names, np.array(ARMS, object)[arm], start, start + 1), arm, telomere


def _complexes(rng: np.random.Generator, settings: Settings, arm: np.ndarray, expressed: np.ndarray) -> np.ndarray:
    """The complex of each gene, -1 for none: genes drawn at random, those of some complexes from one arm."""
    member = np.full(len(arm), -1)
    more = rng.geometric(1 / (settings.mean_size - settings.smallest + 1), settings.complexes) - 1
    sizes = np.minimum(settings.smallest + more, settings.largest)
    for k, size in enumerate(sizes.tolist()):
        free = expressed & (member < 0)
        if k < round(settings.on_one_arm * settings.complexes):
            counts = np.bincount(arm[free], minlength=len(ARMS))
            roomy = np.flatnonzero(counts >= size)
            free &= arm == rng.choice(roomy, p=counts[roomy] / counts[roomy].sum())
        member[rng.choice(np.flatnonzero(free), size, replace=False)] = k
    return member


def _compounds(rng: np.random.Generator, settings: Settings, active: np.ndarray, effects: np.ndarray):
    """(targets of each compound, responses [compounds, doses, dim]), the inert ones last: the summed effects of the
    targets, over the root of their number, times a Hill curve of the dose."""
    doses, low_high = np.array(settings.doses), np.log(settings.half_maximal)
    targets, responses = [], []
    for _ in range(settings.compounds):
        genes = rng.choice(active, rng.integers(1, settings.most_targets + 1), replace=False)
        half, slope = np.exp(rng.uniform(*low_high)), rng.uniform(*settings.slope)
        sign = 1.0 if rng.random() < settings.inhibitors else -1.0
        curve = doses**slope / (doses**slope + half**slope)
        targets.append(genes)
        responses.append(sign * curve[:, None] * effects[genes].sum(0) / np.sqrt(len(genes)))
    nothing = np.zeros((settings.inert, len(doses), settings.dim))
    return targets + [np.zeros(0, np.int64)] * settings.inert, np.concatenate([np.array(responses), nothing])
