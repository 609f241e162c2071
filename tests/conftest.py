"""Eight simulated CPU devices, a shared compile cache, and one small world for the whole suite."""

import os
from importlib.metadata import version
from pathlib import Path

# One LLVM module a program and no search for an order of operations: the programs of tests are small. XLA's older
# emitters, where it still has them, compile in half the time. To be set before JAX is imported; an unknown flag aborts.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_cpu_parallel_codegen_split_count=1",
        "--xla_cpu_enable_concurrency_optimized_scheduler=false",
        *(["--xla_cpu_use_fusion_emitters=false"] if version("jaxlib").startswith("0.10.") else []),
    ]
)

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_platforms", "cpu")
# workers and later runs share what they compile; a clean checkout begins empty
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent.parent / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

# half the compile time of programs that run once or twice; `fully_optimized` is for tests of what a program needs
jax.config.update("jax_disable_most_optimizations", True)

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"


@pytest.fixture(scope="session")
def kuairand_dir() -> Path:
    """The excerpt of real logs, where it is at hand."""
    directory = SHARED / "kuairand_pure"
    if not directory.exists():
        pytest.skip(f"needs the KuaiRand-Pure excerpt in {directory}")
    return directory


@pytest.fixture(scope="session")
def small_world():
    """A tiny simulated world: (World, WorldConfig, SamplingConfig)."""
    from hccp_jax.cascade.logs import SamplingConfig, open_world
    from hccp_jax.cascade.world import WorldConfig

    config = WorldConfig(
        items=600, users=80, candidates=160, ranked=40, rerank=20, clusters=16, categories=8, frequency_requests=128
    )
    return open_world(config), config, SamplingConfig()


@pytest.fixture
def fully_optimized():
    """Programs as users get them."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
