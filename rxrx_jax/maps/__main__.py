"""Maps of biology, from embeddings to benchmarks.

    python -m rxrx_jax.maps build --embeddings=FILE --out=DIR [--align=tvn_shrunk --controls=NAME ...]
    python -m rxrx_jax.maps benchmark DIR [--relations=FOLDER --genome=FILE --expression=FILE ...]
    python -m rxrx_jax.maps query DIR GENE_OR_COMPOUND [--top=20 --relations=FOLDER --genome=FILE]
    python -m rxrx_jax.maps query DIR SMILES --predicted=FILE
    python -m rxrx_jax.maps page DIR [--relations=FOLDER --genome=FILE]
    python -m rxrx_jax.maps export DIR --out=map.h5ad

FILE is an embeddings.parquet of `rxrx_jax.embed`, a wide table as .parquet, .csv or .csv.gz (RxRx3's, pycytominer's),
or .h5ad. docs/maps.md has the definitions.
"""

import argparse
import json
import math
import pathlib
import shlex
import sys

from rxrx_jax.base import command, files
from rxrx_jax.base.errors import UserError
from rxrx_jax.maps import exchange, folder, markdown, statistics, table
from rxrx_jax.maps.benchmark import clusters, compounds, recall, relations, run
from rxrx_jax.maps.build import align, make
from rxrx_jax.maps.build.aggregate import HOW
from rxrx_jax.maps.show import page as pages
from rxrx_jax.maps.show import predicted
from rxrx_jax.maps.show import query as show

PAGE, ROWS = "benchmark.md", "perturbations.csv"


def _parser() -> argparse.ArgumentParser:
    lines = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m rxrx_jax.maps", description=__doc__, formatter_class=lines)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="align and aggregate profiles into a map")
    what = "profiles of wells or sites; of several files the features that all have"
    build.add_argument("--embeddings", type=pathlib.Path, nargs="+", required=True, metavar="FILE", help=what)
    build.add_argument("--metadata", type=pathlib.Path, metavar="FILE", help="a table with their other columns")
    build.add_argument("--out", type=pathlib.Path, required=True, metavar="DIR", help="folder of the map")
    what = f"how batches are aligned, or several ways in turn, with commas: {', '.join(align.NAMES)} (default none)"
    build.add_argument("--align", default="none", metavar="NAME", help=what)
    what = "of the batch (default experiment; without that column all rows are one batch, if nothing is aligned)"
    build.add_argument("--batch", default="", metavar="COLUMNS", help=what)
    what = "their name, or COLUMN=NAME (default: well_type=negative_control where that column is there)"
    build.add_argument("--controls", default="", metavar="NAME", help=what)
    build.add_argument("--aggregate", choices=HOW, default="mean", help="of replicates (default mean)")
    what = "columns that tell rows of the map apart (default perturbation, and concentration_um where it is there)"
    build.add_argument("--by", default="", metavar="COLUMNS", help=what)
    what = "centre chromosome arms, needs --genome (published: by the means alone)"
    build.add_argument("--arms", choices=("shrunk", "published"), nargs="?", const="shrunk", default="", help=what)
    build.add_argument("--drop-invalid", action="store_true", help="leave out and count what cannot be used")
    score = commands.add_parser("benchmark", help="score a map")
    score.add_argument("folder", type=pathlib.Path, metavar="DIR")
    what = "table treatment, gene_symbol and, if known, nM_value"
    score.add_argument("--targets", type=pathlib.Path, metavar="FILE", help=what)
    what = "table treatment, gene_symbol: what compounds do not act on (default drawn with the seed)"
    score.add_argument("--negatives", type=pathlib.Path, metavar="FILE", help=what)
    score.add_argument("--null", choices=recall.NULLS, default=recall.NULLS[0], help="of recall (default all_pairs)")
    score.add_argument("--sides", choices=recall.SIDES, default="two", help="tails that count (default two)")
    score.add_argument("--seed", type=int, default=0)
    query = commands.add_parser("query", help="the neighbours of a gene or compound")
    query.add_argument("folder", type=pathlib.Path, metavar="DIR")
    query.add_argument("name", metavar="GENE_OR_COMPOUND")
    query.add_argument("--top", type=int, default=20, help="neighbours (default 20)")
    what = "genes that rxrx_jax.predict_genes predicts of structures; the name is then a SMILES"
    query.add_argument("--predicted", type=pathlib.Path, metavar="FILE", help=what)
    page = commands.add_parser("page", help="DIR/page.html: the map to explore, in one file")
    page.add_argument("folder", type=pathlib.Path, metavar="DIR")
    for one in (score, query, page):
        what = "folder of relation files such as CORUM.txt, with the header entity1,entity2"
        one.add_argument("--relations", type=pathlib.Path, metavar="FOLDER", help=what)
    for one in (score, query):
        what = "clusters of genes: name, tab, genes with spaces between; or .gmt"
        one.add_argument("--clusters", type=pathlib.Path, metavar="FILE", help=what)
    for one in (build, score, query, page):
        what = "genes with their arms: a table gene, chrom, start, end, chrom_arm_name, or a folder of UCSC's tables"
        one.add_argument("--genome", type=pathlib.Path, metavar="PATH", help=what)
    for one in (build, score):
        what = "table gene, zfpkm: genes below -3 are unexpressed"
        one.add_argument("--expression", type=pathlib.Path, metavar="FILE", help=what)
    export = commands.add_parser("export", help="the map as .h5ad, .csv or a wide .parquet")
    export.add_argument("folder", type=pathlib.Path, metavar="DIR")
    export.add_argument("--out", type=pathlib.Path, required=True, metavar="FILE")
    export.add_argument("--names", choices=exchange.NAMES, default=exchange.NAMES[0], help="of columns")
    return parser


