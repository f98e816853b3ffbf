"""Maps of biology: embeddings of wells become one space in which genes and compounds relate to each other.

build/ aligns and aggregates, benchmark/ scores what came out against what is known, show/ asks it. Functions take plain
arrays; names of rows live in `table.Profiles` and in what the commands write. Definitions are those of EFAAR (Celik et
al. 2022, bioRxiv 2022.12.09.519400) where it has one, by name where there are several.
"""
