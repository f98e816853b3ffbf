"""Results as Markdown, for reading: benchmark.md, and what a query prints."""

import math
from typing import NamedTuple

from rxrx_jax.base.errors import UserError

SHOWN = 20  # clusters; benchmark.json has all


def cell(value) -> str:
    """A value as a cell of a table: three decimals, small ones with their exponent; empty for NaN and None."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return f"{value:.2g}" if 0 < abs(value) < 5e-4 else f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|").replace("\n", " ")


def table(rows: list[dict], columns: dict[str, str]) -> list[str]:
    """Lines of a table. Args: columns, heading -> key of the rows."""
    lines = [f"| {' | '.join(columns)} |", f"| {' | '.join('---' for _ in columns)} |"]
    return lines + [f"| {' | '.join(cell(row.get(key)) for key in columns.values())} |" for row in rows]


class Section(NamedTuple):
    """A table of results: title; rows; columns, heading -> key of the rows; a sentence above and one below it."""

    title: str
    rows: list[dict]
    columns: dict[str, str]
    above: str = ""
    below: str = ""


def summary(result: dict) -> str:
    """What a result of `run.run` is of."""
    return (f"{result['genes']:,} genes of {result['guides']:,} rows, {result['compound_rows']:,} rows of compounds. "
            f"Marks: {result['marks'] or 'none'}.")  # fmt: skip


def sections(result: dict) -> list[Section]:
    """The tables of a result of `run.run`, or of its JSON. Raises UserError for recall of two nulls."""
    made = []
    if rows := result.get("recall"):
        if len(nulls := sorted({row["null"] for row in rows})) > 1:
            raise UserError(f"recall of the nulls {' and '.join(nulls)} must not stand in one table, as they cannot be "
                            "compared: benchmark the map with one --null")  # fmt: skip
        rows = [row | {"interval": _interval(row), "tails": f"{cell(row['low'])}, {cell(row['high'])}"} for row in rows]
        columns = {"source": "source", "licence": "licence", "arms": "arms", "null": "null", "sides": "side",
                   "tails": "tails", "pairs": "pairs", "recall": "recall", "95 % interval": "interval",
                   "chance": "chance"}  # fmt: skip
        below = ("The interval is of a bootstrap over genes, with the null as it is; no recall is given for fewer "
                 "than 20 genes. Values of different nulls must not be compared.")  # fmt: skip
        made.append(Section("Known relationships", rows, columns, below=below))
    found = result["replicates"]
    rows = [{"metric": name, **found[name]} for name in ("consistency", "magnitude")]
    columns = {"metric": "metric", "perturbations": "scored", "with a p-value": "with_a_p_value", "median": "median",
               "p <= .05": "p_below", "FDR <= .05": "fdr_below"}  # fmt: skip
    made.append(Section("Replicates", rows, columns, below=f"Null: {found['null']}."))
    if rows := result["retrieval"]:
        rows = [row | {"interval": _interval(row)} for row in rows]
        columns = {"of what": "question", "groups": "groups", "profiles": "profiles", "mAP": "map",
                   "normalised": "normalised", "95 % interval": "interval", "FDR <= .05": "fdr_below"}  # fmt: skip
        below = "Normalised: 0 is a random order, 1 a perfect one; the interval is Student's, over groups."
        made.append(Section("Retrieval", rows, columns, below=below))
    if (targets := result.get("targets")) is not None:
        rows = [row | {"dose": "maximum" if row["dose"] is None else f"{row['dose']:g}"} for row in targets["rows"]]
        columns = {"uM": "dose", "compounds": "compounds", "pairs": "pairs", "AP, mean": "ap_macro",
                   "median": "ap_median", "of all pairs": "ap_micro", "baseline": "ap_baseline", "chance": "ap_chance",
                   "AUC, mean": "auc_macro", "AUC, median": "auc_median"}  # fmt: skip
        missing = f"{targets['compounds_not_in_map']:,} compounds and {targets['genes_not_in_map']:,} genes"
        below = f"Negatives: {targets.get('negatives', 'drawn')}. Not in the map: {missing} of the file."
        made.append(Section("Targets of compounds", rows, columns, below=below))
    if (clusters := result.get("clusters")) is not None:
        rows = sorted(clusters["rows"], key=lambda row: -row["ks"])[:SHOWN]
        columns = {"cluster": "cluster", "genes": "genes", "within": "within", "with others": "between", "KS": "ks",
                   "FDR": "fdr"}  # fmt: skip
        below = (f"{cell(clusters['share_apart'])} of {len(clusters['rows']):,} clusters are apart at FDR .05; "
                 f"{clusters['too_small']:,} are too small in this map.")  # fmt: skip
        made.append(Section("Clusters", rows, columns, below=below))
    if (arms := result.get("proximity")) is not None:
        whole = arms["genome"]
        columns = {"arm": "arm", "genes": "genes", "probability": "probability", "statistic": "statistic", "p": "p",
                   "along the arm": "along_arm"}  # fmt: skip
        above = (f"Probability that two genes of one arm are more alike than two of different arms: "
                 f"{cell(whole['probability'])} (.5 is unbiased), statistic {cell(whole['statistic'])}; "
                 f"{arms['without_an_arm']:,} genes are in no arm.")  # fmt: skip
        made.append(Section("Chromosome arms", arms["arms"], columns, above))
    return made


def markdown(result: dict, command: str) -> str:
    """The page of a result of `run.run`. Args: command, that made it."""
    lines = [f"Made by `{command}`.", "", summary(result)]
    for one in sections(result):
        lines += ["", f"## {one.title}", ""]
        lines += [one.above, ""] if one.above else []
        lines += [*table(one.rows, one.columns), *(["", one.below] if one.below else [])]
    return "\n".join(lines) + "\n"


def neighbours(rows: list[dict]) -> list[str]:
    """Lines of the table of `query.neighbours`."""
    text = lambda row: {"known": ", ".join(row["known"])} | {key: _dose(row[key]) for key in ("dose", "own_dose")}  # noqa: E731
    shown = [row | text(row) for row in rows]
    columns = {"neighbour": "name", "kind": "kind", "uM": "dose", "at uM": "own_dose", "cosine": "cosine",
               "percentile": "percentile", "known from": "known", "same arm": "same_arm"}  # fmt: skip
    return table(shown, {heading: key for heading, key in columns.items() if any(row[key] != "" for row in shown)})


def doses(curve: dict) -> list[str]:
    """Lines of the table of `query.dose_response`."""
    keys = [key for key in ("length", "magnitude", "cosine") if key in curve]
    rows = [{"dose": _dose(dose)} | {key: curve[key][i] for key in keys} for i, dose in enumerate(curve["dose"])]
    headings = {"cosine": f"cosine with {curve.get('target')}"}
    named = {"uM": "dose"} | {headings.get(key, key): key for key in keys}
    along = ", ".join(f"{key} {cell(curve[f'{key}_spearman'])}" for key in keys)
    return [*table(rows, named), "", f"Spearman correlation with the dose: {along}."]


def enriched(rows: list[dict]) -> list[str]:
    """Lines of the table of `clusters.enrichment`, of its rows."""
    if not rows:
        return ["No cluster is enriched among them at FDR .05."]
    columns = {"of them": "overlap", "genes": "size", "Jaccard": "jaccard", "p": "p", "FDR": "fdr"}
    return table(rows, {"cluster": "cluster"} | columns)


def _interval(row: dict) -> str:
    return f"{cell(row['ci_low'])} to {cell(row['ci_high'])}" if cell(row.get("ci_low")) else ""


def _dose(value: float) -> str:
    return "" if math.isnan(value) else f"{value:g}"
