"""The base of every builder here: a published or simulated screen to one prepared TFDS folder, with no TensorFlow.

A prepared folder <data_dir>/<name>/<config>/<version>/ holds array_record shards by split and, beside them,
sites.csv, original.csv, manifest.csv, perturbations.csv, statistics.json, histograms.json, set_aside.csv,
repeats.csv, unlisted.csv, report.html, README.md, croissant.json and SHA256SUMS (docs/records.md says what is in each).
A site that cannot become a correct record is set aside, named and counted; it never becomes a wrong one.

How a build goes: the tables become a plan (plan.py), each plate of the plan becomes shards and a result
(plates.py, in parallel: build.py), and the results become the folder (finish.py). Until then all of it is in
<version>.building beside the folder, from which a stopped build resumes.
"""

import collections
import contextlib
import dataclasses
import json
import multiprocessing
import os
import pathlib
import re
import sqlite3
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from rxrx_jax.base import files
from rxrx_jax.base.command import cores
from rxrx_jax.base.errors import UserError
from tfds_builders.common import build, encodings, finish, lock, plates, reading, repeats, types
from tfds_builders.common import settings as settings_lib
from tfds_builders.common.rows import plan as plan_lib
from tfds_builders.common.sources import files as sources
from tfds_builders.common.sources import seen
from tfds_builders.report import card, croissant, page


@dataclasses.dataclass(eq=False)
class ScreenConfig(tfds.core.BuilderConfig):
    """A TFDS config made from settings; see `ScreenBuilder.make_config`."""

    settings: Any = None  # the builder's own
    records: settings_lib.Records | None = None


@dataclasses.dataclass(frozen=True)
class NoSettings:
    """For a builder that has nothing of its own to set."""


class ScreenBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """Builds a screen. A concrete builder sets the class attributes and writes the methods below them.

    Of TFDS's base class it uses the reading, the naming and the metadata: TFDS's own writing starts again after
    every stop, is serial, and spills through TensorFlow when it shuffles more than 1000 MiB.
    """

    VERSION = tfds.core.Version("2.0.0")
    settings_type: type = NoSettings  # a frozen dataclass with defaults for every field
    records = settings_lib.Records()  # the defaults of what every builder lets users choose
    about: dict[str, str] = {}  # description, homepage, citation, license of tfds.core.DatasetInfo
    channels: tuple[str, ...] = ()  # what w1, w2, ... show
    bits = 8  # of the published images
    extra_columns: dict[str, type] = {}  # of a row, beyond types.SITE_COLUMNS or of another type: str, int or float
    published: dict[str, int] = {}  # counts of the published design
    reader_type: type = reading.FileReader  # of sites that are files

    def read_table(self) -> types.Table:
        """Returns every site of the source, before any image is read."""
        raise NotImplementedError

    def tables(self) -> list[pathlib.Path]:
        """Returns the files that `read_table` reads: a build does not resume with others."""
        found = sorted(self.source.glob("*.csv")) if self.source else []
        return [path for path in found if path.is_file() and re.search("metadata|train|test|splits", path.name)]

    def counted(self, counts: collections.Counter[str]) -> tuple[dict[str, Any], list[str]]:
        """Returns facts and notes, for metadata.json, of what the readers counted."""
        del counts
        return {}, []

    def image_source(self) -> Any:
        """Returns where the image files are, one of sources.py."""
        raise NotImplementedError

    def image_size(self, source: Any) -> tuple[int, int] | None:
        """Returns (H, W) of every record; None if the source has no image to tell it."""
        size = getattr(self.settings, "image_size", None)
        return (size, size) if size else source.size()

    def reader(self) -> Any:
        """Returns what reads the sites, and (H, W); a builder whose images are not files overrides it."""
        source = self.image_source()
        size = self.image_size(source)
        if size is None:
            raise UserError(f"{self.source}: no image there can be read{seen.cause(self.source)}")
        folders = (self.source, *sorted(path for path in self.source.iterdir() if path.is_dir()))
        reader = self.reader_type(
            source, len(self.channels), size, self.bits, self.builder_config.records.bits, tuple(map(str, folders))
        )
        return reader, size

    @classmethod
    def make_config(cls, **fields) -> ScreenConfig:
        """Returns the config of some settings, named after those that are not the default. Raises UserError."""
        defaults = (cls.settings_type(), cls.records)
        own, records = settings_lib.make(defaults, fields, cls.name)
        if records.bits > cls.bits:
            raise UserError(f"{cls.name}: bits={records.bits}, but its images have {cls.bits}")
        if records.encoding == "source" and records.bits != cls.bits:
            raise UserError(f"{cls.name}: encoding=source keeps the files as they are: add bits={cls.bits}")
        name = settings_lib.config_name((own, records), defaults)
        return ScreenConfig(name=name, settings=own, records=records)

    def __init__(
        self,
        *,
        data_dir: os.PathLike | str | None = None,
        config: ScreenConfig | None = None,
        source: os.PathLike | str | None = None,
        workers: int | None = None,
        progress: bool = False,
        strict: bool = False,
        beam: list[str] | None = None,
        follow_links: bool = False,
        **kwargs,
    ):
        """A builder of one config, for one source.

        Args:
          data_dir: the folder that holds prepared datasets; TFDS's own default if None.
          config: from `make_config`; the default settings if None.
          source: the folder of the raw data, for builders that read one; `tfds build` gives it as --manual_dir.
          workers: processes; all cores if None. The result does not depend on it.
          progress: show a progress bar on stderr.
          strict: stop with an error at the first site that would be set aside.
          beam: options of an Apache Beam pipeline that builds the plates in place of processes.
          follow_links: read also what is a link out of the source folder.
        """
        self.source = None if source is None else pathlib.Path(source).expanduser().resolve()
        self.workers, self.progress, self.strict, self.beam = workers or len(cores()), progress, strict, beam
        self.follow_links = follow_links
        super().__init__(file_format="array_record", data_dir=data_dir, config=config or self.make_config(), **kwargs)

    def _create_builder_config(self, builder_config: ScreenConfig, version) -> ScreenConfig:
        return builder_config  # TFDS's own warns of every config that the class does not list

    @property
    def settings(self) -> Any:
        """The settings of this builder's config."""
        return self.builder_config.settings

    @property
    def all_settings(self) -> dict[str, Any]:
        """All settings, as metadata.json records them."""
        return settings_lib.as_json((self.settings, self.builder_config.records))

    def _info(self) -> tfds.core.DatasetInfo:
        # The features are known when the source is: they are read from the prepared folder.
        return tfds.core.DatasetInfo(builder=self, metadata=tfds.core.MetadataDict(), **self.about)

    def download_and_prepare(self, *, download_dir=None, download_config=None, file_format=None, **kwargs) -> None:
        """Prepares the folder unless it exists. Raises UserError; after any stop the same call resumes."""
        del download_dir, file_format, kwargs
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            # A worker imports the script that started it, which would wait for its own parent here.
            raise UserError("a script that prepares a dataset must do so under `if __name__ == '__main__':`")
        if self.source is None and download_config is not None and download_config.manual_dir:
            self.source = pathlib.Path(download_config.manual_dir).expanduser().resolve()
        folder = pathlib.Path(self.data_path)
        for path in (self.source or folder, folder):
            if not sources.is_text(str(path)):
                name = sources.printable(str(path))
                raise UserError(f"{name}: {sources.NO_TEXT}, which no table can hold: rename it")
        working = folder.with_name(f"{folder.name}.building")
        if not folder.exists() or working.exists():
            with lock.only_one(working, self.progress), _disk_errors(working):
                if not folder.exists():  # else another process has just made it
                    self._build(working, folder)
                else:
                    lock.clear(working)
        if self.builder_config.name == settings_lib.DEFAULT:
            _name_default(folder.parents[1] / ".config/metadata.json")
        try:
            self.info.read_from_directory(os.fspath(folder))
        except Exception as error:  # TFDS raises many kinds for damaged files
            raise UserError(
                f"{folder}: dataset_info.json, features.json or metadata.json is damaged ({type(error).__name__}: "
                f"{error}); delete the folder and run the same command to rebuild it"
            ) from error

    def _build(self, working: pathlib.Path, folder: pathlib.Path) -> None:
        task = self._task(working)
        chosen = self.builder_config.records
        names = task.plan.plates()
        if not names and (chosen.experiments or chosen.plates or chosen.cell_types):
            lock.clear(working)
            raise UserError(f"{self.source}: no row is of the chosen experiments, plates and cell types all together")
        known = set(task.plan.plates(chosen=False))
        names += [name for name in task.reader.plates() if name not in known and _is_chosen(name, chosen)]
        names.sort()
        if self.beam is None:
            build.run(task, names, self.workers, self.name, self.progress)
        else:
            build.run_on_beam(task, names, self.beam)
        made = working / "folder"
        result = finish.finish(task, names, made, self.name)
        if not result["records"]:
            first = finish.first_set_aside(made)
            lock.clear(working)  # so that the same command looks at the source again
            cause = seen.cause(self.source) if self.source else ""
            raise UserError(f"{self.source or self.name}: no site can be used{first}{cause}")
        about, size = task.plan.about(), task.shape[:2]
        facts, notes = self.counted(result["read"])
        info = tfds.core.DatasetInfo(
            builder=self,
            features=plates.features(task),
            metadata=tfds.core.MetadataDict(
                **about["facts"],
                **task.reader.facts,
                **facts,
                settings=self.all_settings,
                notes=[*repeats.notes(result["repeats"], self.channels), *about["notes"], *notes],
                channels=list(self.channels),
                image_shape=list(task.shape),
                bits=task.bits,
                **({"tile": task.tile, "grid": [side // task.tile for side in size]} if task.tile else {}),
                published=self.published,
                sums=files.SUMS,
                records=result["records"],
                set_aside=result["set_aside"],
                unlisted=result["unlisted"],
            ),
            **self.about,
        )
        info.set_file_format("array_record")
        info.set_splits(tfds.core.SplitDict(result["splits"]))
        info.write_to_directory(os.fspath(made))
        page.write(made)
        card.write(made)
        croissant.write(made)  # has the SHA-256 of all files before it
        files.write_sums(made, (path.name for path in made.iterdir() if ".array_record-" not in path.name))
        made.rename(folder)
        lock.clear(working)

    def _task(self, working: pathlib.Path) -> plates.Task:
        """Returns the build that was stopped here, if it was of the same source and settings, or a new one."""
        records = self.builder_config.records
        reader, size = self.reader()
        shape = (*size, len(self.channels))
        same = {"settings": self.all_settings, "source": str(self.source), "shape": list(shape)}
        same |= {
            "tables": [[path.name, files.sha256(path, "give a csv file")] for path in self.tables()],
            "reader": dict(reader.facts),
        }
        same["plan"] = plan_lib.SCHEMA  # an older version's plan is written again
        tile = encodings.tile_side(records.tile, size, records.encoding)
        same |= {"tile": tile} if tile else {}
        path, about = working / "plan.sqlite", working / "build.json"
        found = _read_json(about) if path.exists() else None
        if found == same:
            plates_done, known = 0, set()
            for result in map(_read_json, working.glob("plates/*.json")):  # one in memory at a time
                plates_done += 1
                known.update(shard["file"] for shard in (result or {"shards": ()})["shards"])
            self._say(f"resuming: {plates_done:,} plates are done")
            for shard in working.glob("plates/*.array_record"):  # of plates that were cut short
                if shard.name not in known:
                    shard.unlink()
        else:
            if found is not None:
                self._say("starting over: the tables, the images or the settings are not those of the stopped build")
            lock.clear(working)
            plan_lib.write(path, self.read_table(), records.experiments, records.plates, records.cell_types)
            partial = about.with_suffix(".partial")
            partial.write_text(json.dumps(same))
            partial.replace(about)
        (working / "plates").mkdir(exist_ok=True)
        plan = plan_lib.Plan(path)
        if self.strict:
            for item in plan.set_aside():
                plan_lib.refuse(item)
            everything = not (records.experiments or records.plates or records.cell_types)
            for name in reader.strays() if everything else ():
                plan_lib.refuse(types.SetAside(name, "a file that belongs to no plate"))
        return plates.Task(
            folder=working / "plates",
            plan=plan,
            reader=reader,
            shape=shape,
            bits=records.bits,
            encoding=records.encoding,
            extra_columns=self.extra_columns,
            strict=self.strict,
            tile=tile,
        )

    def _say(self, text: str) -> None:
        if self.progress:
            print(text, flush=True)

    def _split_generators(self, dl_manager):
        raise NotImplementedError("records are written by download_and_prepare")

    _generate_examples = _shard_iterators_per_split = _split_generators


def _is_chosen(name: tuple[str, int], records: settings_lib.Records) -> bool:
    """Whether a plate without any row belongs to what is built."""
    return (
        (not records.experiments or name[0] in records.experiments)
        and (not records.plates or name[1] in records.plates)
        and not records.cell_types
    )


def _name_default(path: pathlib.Path) -> None:
    """Writes which config TFDS opens when it is asked for the name of a dataset alone, unless the file is there."""
    with contextlib.suppress(PermissionError):  # a folder of others that is only read
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            files.write(path, json.dumps({"default_config_name": settings_lib.DEFAULT}))


def _read_json(path: pathlib.Path) -> Any:
    """Returns what a file holds; None if it is not there or was cut short."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def _disk_errors(working: pathlib.Path) -> Iterator[None]:
    """Says in one line that the disk is full, and that nothing is lost."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        full = error.errno in plates.DISK_ERRORS if isinstance(error, OSError) else "disk is full" in str(error)
        if not full:
            raise
        raise UserError(f"{working}: the disk is full: free some space and run the same command to resume") from error
