"""What a run says of its machine, and what a profile leaves."""

import jax
import jax.numpy as jnp
import pytest

from experiments import startup
from experiments.progress import profiled
from hccp_jax.training.program import Placement


@pytest.mark.parametrize(
    ("placement", "part"),
    [
        (Placement(), "; one run at a time; "),
        (Placement("mesh", 1, 8), "; a run on each; "),
        (Placement("mesh", 8, 1, 4), "; mesh of 2 x 4 (batch x tables); "),
        (Placement("pmap", 8), "; pmap; "),
    ],
)
def test_the_machine_and_the_layout_are_told_in_a_line(placement, part):
    line = startup.describe(placement)
    assert line.startswith("8 x cpu, ")
    assert part in line
    assert line.endswith("programs in the compile cache")
    assert "\n" not in line


def test_programs_are_counted_from_now_on():
    compiled = startup.count_compiled()
    assert compiled() == "programs: 0 compiled, 0 from the compile cache"
    startup.jax.monitoring.record_event(startup.HITS)
    startup.jax.monitoring.record_event(startup.MISSES)
    startup.jax.monitoring.record_event("/jax/else")
    assert compiled() == "programs: 1 compiled, 1 from the compile cache"


def test_a_profile_covers_the_steps_asked_for_after_the_first_chunk(tmp_path):
    shown, said = [], []

    def begin(label, steps):
        return lambda step, values: shown.append((label, step))

    report = profiled(begin, tmp_path / "profile", 10, said.append)("first", 50)
    for step in range(5, 55, 5):
        jnp.ones(3).block_until_ready()
        report(step, {})
    assert shown == [("first", step) for step in range(5, 55, 5)]
    assert [line.split(" are profiled")[0] for line in said] == ["steps 6 to 15"]
    assert [*(tmp_path / "profile").rglob("*.xplane.pb")]
    later = profiled(begin, tmp_path / "none", 10, said.append)("whole run in a chunk", 50)
    later(50, {})
    assert not (tmp_path / "none").exists()
    assert jax.device_count() == 8
