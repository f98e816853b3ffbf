"""Generative flow networks with several objectives: environments, rewards, conditions, losses and Pareto metrics."""
