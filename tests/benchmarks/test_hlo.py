"""Collectives are found in the text of programs, with the bytes that they move."""

import doctest

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from experiments.benchmarks import hlo
from experiments.benchmarks.hlo import Collective, collectives, size_of, wire
from hccp_jax.training.parallel import make_mesh

ENTRY = """HloModule jit_run
%body (p: f32[8]) -> f32[8] {
  ROOT %add = f32[8]{0} add(%p, %p)
}
ENTRY %main (x: f32[8]) -> f32[8] {
%s
}
"""


def program(*lines):
    return ENTRY.replace("%s", "\n".join(f"  {line}" for line in lines))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "%all-reduce.1 = (f32[3,4]{1,0}, s32[2]{0}) all-reduce(%a, %b), channel_id=1, replica_groups={{0,1},{2,3}},"
            " use_global_device_ids=true, to_apply=%sum",
            Collective("all-reduce", 2, 56),
        ),
        ("%g = pred[20]{0} all-gather(%x), replica_groups=[2,4]<=[8], dimensions={0}", Collective("all-gather", 4, 20)),
        ("%g = bf16[20]{0} all-gather(%x), replica_groups=[2,4]<=[4,2]T(1,0)", Collective("all-gather", 4, 40)),
        (
            "%s = f32[5,2]{1,0} reduce-scatter(%x), replica_groups={{0,1,2}}, dimensions={0}, to_apply=%sum",
            Collective("reduce-scatter", 3, 120),
        ),
        ("ROOT %t = f32[6]{0} all-to-all(%x), replica_groups={}", Collective("all-to-all", 0, 24)),
        (
            "%p = f32[] collective-permute(%x), source_target_pairs={{0,1},{1,0}}",
            Collective("collective-permute", 0, 4),
        ),
        (
            "%r = (f32[2]{0}, /*index=1*/f32[]) all-reduce(%a, %b), replica_groups={{0,1}}",
            Collective("all-reduce", 2, 12),
        ),
    ],
)
def test_a_line(line, expected):
    assert collectives(program(line)) == [expected]


def test_other_lines_are_none():
    assert collectives(program("%s = f32[8]{0} add(%all-reduce.1, %x)", "%w = f32[8]{0} while(%x), body=%body")) == []


def test_what_cannot_be_counted_is_refused():
    inside = program().replace("add(%p, %p)", "all-reduce(%p), replica_groups={{0,1}}")
    with pytest.raises(ValueError, match="in a loop or a branch"):
        collectives(inside)
    with pytest.raises(ValueError, match="asynchronous"):
        collectives(program("%x = (f32[8]{0}, f32[8]{0}) all-gather-start(%y), replica_groups={{0,1}}"))
    with pytest.raises(ValueError, match="unknown"):
        size_of("f7[3]")


def test_bytes_on_a_ring():
    """By hand: four devices send three quarters of the array, and a sum goes around twice."""
    assert wire("all-gather", 400.0, 4) == wire("reduce-scatter", 400.0, 4) == wire("all-to-all", 400.0, 4) == 300.0
    assert wire("all-reduce", 400.0, 4) == 600.0
    assert wire("collective-permute", 400.0, 4) == 400.0
    assert all(wire(kind, 400.0, 1) == 0 for kind in hlo.KINDS)
    assert Collective("all-reduce", 0, 400).wire(4) == 600.0


def test_a_real_program():
    mesh = make_mesh(4, 1, 2)

    def step(x, w):
        rows = jax.lax.all_gather(x, ("data", "model"), axis=0, tiled=True)  # [32, 3]
        parts = jax.lax.psum_scatter(rows @ w, ("data", "model"), scatter_dimension=0, tiled=True)  # of [32, 5]
        return parts, jax.lax.psum(w * 2, "model")

    spec = P(("data", "model"))
    sharded = jax.shard_map(step, mesh=mesh, in_specs=(spec, P("model")), out_specs=(spec, P()), check_vma=False)
    compiled = jax.jit(sharded).lower(jnp.zeros((32, 3)), jnp.zeros((6, 5))).compile()
    found = sorted(collectives(compiled.as_text()), key=lambda one: one.kind)
    assert found == [
        Collective("all-gather", 4, 4 * 32 * 3),
        Collective("all-reduce", 2, 4 * 3 * 5),
        Collective("reduce-scatter", 4, 4 * 32 * 5),
    ]


def test_examples():
    assert doctest.testmod(hlo).failed == 0
