"""Runs whose workdirs are in an object store, emulated here, for test_gcs.py:

python tests/tools/checkpoint/gcs_run.py DATA OUT

prints a JSON object of what there is then.
"""

import json
import os
import pathlib
import socket
import sys

from etils import epath

sys.path.append(str(pathlib.Path(__file__).parents[1]))
import tiny  # noqa: E402

BUCKET = "gs://bucket"


def serve():
    """An emulated object store, for tensorstore, gcsfs and Google's own client."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    address = f"http://localhost:{port}"
    os.environ |= {"STORAGE_EMULATOR_HOST": address, "TENSORSTORE_GCS_HTTP_URL": address}
    os.environ |= {"GOOGLE_AUTH_TOKEN_FOR_TESTING": "token", "GOOGLE_CLOUD_PROJECT": "project"}
    from gcp_storage_emulator.server import create_server

    server = create_server("localhost", port, in_memory=True, default_bucket="bucket")
    server.start()
    return server


def main(data_folder: str, out: pathlib.Path) -> None:
    from launch import common
    from rxrx_jax import data, embed
    from rxrx_jax.base import embeddings
    from rxrx_jax.base.sharding import parameters_sha256
    from rxrx_jax.training import checkpoint, metrics, train
    from rxrx_jax.weights import export

    run = epath.Path(f"{BUCKET}/run")
    values = tiny.values("mae_vit.py", data_folder, checkpoint_steps=1, total_steps=3, profile_steps=(1, 2))
    values["evaluators"]["embeddings"] = {}
    found = {"here": train.run(values, out / "here")["parameters_sha256"]}
    found["there"] = train.run(values, run)["parameters_sha256"]
    found["files"] = sorted(path.name for path in run.iterdir())
    found["checkpoints"] = sorted(path.name for path in (run / "checkpoints").iterdir())
    found["profile"] = any(name.endswith(".xplane.pb") for _, _, names in (run / "profile").walk() for name in names)
    lines = metrics.read(run / metrics.NAME)
    found["steps"] = [line["step"] for line in lines]

    # As a process leaves it that is killed after the save of step 2, while it saves step 3.
    (run / "checkpoints" / "3" / "commit_success.txt").unlink()
    (run / metrics.NAME).write_text("".join(json.dumps(line) + "\n" for line in lines if "done" not in line))
    found["newest"] = checkpoint.find_checkpoint(str(run)).name
    found["again"] = train.run(values, run)["parameters_sha256"]
    found["steps again"] = [line["step"] for line in metrics.read(run / metrics.NAME)]
    found["finished"] = train.run(values, run)["parameters_sha256"]

    probe = tiny.values("linear_probe.py", data_folder, **{"init.path": str(run), "total_steps": 3})
    found["probe"] = train.run(probe, f"{BUCKET}/probe")["done"]
    model = embed.open_model(str(run), 6)
    found["embedded"] = parameters_sha256(checkpoint.stored_parameters(str(run))) == found["there"]
    found["normalisation"] = model.normalisation
    dataset = data.open_dataset("rxrx_sim", values["data"]["builder"], data_folder)
    for place in (f"{BUCKET}/plates", out / "plates"):
        embed.embed_dataset(model, dataset, place, minibatch=16, by_plates=True)
    there, here = (embeddings.read(place)[1] for place in (f"{BUCKET}/plates", out / "plates"))
    found["plates"] = there.tolist() == here.tolist() and common.finished(f"{BUCKET}/plates")
    export.export(str(run), out / "exported")
    found["exported"] = json.loads((out / "exported" / "config.json").read_text())["parameters_sha256"]
    found["embeddings"] = embeddings.read(run)[1].tolist() == embeddings.read(out / "here")[1].tolist()
    print(json.dumps(found))


if __name__ == "__main__":
    server = serve()
    try:
        main(sys.argv[1], pathlib.Path(sys.argv[2]))
    finally:
        server.stop()
