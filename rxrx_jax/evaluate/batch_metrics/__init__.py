"""How much of the batch is left in an embedding, and how much of the biology is kept: functions of plain arrays that
give one number each. `docs/batch_metrics.md` has their definitions and sources."""
