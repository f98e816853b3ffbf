"""TPU slices or GPU nodes of a Kubernetes cluster on Google Cloud (GKE), as a JobSet:

python -m launch.gke --image=REGISTRY/rxrx_jax --tpu=tpu-v5-lite-podslice --topology=16x16 --chips-per-host=4 \\
    --workdir=gs://BUCKET/RUN -- --config=mae_vit.py:rxrx3,variant=L/8
python -m launch.gke --image=REGISTRY/rxrx_jax --gpu=nvidia-h200-141gb --hosts=8 --gpus-per-host=8 ...

Builds the image of a commit, applies the manifest, follows the first host's log, and deletes the JobSet in the end.
Kubernetes restarts what was lost or preempted.
"""

import argparse
import contextlib
import math
import shlex
import sys

from launch import common
from rxrx_jax.base import command
from rxrx_jax.base.errors import UserError, missing_extra

PORT = 8476
DATA = "/mnt/data"  # where a bucket of datasets is mounted


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m launch.gke", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image", required=True, help="without a tag, which is the commit")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--tpu", help="value of the nodes' label cloud.google.com/gke-tpu-accelerator")
    kind.add_argument("--gpu", help="value of the nodes' label cloud.google.com/gke-accelerator")
    parser.add_argument("--topology", help="of the TPU slice: 16x16")
    parser.add_argument("--slices", type=int, default=1, help="TPU slices of that topology")
    parser.add_argument("--chips-per-host", type=int, default=4, help="TPUs per node")
    parser.add_argument("--hosts", type=int, default=1, help="GPU nodes")
    parser.add_argument("--gpus-per-host", type=int, default=8)
    parser.add_argument("--spot", action="store_true", help="nodes that are cheaper and may be preempted")
    parser.add_argument("--data", metavar="BUCKET", help=f"with prepared datasets, to be mounted at {DATA}")
    parser.add_argument("--service-account", default="default", help="of Kubernetes, that may write to the bucket")
    parser.add_argument("--name", help="of the JobSet; default from the workdir")
    parser.add_argument("--restarts", type=int, default=20, help="how often a lost or preempted run is started again")
    parser.add_argument("--keep", action="store_true", help="do not delete the JobSet in the end")
    common.add_commit(parser)
    options, trainer = common.parse(parser, argv)
    if options.tpu and not options.topology:
        raise UserError(f"--tpu={options.tpu}: pass the slice's --topology too, as in --topology=16x16")
    if options.slices < 1 or options.slices > 1 and not options.tpu:
        raise UserError(f"--slices={options.slices}: expected 1 or more, of TPUs")
    plan = steps(options, trainer)
    if options.dry_run:
        common.show(plan.values())
        return 0
    signals = common.catch_signals()
    try:
        for name in ("build", "push", "apply"):
            common.must(plan[name], signals)
        return common.run(plan["follow"], signals)
    finally:
        if not options.keep:
            with contextlib.suppress(common.Stopped):
                common.run(plan["delete"], signals)


def steps(options: argparse.Namespace, trainer: list[str]) -> dict[str, common.Step]:
    """Everything that is run, in order."""
    commit = common.resolve_commit(options.commit)
    name = options.name or common.name_of(options.workdir)
    platform = "tpu" if options.tpu else "gpu"
    image = f"{options.image}:{platform}-{commit}"
    try:
        import yaml
    except ModuleNotFoundError:
        raise missing_extra("PyYAML", "launch") from None
    text = yaml.safe_dump(manifest(options, trainer, name, image), sort_keys=False, width=200)
    first = f"jobset.sigs.k8s.io/jobset-name={name},batch.kubernetes.io/job-completion-index=0"
    if options.slices > 1:
        first += ",jobset.sigs.k8s.io/job-index=0"
    return {
        "build": common.Step(
            f"build the image of commit {commit[:12]}",
            f"git archive {commit} | docker build --file=launch/Dockerfile --build-arg=PLATFORM={platform}"
            f" --tag={shlex.quote(image)} -",
        ),
        "push": common.Step("push it", f"docker push {shlex.quote(image)}"),
        "apply": common.Step("start the run", f"kubectl apply -f - {common.heredoc(text)}"),
        "follow": common.Step(
            "follow the first host's log, also of restarts, until the run has ended",
            "seen=\n"
            f"until state=$(kubectl get jobset {name} --output='jsonpath={{.status.terminalState}}') && "
            '[ -n "$state" ]; do\n'
            f"  pod=$(kubectl get pods --selector={first} --sort-by=.metadata.creationTimestamp"
            " --output=jsonpath='{.items[-1:].metadata.name}' 2> /dev/null)\n"
            '  if [ -n "$pod" ] && [ "$pod" != "$seen" ] && kubectl logs --follow "pod/$pod"; then seen=$pod; fi\n'
            "  sleep 5\n"
            "done\n"
            '[ "$state" = Completed ] && exit 0\n'
            f"reason=$(kubectl get jobset {name}"
            " --output=jsonpath='{.status.conditions[?(@.type==\"Failed\")].reason}')\n"
            'echo "the JobSet failed: $reason" >&2\n'
            f'[ "$reason" = ReachedMaxRestarts ] && exit {common.AGAIN}\n'
            f"exit {common.FIX}",
        ),
        "delete": common.Step(
            "in the end and on Ctrl-C: delete the JobSet; its pods get SIGTERM and time for a checkpoint",
            f"kubectl delete jobset {name} --ignore-not-found --cascade=foreground",
        ),
    }


