"""hccp_jax: research and engineering of the pre-ranking stage of cascade recommenders, in JAX and Flax."""

__version__ = "0.1.0"
