"""From profiles of wells to a map: aligned, aggregated, and written with what was fitted."""
