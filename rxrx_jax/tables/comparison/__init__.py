"""The comparison of adaptation methods on simulated worlds, and what its screen and weights were chosen by."""
