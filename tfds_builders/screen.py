"""The base of every builder here: sites of a screen to one prepared TFDS folder, with no TensorFlow.

A prepared folder <data_dir>/<name>/<config>/<version>/ holds array_record shards per split, sites.csv,
perturbations.csv, statistics.json, set_aside.csv and report.md. A site that cannot become a correct record
is set aside, named and counted; it never becomes a wrong one.
"""

import dataclasses
import functools
import itertools
import math
import os
import pathlib
import sys
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
import tqdm

from rxrx_jax.errors import UserError
from tfds_builders import reading, report
from tfds_builders import settings as settings_lib

SHARD_BYTES = 256 * 512 * 512 * 6  # pixels a shard holds: 256 RxRx1 sites, 130-190 MB on disk


@dataclasses.dataclass(eq=False)
class ScreenConfig(tfds.core.BuilderConfig):
    """A TFDS config made from a settings dataclass; see `ScreenBuilder.make_config`."""

    settings: Any = None


@dataclasses.dataclass(frozen=True)
class NoSettings:
    """For a builder that has nothing to set."""


class ScreenBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """Builds a screen. A concrete builder sets the class attributes and writes the three methods below them.

    ShardBasedBuilder, because GeneratorBasedBuilder's shuffler needs TensorFlow above 1000 MiB a split.
    """

    VERSION = tfds.core.Version("1.0.0")
    settings_type: type = NoSettings  # a frozen dataclass with defaults for every field
    processes = False  # read sites in processes (numpy work) or in threads (decoders that release the GIL)
    about: dict[str, str] = {}  # description, homepage, citation, license of tfds.core.DatasetInfo

    def read_table(self) -> report.Table:
        """Returns every site of the source, before any image is read."""
        raise NotImplementedError

    def image_shape(self) -> tuple[int, int, int] | None:
        """Returns (H, W, C) of every record; None if only the prepared folder tells."""
        raise NotImplementedError

    def site_reader(self) -> Callable[[dict], np.ndarray]:
        """Returns a picklable function from a site row to its image, [H, W, C] uint8, or BadSite."""
        raise NotImplementedError

    @classmethod
    def make_config(cls, **fields) -> ScreenConfig:
        """Returns the config of some settings, named after those that are not the default."""
        settings = settings_lib.make(cls.settings_type, fields, cls.name)
        return ScreenConfig(name=settings_lib.config_name(settings), settings=settings)

    def __init__(
        self,
        *,
        data_dir: os.PathLike | str | None = None,
        config: ScreenConfig | None = None,
        source: os.PathLike | str | None = None,
        workers: int | None = None,
        progress: bool = False,
        **kwargs,
    ):
        """A builder of one config, for one source.

        Args:
          data_dir: the folder that holds prepared datasets; TFDS's own default if None.
          config: from `make_config`; the default settings if None.
          source: the folder of the raw data, for builders that read one.
          workers: readers at the same time; all cores if None. The result does not depend on it.
          progress: show a progress bar on stderr.
        """
        self.source = None if source is None else pathlib.Path(source).expanduser().resolve()
        self.workers = workers or reading.cores()
        self.progress = progress
        super().__init__(file_format="array_record", data_dir=data_dir, config=config or self.make_config(), **kwargs)

    def _create_builder_config(self, builder_config: ScreenConfig, version) -> ScreenConfig:
        return builder_config  # TFDS's own warns of every config that the class does not list

    @property
    def settings(self) -> Any:
        """The settings of this builder's config."""
        return self.builder_config.settings

    @functools.cached_property
    def table(self) -> report.Table:
        """The source, read once and sorted."""
        table = self.read_table()
        table.rows.sort(key=lambda row: (row["experiment"], row["plate"], row["well"], row["site"]))
        return table

    def _info(self) -> tfds.core.DatasetInfo:
        shape = self.image_shape()
        features = shape and tfds.features.FeaturesDict(
            {
                # encoding='bytes': TFDS's default would store every pixel as a 64-bit varint.
                "image": tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding="bytes"),
                "site_id": tfds.features.Text(),
                "experiment": tfds.features.Text(),
                "plate": np.int32,
                "well": tfds.features.Text(),
                "site": np.int32,
                "cell_type": tfds.features.Text(),
                "well_type": tfds.features.Text(),
                "perturbation_id": np.int32,
            }
        )
        return tfds.core.DatasetInfo(builder=self, features=features, metadata=tfds.core.MetadataDict(), **self.about)

    def _download_and_prepare(self, dl_manager, download_config=None) -> None:
        # While this runs, self.data_path is a temporary folder that TFDS renames at the end, after it has
        # written dataset_info.json: what is written here appears together with the records, or not at all.
        shape = self.image_shape()
        self._kept = {split: [] for split in report.SPLITS}
        self._set_aside = list(self.table.set_aside)
        self._sums = report.PixelSums(shape)
        self._start = time.monotonic()
        sites = len(self.table.rows)
        # A process takes a second to start, as long as it takes to read some 64 small sites.
        workers = min(self.workers, 1 + sites // 64) if self.processes else self.workers
        interval = 0.5 if sys.stderr.isatty() else 30  # seconds between two lines of progress
        with (
            reading.open_pool(workers, self.processes) as self._pool,
            tqdm.tqdm(total=sites, unit=" sites", desc=self.name, mininterval=interval,
                      disable=not self.progress) as self._bar,
        ):  # fmt: skip
            super()._download_and_prepare(dl_manager, download_config)
        if not any(self._kept.values()):
            first = "".join(f"; the first is {item.site_id}: {item.reason}" for item in self._set_aside[:1])
            raise UserError(
                f"{self.source or self.name}: no site can be used, {len(self._set_aside):,} set aside{first}"
            )
        self._drop_empty_shards()
        self.info.metadata.update(
            self.table.facts,
            settings=settings_lib.as_json(self.settings),
            notes=self.table.notes,
            set_aside=len(self._set_aside),
        )
        report.write_files(
            pathlib.Path(self.data_path),
            f"{self.name}, {self.builder_config_name}, {self.version}",
            self.table,
            self._kept,
            sorted(self._set_aside, key=lambda item: (item.experiment, item.site_id, item.reason)),
            self._sums,
        )

    def _shard_iterators_per_split(self, dl_manager) -> dict[str, list[Callable[[], Iterator]]]:
        per_shard = max(1, SHARD_BYTES // int(np.prod(self.image_shape())))
        shards = {}
        for split in report.SPLITS:
            rows = [row for row in self.table.rows if row["split"] == split]
            if rows:
                # Shards share one stream of good sites: whatever is set aside, all but the last are full.
                examples = self._examples(rows)
                shard = functools.partial(itertools.islice, examples, per_shard)
                shards[split] = [shard] * math.ceil(len(rows) / per_shard)
        return shards

    def _examples(self, rows: list[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields (index, example) of every site that can be read, in the order of the rows."""
        read = functools.partial(reading.read, self.site_reader(), self.image_shape())
        sites = reading.ordered_map(self._pool, read, rows, self.workers)
        columns = [name for name in self.info.features if name != "image"]
        for row, site in zip(rows, sites, strict=True):
            self._bar.update()
            if site.reason:
                self._set_aside.append(report.SetAside(row["site_id"], site.reason, row["experiment"], row["split"]))
                continue
            kept = self._kept[row["split"]]
            self._sums.add(row, site.total, site.squares)
            kept.append(row)
            example = {"image": site.image, **{name: row[name] for name in columns}}
            del site
            self._bar.set_postfix_str(f"{self._bytes_per_second() / 1e6:.0f} MB/s", refresh=False)
            yield len(kept) - 1, example
            # TFDS keeps every example of a shard until the shard is written, only to count them. This one is
            # serialised by the time the generator goes on: emptying it keeps one site in memory, not a shard.
            example.clear()

    def _bytes_per_second(self) -> float:
        """Pixels read since the start, as the progress bar counts them."""
        return self._bar.n * math.prod(self.image_shape()) / max(time.monotonic() - self._start, 1e-3)

    def _drop_empty_shards(self) -> None:
        """Removes the shards that sites set aside left without a record, and the splits that have none."""
        splits = []
        for split in self.info.splits.values():
            lengths = [n for n in split.shard_lengths if n]
            old, template = split.filepaths, split.filename_template
            new = template.sharded_filepaths(len(lengths))
            if len(new) < len(old):
                for path in old[len(new) :]:
                    path.unlink()
                for path, target in zip(old, new, strict=False):
                    path.rename(target)
            if lengths:
                size = sum(path.stat().length for path in new)
                splits.append(split.replace(shard_lengths=lengths, num_bytes=size))
        self.info.set_splits(tfds.core.SplitDict(splits))

    def _make_download_manager(self, **kwargs) -> types.SimpleNamespace:
        # Nothing is downloaded; TFDS's own manager would need importlib_resources.
        return types.SimpleNamespace(downloaded_size=0)

    def _log_download_bytes(self) -> None:
        """Says nothing: TFDS announces a download, and nothing is downloaded here."""

    _log_download_done = _log_download_bytes

    def _split_generators(self, dl_manager):
        raise NotImplementedError("records come from _shard_iterators_per_split")

    def _generate_examples(self):
        raise NotImplementedError("records come from _shard_iterators_per_split")
