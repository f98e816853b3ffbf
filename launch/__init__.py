"""Starts training runs elsewhere than in this process: docs/launch.md."""
