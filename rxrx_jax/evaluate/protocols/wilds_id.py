"""WILDS RxRx1, in-distribution: trained as in `wilds_ood` and scored on site 2 of the training wells (`id_test`) and on
the validation experiments alone. It leaves the 14 test experiments untouched while a method is developed."""

from rxrx_jax.data import Roles
from rxrx_jax.evaluate.protocols import Protocol, wilds_ood


def protocol(dataset) -> Protocol:
    whole = wilds_ood.protocol(dataset)
    scored = {role: whole.roles.scored[role] for role in ("in_batch", "validation")}
    counts = {role: whole.counts[role] for role in ("fit", *scored)}
    published = {name: whole.published[name] for name in (f"{role}/site_accuracy" for role in scored)}
    return Protocol(Roles(whole.roles.fit, scored), counts, whole.classes, published)
