"""Metrics over whole candidate sets, and the statistics of their differences."""
