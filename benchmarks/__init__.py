"""Benchmarks: what a paid request costs, side by side with an unpaid one, in one run."""
