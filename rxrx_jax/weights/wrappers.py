"""What training programs put around an encoder's tensors: a dict in a dict, a prefix, a teacher beside a student, and
what only pretraining needs. Each is taken off, and what was chosen or left out is a note."""

import numpy as np

from rxrx_jax.base.errors import UserError, shortened

# Where several dicts of tensors, or several encoders, lie side by side: what their authors evaluate with comes first.
PREFERRED = ("teacher", "model_ema", "state_dict_ema", "state_dict", "model", "model_state_dict")
# Names beside an encoder's that belong to none; those of the decoder of a masked autoencoder all begin alike.
PRETRAINING = ("mask_token", "decoder", "dino_head.", "ibot_head.", "projector.", "projection_head.", "predictor.")
MAX_WORDS = 8  # of a prefix
# Parts of an encoder: outside of its prefix they are not another network.
OF_ENCODERS = ("patch_embed", "pos_embed", "cls_token", "norm", "norm_pre", "fc_norm", "reg_token", "dist_token")


def inner(path, saved, part: str = "") -> tuple[dict[str, np.ndarray], list[str], str]:
    """The dict of tensors that was saved, or the one inside a training program's dict.

    Args: path, for messages; saved, what the file holds; part, the key of the dict to take, "" where the user named
    none. Returns (tensors by name, notes, "" if `part` was used).
    """
    if not isinstance(saved, dict):
        raise UserError(f"{path} holds a {type(saved).__name__} and not tensors by name; save a state_dict")
    notes = []
    if inside := [key for key, value in saved.items() if _of_tensors(value)]:
        if part:
            if part not in inside:
                raise UserError(f"{path} has no part {part!r}; it has {_listed(inside)}")
            key, part = part, ""
        else:
            key = _choose(path, inside)
            others = [other for other in inside if other != key]
            notes = [f"{_listed([key])} is used, not {_listed(others)}"] if others else []
        saved = saved[key]
    elif not any(isinstance(value, np.ndarray) for value in saved.values()):
        raise UserError(f"{path} holds no tensors by name; its keys are {_listed(list(saved))}")
    for name, value in saved.items():
        if not isinstance(value, np.ndarray) or not isinstance(name, str):
            raise UserError(f"{path}: {shortened(name)!r} is not a tensor; save a state_dict")
    return saved, notes, part


def encoder(path, tensors: dict[str, np.ndarray], mark: str, part: str = "") -> tuple[dict[str, np.ndarray], list[str]]:
    """The tensors of one network without the prefix that all of them share, found by the tensor `mark` that it has.

    Args: part, a word of the prefix ("student") where there are several networks. Returns (tensors, notes): {} if
    no tensor is called so.
    """
    prefixes = [name.removesuffix(mark) for name in tensors if name.endswith(mark)]
    prefixes = list(filter(_is_encoders, prefixes))
    if not prefixes:
        return {}, []
    if part and not (prefixes := [prefix for prefix in prefixes if part in prefix.split(".")]):
        raise UserError(f"{path} has no part {part!r}; leave it out, or name a word that stands before its tensors")
    shared = set.intersection(*(set(prefix.split(".")) for prefix in prefixes))
    words = {_own_word(prefix, shared): prefix for prefix in prefixes}
    words = words if len(words) == len(prefixes) else {prefix: prefix for prefix in prefixes}
    prefix = words[_choose(path, list(words))]
    notes = [f"{_listed([prefix])} is used, not {_listed(sorted(set(prefixes) - {prefix}))}"] if prefixes[1:] else []
    outside = sorted(name for name in tensors if not name.startswith(prefix))
    if lost := [name for name in outside if _may_belong(name, prefix)]:
        raise UserError(f"{path} has {_listed(lost)} outside of {shortened(prefix)!r}, where the encoder is")
    if outside:
        first = sorted({".".join(name.split(".")[:-1][:2]) or name for name in outside})
        notes.append(f"left out, outside of {shortened(prefix)!r}: {_listed(first)}")
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}, notes


def drop_pretraining(tensors: dict[str, np.ndarray], *more: str) -> list[str]:
    """Removes what only pretraining needs, and what begins with one of `more`; returns a note if there was any."""
    if not (names := [name for name in tensors if name.startswith((*PRETRAINING, *more))]):
        return []
    for name in names:
        del tensors[name]
    first = sorted({name.split(".")[0] for name in names})
    return [f"{len(names)} tensors that only pretraining needs are left out: {_listed(first)}"]


def _of_tensors(value) -> bool:
    return isinstance(value, dict) and any(isinstance(tensor, np.ndarray) for tensor in value.values())


def _is_encoders(prefix: str) -> bool:
    """Whether a prefix is of a few words, ends at a dot and is not that of a decoder or predictor."""
    others = ("decoder", "predictor", "dino_head", "ibot_head")
    if prefix.count(".") > MAX_WORDS or not prefix.endswith("."):
        return not prefix
    return not any(word.startswith(others) for word in prefix.split("."))


def _may_belong(name: str, prefix: str) -> bool:
    """Whether a tensor outside of an encoder's prefix stands on the way to it under a name that encoders have."""
    words = prefix.split(".")[:-1]
    above = ("".join(f"{word}." for word in words[:n]) for n in range(len(words)))
    return any(name.startswith(a) and name.removeprefix(a).split(".")[0] in OF_ENCODERS for a in above)


def _own_word(prefix: str, shared: set[str]) -> str:
    """The first word of a prefix that not all prefixes have."""
    return next((word for word in prefix.split(".") if word not in shared), prefix)


def _choose(path, names: list):
    if len(names) == 1:
        return names[0]
    for name in (*PREFERRED, ""):
        if name in names:
            return name
    raise UserError(
        f"{path} holds several sets of tensors, {_listed(names)}; name one: --parameters=NAME or "
        "--config.init.parameters=NAME"
    )


def _listed(names: list, most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(shortened(name)) for name in names[:most]) + more
