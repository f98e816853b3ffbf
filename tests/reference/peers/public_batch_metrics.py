"""What scib-metrics 0.5 and copairs 0.5 make of small screens (the .npz beside this): called, as their users call them.

python -m venv ENV && ENV/bin/pip install scib-metrics==0.5.10 copairs==0.5.5
cd tests && ENV/bin/python -m reference.peers.public_batch_metrics
"""

import pathlib

import numpy as np

PATH = pathlib.Path(__file__).with_suffix(".npz")
NEIGHBOURS, KBET_NEIGHBOURS, COMPONENTS = 90, 50, 50
SCREENS = {"shifted": 0.9, "alike": 0.0}  # by how much experiments differ


def screen(shift: float):
    """(x [n, 60], perturbation, experiment, plate, untreated), each [n]: three experiments of two plates, each with up
    to 12 untreated wells, and the perturbations 1 to 8, each by up to 12 wells on the first plate or the second."""
    random = np.random.default_rng(7)
    rows = [(e, p, 0) for e in range(3) for p in range(2) for _ in range(12)]
    rows += [(e, t % 2, t) for e in range(3) for t in range(1, 9) for _ in range(12)]
    experiment, plate, perturbation = np.array(rows)[random.random(len(rows)) < 0.8].T
    x = random.normal(size=(len(plate), 60)) * np.linspace(1.5, 0.5, 60)
    x += 0.4 * random.normal(size=(9, 60))[perturbation] + shift * random.normal(size=(3, 60))[experiment]
    return x, perturbation, experiment, 2 * experiment + plate, perturbation == 0


def of_scib(x, perturbation, experiment):
    from scib_metrics import metrics, utils
    from scib_metrics.nearest_neighbors import NeighborsResults
    from sklearn.neighbors import NearestNeighbors

    def near(x, k):
        distances, indices = NearestNeighbors(n_neighbors=k).fit(x).kneighbors(x)
        return NeighborsResults(indices=indices, distances=distances)

    found = {
        "silhouette_label": metrics.silhouette_label(x, perturbation),
        "silhouette_batch": metrics.silhouette_batch(x, perturbation, experiment),
        "lisi": metrics.lisi_knn(near(x, NEIGHBOURS), experiment),
        "ilisi": metrics.ilisi_knn(near(x, NEIGHBOURS), experiment),
        "clisi": metrics.clisi_knn(near(x, NEIGHBOURS), perturbation),
        "kbet": metrics.kbet(near(x, KBET_NEIGHBOURS), experiment)[0],
        "pcr": utils.principal_component_regression(x, experiment, categorical=True, n_components=COMPONENTS),
    }
    return {name: np.asarray(value, float) for name, value in found.items()}


def of_copairs(x, perturbation, experiment, plate, untreated):
    import pandas as pd
    from copairs import map as scores

    about = {"perturbation": perturbation, "experiment": experiment, "plate": plate, "untreated": untreated}
    pairs = ["perturbation"], ["experiment"], ["plate"], ["untreated"]
    ap = scores.average_precision(pd.DataFrame(about), x, *pairs, progress_bar=False)
    found = {"ap": ap.average_precision, "positives": ap.n_pos_pairs, "ranked": ap.n_total_pairs}
    found["normalised"] = ap.normalized_average_precision
    found = {name: column.to_numpy(float)[~untreated] for name, column in found.items()}
    by_group = scores.mean_average_precision(ap[~untreated], ["perturbation"], 100, 0.05, 0, progress_bar=False)
    found["mean_average_precision"] = by_group.mean_average_precision.to_numpy(float)
    found["mean_average_precision_normalised"] = by_group.mean_normalized_average_precision.to_numpy(float)
    return found


def all_of() -> dict[str, np.ndarray]:
    found = {}
    for name, shift in SCREENS.items():
        x, perturbation, experiment, plate, untreated = screen(shift)
        values = of_scib(x, perturbation, experiment) | of_copairs(x, perturbation, experiment, plate, untreated)
        found |= {f"{name}/{key}": value for key, value in values.items()}
    return found


if __name__ == "__main__":
    np.savez_compressed(PATH, **all_of())
