"""Figures behind the goals, each module runnable alone: ``python -m benchmarks.core``."""
