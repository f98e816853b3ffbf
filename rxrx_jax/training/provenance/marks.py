"""What a metric is marked with, derived from what was seen, never typed.

T   transductive: unlabelled images that are scored, or statistics of them, took part
C   control-anchored: labels of controls among them, or of their experiments, took part
X   contaminated: labels that are scored were seen by an earlier stage, and the config allows it
?   weights of unknown origin took part
"""

import dataclasses
import functools
from collections.abc import Iterable

import numpy as np

from rxrx_jax import data
from rxrx_jax.adapt import Method, Needs
from rxrx_jax.base.config import Config
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.seen import Seen, among, join, of_rows, unite
from rxrx_jax.data.augment import TRANSDUCTIVE_NORMALISATIONS
from rxrx_jax.data.batch import CONTROLS, TRAIN
from rxrx_jax.data.roles import held_out_rows, only_controls_told
from rxrx_jax.training import checkpoint
from rxrx_jax.training.provenance import former

UNLABELLED = ("mae", "environments")  # tasks whose loss has no label
SEEN_AS = ("", "image", "label")  # by a site's exposure, from none to most


def of_run(config: Config, source, digests: np.ndarray, stage: str) -> Seen:
    """What a run sees by itself: labels of its rows if its task uses them, images of these and of the other streams,
    that controls are controls where they are a stream, and all images whose statistics normalise."""
    dataset, fitted = source.dataset, source.samplers[TRAIN].drawn_from
    images, table = [sampler.drawn_from for sampler in source.samplers.values()], np.arange(len(dataset.sites))
    normalisation = config.get("normalisation", "")  # molecules have none
    if normalisation in TRANSDUCTIVE_NORMALISATIONS:
        images.append(table)
    elif normalisation == "dataset":
        images.append(data.select(dataset, splits="train"))
    by_label = config.task.name not in UNLABELLED or config.data.get("pairs")
    labels = fitted[dataset.sites.label[fitted] >= 0] if by_label else fitted[:0]
    controls = source.samplers[CONTROLS].drawn_from if CONTROLS in source.samplers else fitted[:0]
    return of_rows(dataset, digests, stage, labels=labels, images=np.unique(np.concatenate(images)), controls=controls)


@dataclasses.dataclass(frozen=True)
class Ledger:
    """What the parameters have seen, against the rows of a dataset on which they are used.

    digests: uint64 [n], of all rows of the dataset; fitted: rows on which this stage fits; needs: of the method, which
    may adapt to test images.
    """

    seen: Seen
    dataset: data.Dataset
    digests: np.ndarray
    fitted: np.ndarray
    normalisation: str
    needs: Needs = Needs()

    def hits(self, kind: str, rows: np.ndarray) -> np.ndarray:
        """Those of `rows` that were seen as `kind`. An image that lies among the fitted rows too (a blank or doubled
        one) is not counted: the dataset itself holds it on both sides."""
        digests = self.digests[rows]
        return rows[self.seen.hits(kind, digests) & ~among(self._fitted, digests)]

    @functools.cached_property
    def _fitted(self) -> np.ndarray:
        return np.sort(self.digests[self.fitted])

    def marks(self, where: str | np.ndarray, extra: str = "", trained: bool = True) -> str:
        """The marks of a metric. Args: where, the name of scored rows ("cross_batch") or rows; extra, what the
        evaluator adds; trained, False for what does not use the parameters but the normalised images alone."""
        if not isinstance(where, str):
            return self._marks(where, extra, trained)
        return join(extra, self._of_scored[where, trained])

    @functools.cached_property
    def _of_scored(self) -> dict[tuple[str, bool], str]:
        """Computed once, as it takes seconds where there are millions of rows and dozens of metrics."""
        return {
            (name, trained): self._marks(rows, "", trained)
            for name, rows in self.dataset.roles.scored.items()
            for trained in (True, False)
        }

    def _marks(self, rows: np.ndarray, extra: str, trained: bool) -> str:
        if self.normalisation in TRANSDUCTIVE_NORMALISATIONS and len(rows):
            extra += "T"
        if not trained:
            return join(extra)
        found = "?" if self.seen.unknown else ""
        for kind, mark in (("images", "T"), ("controls", "C"), ("labels", "X")):
            found += mark if len(self.hits(kind, rows)) else ""
        found += "C" * bool(np.isin(self.dataset.sites.experiment[rows], self._told).any())
        return join(found, extra, self.needs.marks(data.untreated(self.dataset.sites)[rows]))

    @functools.cached_property
    def _told(self) -> np.ndarray:
        """Numbers of the experiments of which labels of controls alone were seen, here or in a stage before."""
        rows = np.arange(len(self.digests))
        own = np.isin(rows, self.fitted) | ~among(self._fitted, self.digests)
        scored = np.concatenate([rows[:0], *self.dataset.roles.scored.values()])  # of these it is X
        own &= ~np.isin(rows, scored)
        return only_controls_told(self.dataset, rows[own & self.seen.hits("labels", self.digests)])

    @property
    def transductive(self) -> bool:
        """Whether unlabelled images of held-out experiments, or statistics of them, took part."""
        return "T" in self.marks(held_out_rows(self.dataset))

    def of_sites(self, rows: np.ndarray) -> np.ndarray:
        """What was seen of each of `rows` [n] by itself: "label", "image" or "", str [n]. Of a fitted row it is
        told even where its image occurs twice."""
        found = np.full(len(rows), "", "U5")
        for kind, word in zip(("images", "labels"), SEEN_AS[1:]):
            found[self.seen.hits(kind, self.digests[rows])] = word
        doubled = ~np.isin(rows, self.fitted) & among(self._fitted, self.digests[rows])
        return np.where(doubled, "", found)


