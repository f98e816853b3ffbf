"""Plates of a user's own to one prepared TFDS folder, by the machinery of the published datasets."""

import collections
import functools
import json
import pathlib
from typing import Any

from etils import epath

from rxrx_jax.base.errors import UserError, shortened
from rxrx_jax.base.files import is_remote, stores
from tfds_builders.common import screen, types
from tfds_builders.common.rows import tables
from tfds_builders.own import depth, reader, source, table
from tfds_builders.own.spec import Records, Spec

NEEDS_SOURCE = "give the folder of the images as --source"


class Images(screen.ScreenBuilder, skip_registration=True):
    """A screen that a Spec describes; `builder_class` makes the builder of one. The folder is named after the Spec's
    name alone: another description needs another name, or another folder."""

    records = Records()
    extra_columns = {"plate": str}

    @classmethod
    def make_config(cls, **fields) -> screen.ScreenConfig:
        """As the base class; what is not a choice of records is refused."""
        config = super().make_config(**fields)
        if config.records.encoding == "source":
            raise UserError(f"{cls.name}: encoding=source is for published files; use delta, zstd or raw")
        return config

    @functools.cached_property
    def _columns(self) -> table.Columns:
        return table.columns(self._table, self.settings)

    @functools.cached_property
    def _table(self) -> pathlib.Path:
        return self.settings.table(tables.check_folder(self.source, self.name, NEEDS_SOURCE))

    @functools.cached_property
    def _kinds(self) -> dict[str, str] | None:
        return table.kinds(self._table, self._columns, self.settings, self.source)

    @functools.cached_property
    def _files(self) -> source.Found:
        experiments = table.experiments(self._table, self._columns)
        if "experiment" not in source.Pattern(self.settings.pattern).fields:
            if several := [plate for plate, experiment in experiments.items() if not experiment]:
                raise UserError(
                    f"{self._table}: plate {shortened(several[0])} is in several experiments: say in --pattern "
                    "where the name of the {experiment} is"
                )
        found = self.settings.pattern, self.settings.named(), experiments, self.tables()
        return source.find(self.source, *found, self.follow_links)

    def tables(self) -> list[pathlib.Path]:
        """The table, and that of the splits."""
        return [path for path in (self._table, self.settings.splits_table(self.source)) if path]

    def read_table(self) -> types.Table:
        """The rows of the table, with the sites that are on disk."""
        return table.read(self._table, self._columns, self.settings, self._kinds, self._files)

    def reader(self) -> tuple[reader.OwnReader, tuple[int, int]]:
        """What reads the files, after a look at some of the training sites."""
        self._table, self._columns, self._kinds  # noqa: B018  mistakes in tables first: a walk may take minutes
        table.check_controls(self._table, self.settings)
        files, names = self._files, self.channels
        whole = (1 << len(names)) - 1
        places = [
            (*plate, *site)
            for plate in sorted(files.sites)
            if self._kinds is None or self._kinds.get(plate[0]) == "train"
            for site, held in sorted(files.sites[plate].items())
            if held == whole
        ]
        if not places:
            raise UserError(f"{self.source}: no site of a training experiment has all of {', '.join(names)}")
        stacks = "channel" not in source.Pattern(self.settings.pattern).fields
        positions = tuple(int(key) - 1 for key in self.settings.named()) if stacks else None
        size, found = reader.probe(files.tree, places, names, positions, self.settings.ranges())
        made = reader.OwnReader(
            files.tree, len(names), size, 8, 8, (str(self.source),), names=names, positions=positions, depth=found
        )
        return made, size

    def counted(self, counts: collections.Counter[str]) -> tuple[dict[str, Any], list[str]]:
        """Says of each channel how many images had 8 and 16 bits, and how many pixels were clipped."""
        facts: dict[str, Any] = {"images_8_bit": {}, "images_16_bit": {}, "pixels_below_range": {},
                                 "pixels_above_range": {}}  # fmt: skip
        notes = []
        for name in self.channels:
            for key, counter in zip(facts, ("8", "16", "below", "above"), strict=True):
                facts[key][name] = counts[f"{counter} {name}"]
            if facts["images_8_bit"][name] and facts["images_16_bit"][name]:
                notes.append(
                    f"{name} has images of 8 bits ({facts['images_8_bit'][name]:,}) and of 16 "
                    f"({facts['images_16_bit'][name]:,}): the latter are converted, the former are not, and the two do "
                    "not share a scale."
                )
        if any(facts["images_16_bit"].values()):
            how = "given" if set(self.settings.ranges()) == set(self.channels) else "the 0.1st to 99.9th percentile"
            notes.append(
                "16-bit pixels are mapped to 8 bits, linearly within ranges_16_bit of each channel "
                f"({how}{'' if how == 'given' else f' of at most {depth.SITES} training sites, where not given'}); "
                "pixels below and above it are clipped and counted."
            )
        if counts["left"]:
            facts["planes_left"] = counts["left"]
            notes.append(f"{counts['left']:,} planes of the stacks are not named in --channels, and left.")
        return facts, notes


def builder_class(spec: Spec) -> type[Images]:
    """Returns the builder of plates that are described."""
    about = {
        "description": f"{spec.name}: plates prepared with `python -m tfds_builders.prepare images`.",
        "license": spec.license,
        "citation": spec.citation,
    }
    body = {
        "name": spec.name,
        "about": about,
        "channels": tuple(spec.named().values()),
        "settings_type": staticmethod(lambda: spec),
        "__module__": __name__,
    }
    return type(spec.name, (Images,), body, skip_registration=True)


def prepared(name: str, out: pathlib.Path | epath.Path) -> type[Images] | None:
    """Returns the builder of plates that were prepared under this name in a folder of datasets, on disk or in a store;
    None if none were."""
    names = "*/*/metadata.json"
    remote = is_remote(out)
    for path in stores.matching(f"{out}/{name}/{names}") if remote else sorted((out / name).glob(names)):
        try:
            settings = json.loads(stores.read(path) if remote else path.read_text())["settings"]
            fields = {key: settings[key] for key in Spec.__dataclass_fields__}
        except (OSError, ValueError, LookupError, TypeError):
            continue  # of a published dataset, or damaged
        return builder_class(Spec(**fields))
    return None
