"""Requests, their order, and the samples N1-N5: everything a method may look at."""