def open_ledger(config: Config, source, method: Method, stage: str, scores: bool, allowed: str) -> Ledger:
    """The ledger of a run that starts with this config.

    Args: source, of images; method, of the run; stage, as it is to be named to later stages; scores, whether any
    evaluator scores labels; allowed, `init.contaminated`.
    Raises UserError when labels that are to be scored were seen by an earlier stage.
    """
    if allowed not in ("", "allow"):
        raise UserError(f"init.contaminated={allowed!r}: expected allow or nothing")
    if config.init.path and checkpoint.is_run(config.init.path):
        checkpoint.find_checkpoint(config.init.path, "init.path=")
    before = former.seen_by(config.init.path)
    digests, fitted = source.dataset.digests, source.samplers[TRAIN].drawn_from
    ledger = Ledger(before, source.dataset, digests, fitted, config.get("normalisation", ""), method.needs)
    if scores and not allowed:
        check_contamination(ledger, source.dataset.roles.scored.values(), f"init.path={config.init.path}",
                            "--config.init.contaminated=allow")  # fmt: skip
    return dataclasses.replace(ledger, seen=unite(before, of_run(config, source, digests, stage)))


def check_contamination(ledger: Ledger, scored: Iterable[np.ndarray], what: str, override: str) -> None:
    """Raises UserError when labels of scored rows were seen: one line with an example, the stage and the override."""
    sites = ledger.dataset.sites
    rows = np.concatenate([np.zeros(0, np.int64), *(ledger.hits("labels", rows) for rows in scored)])
    rows = rows[sites.label[rows] >= 0]
    if len(rows):
        more = f" and {len(rows) - 1:,} others" if len(rows) > 1 else ""
        raise UserError(
            f"{what} has seen labels that this stage scores: {sites.site_id[rows[0]]}{more}, in stage "
            f"{ledger.seen.stage(ledger.digests[rows[0]])}; start from a stage that held them out, or say {override} "
            "and have every metric marked X"
        )


def complete(found: dict, context) -> dict:
    """The metrics of an evaluation with `marks/PREFIX` for every prefix that ends in the name of scored rows, where the
    evaluator has not said one itself; and with T too where one ends in what the protocol scores jointly."""
    prefixes, joint = {}, {}
    jointly = context.roles.scoring.jointly
    for name in found:
        parts = name.split("/")
        for where in context.roles.scored:
            if where in parts and parts[0] != "marks":
                prefix = "/".join(parts[: parts.index(where) + 1])
                prefixes[prefix] = where
                joint |= {"/".join(parts[: parts.index(part) + 1]): prefix for part in jointly if part in parts}
    found = {f"marks/{prefix}": context.marks(where) for prefix, where in prefixes.items()} | found
    return {f"marks/{name}": join(found[f"marks/{prefix}"], "T") for name, prefix in joint.items()} | found
