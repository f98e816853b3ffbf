"""Weights of others and of ours, checkpoints of a run, and a run's own small files."""

import hashlib
import json
import os
import pathlib
import struct
import zipfile

import jax
import numpy as np
import pyarrow as pa
import safetensors.numpy
from checkpoint_tools import make_state, save, shapes_of
from paths import ROOT
from trials import Damage, Found, Target, Wrong, if_checked, same_or_lost
from weights_tools import make_run

from rxrx_jax import weights
from rxrx_jax.base import embeddings, seen
from rxrx_jax.base.errors import UserError
from rxrx_jax.base.sharding import named_leaves
from rxrx_jax.training import metrics
from rxrx_jax.training.checkpoint import Checkpoints, published_part, read_config, stored_parameters
from rxrx_jax.weights import export

STORED = ROOT / "tests" / "reference" / "stored"
STATES = {}  # step -> its digest


def _tree(params) -> dict:
    return {name: (x.shape, str(x.dtype), np.asarray(x).tobytes()) for name, x in named_leaves(params).items()}


def _load(path: pathlib.Path) -> Found:
    found = weights.load(path)
    return Found(_tree(found.params) | {"encoder": ((), repr(found.encoder), b"")})


def never_lost(judge):
    """All of it or nothing: weights are not set aside one by one."""

    def all_or_nothing(expected: Found, found: Found, damage: Damage, folder: pathlib.Path) -> str:
        if len(found.items) < len(expected.items):
            raise Wrong(f"silent loss: {sorted(map(str, expected.items.keys() - found.items.keys()))[:3]}")
        return judge(expected, found, damage, folder)

    return all_or_nothing


def repair_safetensors(_: pathlib.Path, path: pathlib.Path) -> None:
    """The length of the header, up to its last bracket."""
    data = path.read_bytes()
    end = data.find(b"}}") + 2
    if len(data) > 8 and end > 8:
        path.write_bytes(struct.pack("<Q", end - 8) + data[8:])


def repair_zip(_: pathlib.Path, path: pathlib.Path) -> None:
    """Writes the entries again, with their checksums, as far as they can be found."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [(one.filename, one.header_offset, one.file_size) for one in archive.infolist()]
        data = path.read_bytes()
        with zipfile.ZipFile(path, "w") as archive:
            for name, offset, size in entries:
                start = offset + 30 + sum(struct.unpack("<HH", data[offset + 26 : offset + 30]))
                archive.writestr(name, data[start : start + min(size, 2**20)])
    except (OSError, ValueError, zipfile.BadZipFile, struct.error, LookupError, RuntimeError):
        pass


def file(name: str, content: bytes, by, repair=None, suffix="") -> Target:
    return Target(
        name=name,
        make=lambda folder: (folder / f"model{suffix}").write_bytes(content) and None,
        read=lambda folder: _load(folder / f"model{suffix}"),
        judge=never_lost(if_checked(by, lambda value: value[:2])),
        repair=repair,
    )


def torch_archive(tensors: dict[str, np.ndarray]) -> bytes:
    """An archive of torch.save, by PyTorch's own layout, without PyTorch."""
    import io

    from test_weights_read import program, tensor

    content = io.BytesIO()
    items, storages = {}, {}
    for key, (name, value) in enumerate(tensors.items()):
        value = np.ascontiguousarray(value, np.float32)
        steps = [int(step) // 4 for step in value.strides]
        items[name] = tensor(list(value.shape), steps, key=str(key), count=value.size)
        storages[str(key)] = value.tobytes()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("archive/data.pkl", program(**items))
        archive.writestr("archive/byteorder", "little")
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
    return content.getvalue()


def write_export(folder: pathlib.Path) -> None:
    run = folder.parent / "run"
    make_run(run, folder.parent / "data")
    folder.rmdir()
    export.export(str(run), folder)


def _digest(state) -> str:
    leaves = jax.tree.leaves(state)
    return hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in leaves)).hexdigest()


def write_checkpoints(folder: pathlib.Path) -> None:
    save(folder, 7, 8, keep=2)
    STATES.update({step: _digest(make_state(step, seed=step)) for step in (7, 8)})


def _restore(folder: pathlib.Path) -> Found:
    with Checkpoints(folder / "checkpoints", 2) as checkpoints:
        found = checkpoints.restore(shapes_of(make_state(0)))
    if found is None:
        return Found({})
    state, _ = found
    return Found({int(state.step): _digest(state)}, lost=sum("damaged-" in path.name for path in folder.iterdir()))


