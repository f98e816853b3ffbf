"""Where a run's numbers come from: `seen` (labels and images behind the parameters), `former` (the previous stage),
`marks` (what a metric must be marked with) and `facts` (code, data, versions, device)."""