def build(flags: argparse.Namespace) -> None:
    genome, expression = make.read_genome(flags.genome, flags.expression)
    profiles = table.read(*flags.embeddings, metadata=flags.metadata)
    names = ("align", "batch", "controls", "aggregate", "by", "arms", "drop_invalid")
    settings = make.Settings(**{name: getattr(flags, name) for name in names})
    facts = make.build(profiles, flags.out, settings, genome, expression)
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in facts["kinds"].items())
    wells = f"{facts['rows']:,} rows in {facts['batches']:,} batches, {facts['controls_found']:,} controls"
    marks = facts["marks"] or "none"
    print(f"{flags.out / make.MAP}: {kinds}; of {wells}; {facts['features']:,} values; marks: {marks}")
    for reason, n in facts["dropped"].items():
        if n:
            print(f"left out: {n:,} {reason}")
    if (arms := facts.get("arm_centring")) is not None:
        change = f"{arms['probability_before']:.4f} before and {arms['probability_after']:.4f} after"
        alone = ", ".join(arms["left_alone"]) or "none"
        print(f"arm centring ({arms['how']}): probability {change}; left alone: {alone}")


def benchmark(flags: argparse.Namespace) -> None:
    if flags.negatives and not flags.targets:
        raise UserError(f"--negatives={flags.negatives} needs --targets=FILE, what compounds act on")
    found = folder.read(flags.folder)
    known = run.Known(
        relations.read_folder(flags.relations) if flags.relations else [],
        *make.read_genome(flags.genome, flags.expression),
        compounds.read(flags.targets) if flags.targets else None,
        compounds.read(flags.negatives) if flags.negatives else None,
        relations.read_clusters(flags.clusters) if flags.clusters else None,
    )
    result, rows = run.run(found, known, flags.null, flags.sides, flags.seed)
    words = shlex.join(["python", "-m", "rxrx_jax.maps", *flags.argv])
    files.write(flags.folder / folder.BENCHMARK, json.dumps({"command": words, **_plain(result)}, indent=1) + "\n")
    text = markdown.markdown(result, words)
    files.write(flags.folder / PAGE, text)
    files.write(flags.folder / ROWS, _csv(rows))
    print(text)


def query(flags: argparse.Namespace) -> None:
    if flags.top < 1:
        raise UserError(f"--top={flags.top}: must be at least 1")
    found = folder.read(flags.folder)
    if flags.predicted:
        return print("\n".join(predicted.lines(flags.predicted, found, flags.name, flags.top)))
    known = relations.read_folder(flags.relations) if flags.relations else []
    genome, _ = make.read_genome(flags.genome, None)
    entities = show.Entities(found)
    rows = show.neighbours(entities, flags.name, flags.top, known, genome)
    for one in show.replicates(found, flags.name):
        print(f"{one['row']}: {one['replicates']:,} replicates in {one['batches']:,} batches")
    print("\n".join(markdown.neighbours(rows)))
    if flags.clusters:
        near = [row["name"] for row in rows if row["kind"] == "gene"]
        others = [gene for gene in found.genes[0].tolist() if gene != flags.name]
        rich = clusters.enrichment(near, others, relations.read_clusters(flags.clusters))
        rich = [row for row in rich if row["fdr"] <= statistics.LEVEL]
        print("\n".join(["", f"Clusters that these {len(near)} genes are rich in:", "", *markdown.enriched(rich)]))
    curve = show.dose_response(entities, flags.name, next((row["name"] for row in rows if row["kind"] == "gene"), None))
    if curve is not None:
        if (flags.folder / make.REPLICATES).exists():
            curve = show.with_magnitude(found, flags.name, curve)
        print("\n".join(["", *markdown.doses(curve)]))


def page(flags: argparse.Namespace) -> None:
    found = folder.read(flags.folder)
    known = relations.read_folder(flags.relations) if flags.relations else []
    genome, _ = make.read_genome(flags.genome, None)
    words = shlex.join(["python", "-m", "rxrx_jax.maps", *flags.argv])
    print(f"wrote {pages.write(found, flags.folder / pages.NAME, known, genome, words)}")


def export(flags: argparse.Namespace) -> None:
    found = folder.read(flags.folder)
    if flags.out.resolve() == (flags.folder / make.MAP).resolve():
        raise UserError(f"--out={flags.out} is the map itself")
    exchange.check(flags.out)
    made = table.Profiles(found.features, found.columns, ())
    table.write(made, flags.out, flags.names)
    print(f"wrote {flags.out}")


def _plain(value):
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _csv(rows: list[dict]) -> str:
    import csv
    import io

    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["perturbation"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    argv = sys.argv[1:] if argv is None else argv
    flags = _parser().parse_args(argv)
    flags.argv = argv
    {"build": build, "benchmark": benchmark, "query": query, "page": page, "export": export}[flags.command](flags)


if __name__ == "__main__":
    sys.exit(command.run(main))
