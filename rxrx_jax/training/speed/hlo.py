"""What a compiled program sends between devices, read from its text (`compiled.as_text()`)."""

import re

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][a-z0-9-]*)\((.*)$")
CALLED = re.compile(r"(?:calls|to_apply|body|condition|branch_computations|called_computations)=\{?((?:%[\w.-]+,? ?)+)")


def collectives(text: str) -> dict[str, dict[str, int]]:
    """{kind: {"count", "bytes"}} of one run of the program on one device, by KINDS, without those that do not occur.

    What is in a loop counts as often as the loop runs, where the text says how often; bytes are of the whole array that
    is gathered, summed or sent. TPU programs write one collective that overlaps with computation in several places,
    which share a channel, and a reduce-scatter as an all-reduce in a computation of that name. What TPU slices
    send each other `between_slices` counts.
    """
    return _count(text, _collective)


def between_slices(text: str) -> dict[str, dict[str, int]]:
    """The same of what TPU slices send each other over the network of their hosts: the program hands it to a runtime
    (megascale) by a send, whose attributes name the collective. Bytes are those that one device hands over."""
    return _count(text, _sent_to_slices)


def _collective(name: str, operation: str, rest: str, given: list[int], made: int) -> tuple[str, int] | None:
    kind = operation.removesuffix("-start")
    if kind not in KINDS:
        return None
    if operation.endswith("-start") and kind != "all-reduce":
        made -= sum(given)  # the result names the operands again
    if name.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"
    return kind, max(made, sum(given))


def _sent_to_slices(name: str, operation: str, rest: str, given: list[int], made: int) -> tuple[str, int] | None:
    if operation != "send" or "megascale" not in rest:
        return None
    kind = re.search(r'_xla_megascale_transfer_type="(\w+)"', rest)
    return kind[1].lower().replace("_", "-") if kind else "other", max(given)


def _count(text: str, look) -> dict[str, dict[str, int]]:
    """Totals of the instructions for which look(computation, operation, rest of the line, bytes of operands, bytes of
    the result) is a (kind, bytes)."""
    computations, entry = _computations(text)
    found = {}

    def walk(name: str, times: int) -> None:
        sizes = {n: _bytes(shape) for n, shape, *_ in computations[name]}
        for instruction, _, operation, rest in computations[name]:
            given = [sizes.get(n, 0) for n in re.findall(r"%([\w.-]+)", rest.partition("), ")[0])]
            if seen := look(name, operation, rest, given, sizes[instruction]):
                channel = re.search(r"channel_id=(\d+)", rest)
                key = seen[0], channel[1] if channel else instruction
                found[key] = max(found.get(key, (0, 0)), (times, seen[1]))
            inside = times * _trips(rest, computations) if operation == "while" else times
            for called in CALLED.findall(rest):
                for other in re.findall(r"%([\w.-]+)", called):
                    walk(other, inside)

    walk(entry, 1)
    totals = {}
    for (kind, _), (times, size) in sorted(found.items()):
        total = totals.setdefault(kind, {"count": 0, "bytes": 0})
        total["count"] += times
        total["bytes"] += times * size
    return totals


def _computations(text: str):
    """({computation: [(instruction, shape, operation, rest of the line)]}, the name of the first one to run)."""
    computations, current, entry = {}, [], None
    for line in text.splitlines():
        if head := re.match(r"^(ENTRY )?%?([\w.-]+) \(.*\{$", line):
            current = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif instruction := INSTRUCTION.match(line):
            current.append(instruction.groups())
    return computations, entry


def _trips(loop: str, computations) -> int:
    """How often a loop runs: as the compiler says, else until its counter, from 0, is the only number that its
    condition compares it with, else 1."""
    if known := re.search(r'known_trip_count":\{"n":"(\d+)"', loop):
        return int(known[1])
    condition = computations[re.search(r"condition=%([\w.-]+)", loop)[1]]
    numbers = [re.match(r"\d+", rest) for _, _, operation, rest in condition if operation == "constant"]
    if len(numbers) != 1 or not numbers[0]:
        return 1
    step = _step(condition, computations.get(re.search(r"body=%([\w.-]+)", loop)[1], []))
    return -(-int(numbers[0][0]) // step)


def _step(condition: list, body: list) -> int:
    """By how much a loop's body adds to its counter, which its condition takes out of the state; 1 where that is not
    seen. Products that send their operand round (collective matrix products) do two rounds at a time."""
    place = [index[1] for *_, rest in condition if (index := re.search(r"index=(\d+)", rest))]
    state = [rest for _, _, operation, rest in body if operation == "tuple"]
    if len(place) != 1 or not state:
        return 1
    named = lambda rest: re.findall(r"%([\w.-]+)", rest.partition(")")[0])  # noqa: E731
    made = {name: (operation, rest) for name, _, operation, rest in body}
    after = named(state[-1])[int(place[0]) :]
    operation, rest = made.get(after[0], ("", "")) if after else ("", "")
    given = [made.get(name, ("", "")) for name in named(rest)] if operation == "add" else []
    steps = [int(number[0]) for kind, of in given if kind == "constant" and (number := re.match(r"\d+", of))]
    return steps[0] if len(steps) == 1 and steps[0] > 0 else 1


def _bytes(shape: str) -> int:
    """Of an array or a tuple of them, "(f32[2,3]{1,0}, bf16[])"."""
    total = 0
    for dtype, dimensions in re.findall(r"(\w+)\[([\d,]*)\]", shape):
        size = int(bits[0]) / 8 if (bits := re.findall(r"\d+", dtype)) else 1  # pred and token have no digits
        for n in filter(None, dimensions.split(",")):
            size *= int(n)
        total += size
    return int(total)