def _judge_restored(expected: Found, found: Found, damage: Damage, folder: pathlib.Path) -> str:
    if not found.items:
        raise Wrong("silent loss: starts from scratch")
    ((step, digest),) = found.items.items()
    if STATES.get(step) != digest:
        raise Wrong(f"wrong state of step {step}")
    if step != 8 and not found.lost and os.path.lexists(folder / "checkpoints" / "8"):
        raise Wrong("silent loss: the newest is passed over")
    return "same" if step == 8 else "fewer"


def write_run(folder: pathlib.Path) -> None:
    make_run(folder, folder.parent / "data", unknown=("other.pt",))
    columns = {"site_id": [f"A_1_B02_{i}" for i in range(9)], "pixels": list(range(9)), "labels": ["erm"] * 9}
    columns |= {"images": [True] * 9, "controls": [False] * 9}
    seen.write(folder / seen.NAME, seen.Seen(pa.table(columns, seen.FORM), ("other.pt",)))


def _run_parameters(folder: pathlib.Path) -> Found:
    return Found(_tree(stored_parameters(folder, published_part(folder))))


def _workdir(folder: pathlib.Path) -> Found:
    """Config and metrics; each is read or refused alone."""
    found = Found({})
    path = folder / metrics.NAME
    for name, read in {
        "config": lambda: json.dumps(read_config(folder), sort_keys=True),
        "lines": lambda: list(map(json.dumps, metrics.read(path))),
        "finished": lambda: metrics.finished(path) is not None,
        "best": lambda: metrics.best(path) is not None,
        "seen": lambda: seen.read(folder / seen.NAME),
    }.items():
        try:
            found.items[name] = read()
        except UserError as error:
            assert len(str(error).splitlines()) == 1 and len(str(error)) < 4000, error
            found.lost += 1
    return found


def _judge_workdir(expected: Found, found: Found, damage: Damage, folder: pathlib.Path) -> str:
    """Every line of metrics.jsonl is what the file says, but for a last one that is half-written."""
    path = folder / metrics.NAME
    if "lines" in found.items and path.is_file():
        there = path.read_bytes().splitlines()
        if len(there) - len(found.items["lines"]) > 1:
            raise Wrong(f"silent loss: {len(found.items['lines'])} of {len(there)} lines")
        for line, read in zip(there, found.items["lines"]):
            if line.decode() in expected.items["lines"] and json.loads(line) != json.loads(read):
                raise Wrong(f"wrong line {read}")
    if found.items.get("seen", 0) not in (0, None) and found.items["seen"] != expected.items["seen"]:
        raise Wrong("wrong record of what was seen")
    return "same" if found.items == expected.items else "fewer" if found.lost else "changed"


def write_embeddings(folder: pathlib.Path) -> None:
    values = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    columns = {"site_id": [f"A_1_B{i:02d}_1" for i in range(20)], "experiment": ["A"] * 20, "plate": [1] * 20}
    columns = {key: np.array(value, object if key != "plate" else np.int32) for key, value in columns.items()}
    embeddings.write(folder / embeddings.NAME, columns, values)


def _embeddings(folder: pathlib.Path) -> Found:
    columns, values = embeddings.read(folder)
    assert all(len(column) == len(values) for column in columns.values())
    names = columns.get("site_id", np.arange(len(values)))
    rest = sorted(columns.keys() - {"site_id"})
    return Found({(str(n), i): (str([columns[k][i] for k in rest]), values[i].tobytes()) for i, n in enumerate(names)})


never = lambda damage: False  # noqa: E731
whole = lambda damage: not damage.repaired  # noqa: E731
TIMM = (STORED / "weights" / "weights_timm.safetensors").read_bytes()
TARGETS = [
    file("timm safetensors", TIMM, never, repair_safetensors, ".safetensors"),
    file("timm archive", torch_archive(safetensors.numpy.load(TIMM)), whole, repair_zip, ".pt"),
    file("OpenPhenom archive", (STORED / "weights" / "weights_openphenom.bin").read_bytes(), whole, repair_zip, ".bin"),
    Target("exported run", write_export, _load, never_lost(same_or_lost), ("model.safetensors", "config.json")),
    Target("checkpoints", write_checkpoints, _restore, _judge_restored, ("checkpoints/*/**/*",)),
    Target("parameters of a run", write_run, _run_parameters, never_lost(same_or_lost), ("checkpoints/*/**/*",)),
    Target("workdir", write_run, _workdir, _judge_workdir, ("*.json*", "*.parquet")),
    Target("embeddings", write_embeddings, _embeddings, never_lost(same_or_lost)),
]