def manifest(options: argparse.Namespace, trainer: list[str], name: str, image: str) -> dict:
    """The JobSet (jobset.x-k8s.io/v1alpha2): one job per slice or for all GPUs, one pod and process per host."""
    if options.tpu:
        chips = math.prod(int(n) for n in options.topology.split("x"))
        hosts = max(1, chips // options.chips_per_host)
        resource, count = "google.com/tpu", options.chips_per_host
        nodes = {
            "cloud.google.com/gke-tpu-accelerator": options.tpu,
            "cloud.google.com/gke-tpu-topology": options.topology,
        }
        arguments = common.on_slices(trainer)  # GKE tells the hosts of a slice about each other
        environment = [{"name": "JAX_COORDINATOR_PORT", "value": str(PORT)}]
        # All hosts on one slice, and no other run on it.
        annotations = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    else:
        hosts, resource, count = options.hosts, "nvidia.com/gpu", options.gpus_per_host
        annotations = {}
        nodes = {"cloud.google.com/gke-accelerator": options.gpu}
        arguments = trainer
        index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
        environment = [
            {"name": "JAX_COORDINATOR_ADDRESS", "value": f"{name}-hosts-0-0.{name}:{PORT}"},
            {"name": "JAX_NUM_PROCESSES", "value": str(hosts)},
            {"name": "JAX_PROCESS_ID", "valueFrom": {"fieldRef": {"fieldPath": index}}},
        ]
    if options.spot:
        nodes["cloud.google.com/gke-spot"] = "true"
    container = {
        "name": "trainer",
        "image": image,
        "args": arguments,
        "env": environment + [{"name": k, "value": v} for k, v in common.environment().items()],
        "ports": [{"containerPort": PORT}],
        "resources": {"limits": {resource: count}},
        # The loaders hand minibatches over in shared memory, of which containers have 64 MB.
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
    }
    pod = {
        "restartPolicy": "Never",
        "serviceAccountName": options.service_account,
        "nodeSelector": nodes,
        # For a checkpoint after SIGTERM. Spot nodes grant at most 25 s of it.
        "terminationGracePeriodSeconds": 90,
        "tolerations": [{"key": resource, "operator": "Exists", "effect": "NoSchedule"}],
        "containers": [container],
        "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}],
    }
    if options.slices > 1:  # GKE tells them of each other; what they send goes through the hosts' own network
        pod |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    metadata = {}
    if options.data:  # by GKE's own driver, which must be enabled in the cluster
        attributes = {"bucketName": options.data, "mountOptions": "implicit-dirs"}
        driver = {"driver": "gcsfuse.csi.storage.gke.io", "readOnly": True, "volumeAttributes": attributes}
        metadata["annotations"] = {"gke-gcsfuse/volumes": "true"}
        container["volumeMounts"].append({"name": "data", "mountPath": DATA, "readOnly": True})
        pod["volumes"].append({"name": "data", "csi": driver})
    # 1 (a crash) and 2 (the user must fix something) would recur; anything else (75, 85, signals) fails the job
    # too, but restarts the whole JobSet.
    wrong = {"containerName": "trainer", "operator": "In", "values": [1, common.FIX]}
    job = {
        "completions": hosts,
        "parallelism": hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": wrong}]},
        "template": ({"metadata": metadata} if metadata else {}) | {"spec": pod},
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {
            "failurePolicy": {
                "maxRestarts": options.restarts,
                "rules": [{"name": "wrong", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
            },
            "replicatedJobs": [{"name": "hosts", "replicas": options.slices, "template": {"spec": job}}],
        },
    }


if __name__ == "__main__":
    sys.exit(command.run(main))
