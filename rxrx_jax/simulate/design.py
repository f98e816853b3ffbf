"""Settings and design of the simulated screen: which perturbation sits in which well of which plate.

The design is RxRx1's in small. Every experiment has `plates` plates of 384 wells whose outer rows and columns
stay empty (308 usable wells, B02..O23). Each treatment sits on ONE plate of an experiment, in `replicates`
wells; the same positive controls and some untreated wells are on every plate; wells are drawn at random per
plate.

layout 'fixed': the same groups of treatments share a plate in every experiment, as in RxRx1 (its plate leak);
which plate carries which group is drawn per experiment. layout 'reshuffled': the groups are redrawn per
experiment. Everything else about a world (perturbations, nuisance, cells) depends on the seed and on names
only, so two screens that differ in nothing but the layout share them.
"""

import dataclasses
import re
import typing

import numpy as np

from rxrx_jax.base.errors import UserError
from rxrx_jax.base.spellings import NEGATIVE_CONTROL, POSITIVE_CONTROL, TREATMENT
from rxrx_jax.simulate.morphology import BASE, generator

LAYOUTS = ("fixed", "reshuffled")
OF_DESIGN = ("design",)  # in place of experiments: those that DESIGNS has
# (version, size) -> the experiments of each split, where they are not named
DESIGNS = {
    ("v2", "small"): {
        "train": ("SIMA-01", "SIMA-02", "SIMA-03", "SIMB-01", "SIMB-02", "SIMC-01", "SIMC-02"),
        "val": ("SIMA-04",),
        "test": ("SIMA-05", "SIMA-06", "SIMB-03", "SIMC-03"),
    },
    ("v3", "large"): {
        "train": (
            *(f"SIMA-{i:02d}" for i in range(1, 9)),
            *(f"SIMB-{i:02d}" for i in range(1, 5)),
            "SIMC-01",
            "SIMC-02",
        ),
        "val": ("SIMA-09", "SIMB-05", "SIMC-03"),
        "test": ("SIMA-10", "SIMA-11", "SIMB-06", "SIMB-07", "SIMC-04", "SIMC-05"),
    },
    ("v3", "small"): {
        "train": ("SIMA-01", "SIMA-02", "SIMA-03", "SIMB-01", "SIMB-02", "SIMC-01", "SIMC-02"),
        "val": ("SIMA-09", "SIMB-05", "SIMC-03"),
        "test": ("SIMA-10", "SIMB-06", "SIMC-04"),
    },
}
ROWS = "BCDEFGHIJKLMNO"
WELLS = tuple(f"{row}{column:02d}" for row in ROWS for column in range(2, 24))  # 308 of 384
EDGE_WELLS = frozenset(w for w in WELLS if w[0] in "BO" or w[1:] in ("02", "23"))
UNTREATED = "EMPTY"
CHANNELS = 6
# the keys of a site row, in order
COLUMNS = (
    "site_id", "well_id", "cell_type", "experiment", "plate", "well", "site", "well_type", "perturbation",
    "perturbation_id", "split",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Screen:
    """All settings of one simulated screen; the defaults give 13 experiments, 232 wells each, 6,032 sites.

    image_size: pixels along one side. The field of view is always the same: a larger image shows the same
    cells with more pixels. The two strengths multiply every shift made by perturbations and every draw of
    nuisance. imbalance: concentration of the Dirichlet distribution by which treatments of a plate share its wells in
    the experiments that are not trained on, 0.3 say; with 0 each has `replicates`.
    """

    seed: int = 0
    version: str = "v3"
    size: str = "small"
    layout: str = "fixed"
    image_size: int = 64
    treatments: int = 24
    positive_controls: int = 3
    replicates: int = 8  # wells of a treatment in an experiment, all on one plate
    positive_wells: int = 2  # wells of each positive control on every plate
    untreated_wells: int = 4  # on every plate
    sites_per_well: int = 2
    plates: int = 4
    cell_types: tuple[str, ...] = ("SIMA", "SIMB", "SIMC")
    train: tuple[str, ...] = OF_DESIGN
    val: tuple[str, ...] = OF_DESIGN
    test: tuple[str, ...] = OF_DESIGN
    perturbation_strength: float = 1.0
    nuisance_strength: float = 1.0
    imbalance: float = 0.0

    def __post_init__(self):
        if (self.version, self.size) not in DESIGNS:
            known = ", ".join(f"version={version} size={size}" for version, size in DESIGNS)
            raise ValueError(f"version={self.version!r} size={self.size!r}: use one of {known}")
        _check_types(self)
        least = {"seed": 0, "treatments": 1, "positive_controls": 0, "replicates": 1, "positive_wells": 1}
        least |= {"untreated_wells": 0, "sites_per_well": 1, "plates": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name}={getattr(self, name)}: use {low} or more")
        for name in ("perturbation_strength", "nuisance_strength"):
            if not 0 <= getattr(self, name) <= 10:
                raise ValueError(f"{name}={getattr(self, name)}: use a number from 0 to 10")
        if self.imbalance and not 0.01 <= self.imbalance <= 100:
            raise ValueError(f"imbalance={self.imbalance}: use 0 for none, or a number from 0.01 to 100")
        if not 32 <= self.image_size <= 1024:
            raise ValueError(f"image_size={self.image_size}: use 32 to 1024 pixels")
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout={self.layout!r}: use one of {', '.join(LAYOUTS)}")
        if self.treatments % self.plates:
            raise ValueError(f"treatments={self.treatments}: use a multiple of plates={self.plates}, one group on each")
        if self.wells_per_plate > len(WELLS):
            raise ValueError(
                f"replicates={self.replicates}: a plate would need {self.wells_per_plate} wells and has "
                f"{len(WELLS)}; lower replicates, treatments, positive_wells or untreated_wells"
            )
        for cell_type in self.cell_types:
            if cell_type not in BASE:
                raise ValueError(f"cell_types: {cell_type!r} is unknown, use some of {', '.join(BASE)}")
        for field in ("train", "val", "test"):
            for name in self.splits[field]:
                if not re.fullmatch(r"[A-Z]+-\d\d", name) or name.split("-")[0] not in self.cell_types:
                    raise ValueError(
                        f"{field}: experiment {name!r} should be a cell type of "
                        f"{', '.join(self.cell_types)}, a dash and two digits, such as SIMA-01"
                    )
        if not self.splits["train"]:
            raise ValueError("train=(): name at least one experiment")
        names = self.experiments
        if len(set(names)) < len(names):
            twice = next(n for n in names if names.count(n) > 1)
            raise ValueError(f"train, val, test: experiment {twice!r} is named twice, name it once")

    @property
    def experiments(self) -> tuple[str, ...]:
        """All experiments, by name."""
        return tuple(sorted(name for names in self.splits.values() for name in names))

    @property
    def splits(self) -> dict[str, tuple[str, ...]]:
        """The experiments of train, val and test."""
        named = {"train": self.train, "val": self.val, "test": self.test}
        return DESIGNS[self.version, self.size] | {split: own for split, own in named.items() if own != OF_DESIGN}

    @property
    def wells_per_plate(self) -> int:
        treated = self.treatments // self.plates * self.replicates
        return treated + self.positive_controls * self.positive_wells + self.untreated_wells

    @property
    def classes(self) -> int:
        """Number of perturbation ids: treatments, then positive controls, then untreated."""
        return self.treatments + self.positive_controls + 1


def _check_types(screen: Screen) -> None:
    for field in dataclasses.fields(Screen):
        value = getattr(screen, field.name)
        if field.type in (int, str):
            fits = type(value) is field.type
        elif field.type is float:
            fits = type(value) in (int, float)
        else:
            fits = type(value) is tuple and all(type(v) is str for v in value)
        if not fits:
            kind = {int: "an int", str: "a str", float: "a float"}.get(field.type, "a tuple of str")
            raise ValueError(f"{field.name}={value!r}: use {kind}")


def parse(settings: typing.Iterable[str]) -> Screen:
    """A screen from strings 'name=value', as given on a command line; experiments are separated by commas.
    Raises UserError."""
    types = {field.name: field.type for field in dataclasses.fields(Screen)}
    values = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or name not in types:
            raise UserError(f"setting {setting!r}: use NAME=VALUE with a name of {', '.join(types)}")
        try:
            if types[name] in (int, float, str):
                values[name] = types[name](text)
            else:
                values[name] = tuple(part for part in text.split(",") if part)
        except ValueError:
            raise UserError(f"{name}={text!r}: use a value of type {types[name].__name__}") from None
    return Screen(**values)


def perturbation(screen: Screen, perturbation_id: int) -> tuple[str, str]:
    """(name, well_type) of a perturbation id: treatments first, then positive controls, then untreated."""
    if perturbation_id == screen.classes - 1:
        return UNTREATED, NEGATIVE_CONTROL
    kind = TREATMENT if perturbation_id < screen.treatments else POSITIVE_CONTROL
    return f"sim{perturbation_id + 1:04d}", kind


def groups(screen: Screen, experiment: str) -> list[list[int]]:
    """Treatment ids on each plate of an experiment: element i is plate i + 1."""
    world = "all" if screen.layout == "fixed" else experiment
    order = generator(screen.seed, "groups", screen.layout, world).permutation(screen.treatments)
    members = np.sort(order.reshape(screen.plates, -1), axis=1)
    # As in RxRx1, a group has no plate number of its own: it moves as a whole.
    plates = generator(screen.seed, "plates", experiment).permutation(screen.plates)
    return [members[plate].tolist() for plate in plates]


def sites(screen: Screen) -> list[dict]:
    """All site rows (dicts with the keys COLUMNS), ordered by experiment, plate, well, site."""
    rows = []
    controls = range(screen.treatments, screen.treatments + screen.positive_controls)
    for experiment in screen.experiments:
        for plate, treatments in enumerate(groups(screen, experiment), start=1):
            ids = np.repeat(treatments, _replicates(screen, experiment, plate)).tolist()
            ids += np.repeat(controls, screen.positive_wells).tolist()
            ids += [screen.classes - 1] * screen.untreated_wells
            draw = generator(screen.seed, "wells", experiment, plate)
            wells = [WELLS[i] for i in draw.permutation(len(WELLS))[: len(ids)]]
            for well, perturbation_id in sorted(zip(wells, ids)):
                rows += _well_rows(screen, experiment, plate, well, int(perturbation_id))
    return rows


def _replicates(screen: Screen, experiment: str, plate: int) -> np.ndarray | int:
    """Wells of each treatment on a plate."""
    if not screen.imbalance or experiment in screen.splits["train"]:
        return screen.replicates
    number = screen.treatments // screen.plates
    rng = generator(screen.seed, "imbalance", experiment, plate)
    return rng.multinomial(number * screen.replicates, rng.dirichlet(np.full(number, screen.imbalance)))


def _well_rows(screen: Screen, experiment: str, plate: int, well: str, perturbation_id: int) -> list[dict]:
    name, well_type = perturbation(screen, perturbation_id)
    well_id = f"{experiment}_{plate}_{well}"
    rows = []
    for site in range(1, screen.sites_per_well + 1):
        if experiment in screen.splits["train"]:
            split = "train" if site == 1 else "id_test"
        else:
            split = "val" if experiment in screen.splits["val"] else "test"
        place = f"{well_id}_{site}", well_id, experiment.split("-")[0], experiment, plate, well, site
        rows.append(dict(zip(COLUMNS, (*place, well_type, name, perturbation_id, split))))
    return rows
