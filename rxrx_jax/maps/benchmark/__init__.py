"""How good a map is: one family of benchmarks per file, each a function of plain arrays."""
