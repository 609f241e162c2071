"""Tests of the loss kernels."""
