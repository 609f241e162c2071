"""Measurements printed by a command; none of them is a timed test."""
