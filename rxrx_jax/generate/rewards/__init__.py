"""Rewards: objectives in [0, 1], all of them maximised, of the terminal states of an environment."""
