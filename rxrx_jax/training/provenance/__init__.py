"""Where a run's numbers come from: `former` (the stage before, and what it has seen), `marks` (what a metric must be
marked with) and `facts` (code, data, versions, device)."""
