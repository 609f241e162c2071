"""What the kernel benchmark times: each kernel and its rivals on one shape, as calls that take loss and gradients.

A group is built, timed and dropped before the next, so that no more than one shape is in memory.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import rax
import torch

from experiments.benchmarks.peers import jax_losses, torch_losses
from hccp_jax.losses.contrastive import margin_info_nce
from hccp_jax.losses.listwise import list_mle
from hccp_jax.losses.pairs import Pairs
from hccp_jax.losses.pairwise import pairwise_logistic
from hccp_jax.losses.rankmax import am_rankmax
from hccp_jax.losses.recall import croloss_in_batch
from hccp_jax.losses.sdcl import adaptive_weighted_contrastive
from hccp_jax.losses.softsort import soft_sort_cross_entropy
from hccp_jax.losses.streaming import row_log_sum_exp
from hccp_jax.numerics import safe_norm

Call = Callable[[], float]
OURS = "ours"
MARGIN, TEMPERATURE, POSITIVES = 0.9, 0.1, 2


@dataclass(frozen=True)
class Bar:
    """A claim about a group: how many times slower the rival is, or a cost or size that stays below."""

    against: str
    bar: float
    quantity: str = "times faster"
    ours: str = OURS


@dataclass
class Group:
    """One kernel on one shape.

    Attributes:
        calls: name -> a call that computes the loss and all gradients and returns the loss.
        temporary: name -> bytes that XLA sets aside for it besides inputs and outputs.
        bars: what is claimed.
        sampled: names whose loss is random and so not compared.
    """

    kernel: str
    shape: str
    bars: tuple[Bar, ...]
    calls: dict[str, Call] = field(default_factory=dict)
    temporary: dict[str, int] = field(default_factory=dict)
    sampled: tuple[str, ...] = ()

    def add_jax(self, name: str, loss: Callable, *arguments: jax.Array, gradients: int) -> None:
        """A jitted function; gradients of its first arguments are taken."""
        function = jax.jit(jax.value_and_grad(loss, argnums=tuple(range(gradients))))
        compiled = function.lower(*arguments).compile()
        memory = compiled.memory_analysis()
        assert memory is not None, "XLA on the CPU tells what it sets aside"
        self.temporary[name] = memory.temp_size_in_bytes
        self.calls[name] = lambda: float(jax.block_until_ready(compiled(*arguments))[0])

    def add_torch(self, name: str, loss: Callable, *arguments: jax.Array, gradients: int) -> None:
        """A torch function of the same arrays."""
        tensors = [torch.tensor(np.asarray(x)) for x in arguments]
        leaves = [tensor.requires_grad_() for tensor in tensors[:gradients]]

        def call() -> float:
            for leaf in leaves:
                leaf.grad = None
            value = loss(*tensors)
            value.backward()
            return value.item()

        self.calls[name] = call


def groups() -> Iterator[tuple[str, Callable[[], Group]]]:
    """Name and builder of every group."""
    yield "Margin InfoNCE", partial(info_nce, 256, 10, (Bar("jitted materialised JAX", 0.95),))
    yield (
        "Margin InfoNCE",
        partial(
            info_nce,
            512,
            35,
            (
                Bar("torch, one LSE a user", 4.0),
                Bar("torch, Algorithm 1 as printed", 7.0),
                Bar("torch.compile, one LSE a user", 1.6),
                Bar("jitted materialised JAX", 1.25),
                Bar(OURS, 1.2, "cost of sampling 5 % in the kernel", "ours, 5 % sampled"),
                Bar("torch, random mask of 5 %", 7.0, ours="ours, 5 % sampled"),
            ),
        ),
    )
    yield (
        "Margin InfoNCE",
        partial(
            info_nce,
            1024,
            60,
            (
                Bar("torch, one LSE a user", 4.5),
                Bar(OURS, 24, "MiB of temporary memory"),
                Bar("ours at U=512", 2.2, "times the temporary memory without the gradients"),
            ),
        ),
    )
    yield "CROLoss", croloss
    for lists, size, naive, eager in ((64, 500, 15.0, 60.0), (8, 2000, 60.0, 300.0)):
        yield "SoftSort", partial(soft_sort, lists, size, naive, eager)
    for lists, size, naive, eager in ((64, 500, 5.0, 40.0), (8, 2000, 18.0, 150.0)):
        yield "AM-Rankmax", partial(rankmax, lists, size, naive, eager)
    yield "ListMLE", mle
    yield "pairwise logistic", logistic
    yield "SDCL", sdcl


def _normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def _unit(*shape: int, seed: int = 0) -> jax.Array:
    x = _normal(*shape, seed=seed)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def _margin_info_nce(users: jax.Array, items: jax.Array, rate: float = 1.0) -> jax.Array:
    """Margin InfoNCE with all items of other users as easy negatives and no hard ones."""
    count, per_user = len(users), len(items) // len(users)
    pairs = Pairs(
        own_rows=(jnp.arange(len(items)) // per_user)[:, None],
        sample_bits=jnp.uint32(1) if rate < 1 else None,
    )
    negatives = row_log_sum_exp(users / TEMPERATURE, items, pairs=pairs, rate=rate)
    positives = items.reshape(count, per_user, -1)[:, :POSITIVES]
    products = safe_norm(users)[:, None] * safe_norm(positives)
    logits = jnp.einsum("ud,upd->up", users, positives)
    none, all_of = jnp.zeros(logits.shape, bool), jnp.ones(logits.shape, bool)
    return margin_info_nce(
        logits,
        products,
        positive=all_of,
        hard=none,
        easy=none,
        easy_log_sum_exp=negatives,
        margin=MARGIN,
        temperature=TEMPERATURE,
    )


def info_nce(count: int, per_user: int, bars: tuple[Bar, ...]) -> Group:
    """Margin InfoNCE, d = 64, two positives a user."""
    users, items = _normal(count, 64) / 8, _normal(count * per_user, 64, seed=1) / 8
    group = Group("Margin InfoNCE", f"U={count} R={per_user} d=64", bars, sampled=("ours, 5 % sampled",))
    named = {bar.against for bar in bars} | {bar.ours for bar in bars}
    forms = {
        "torch, one LSE a user": torch_losses.margin_info_nce_one_lse,
        "torch, Algorithm 1 as printed": torch_losses.margin_info_nce_algorithm_1,
        "torch.compile, one LSE a user": torch.compile(torch_losses.margin_info_nce_one_lse),
        "torch, random mask of 5 %": torch_losses.margin_info_nce_random_mask,
    }
    group.sampled += ("torch, random mask of 5 %",)
    group.add_jax(OURS, _margin_info_nce, users, items, gradients=2)
    if "ours, 5 % sampled" in named:
        group.add_jax("ours, 5 % sampled", lambda u, v: _margin_info_nce(u, v, 0.05), users, items, gradients=2)
    if "ours at U=512" in named:
        half = Group("", "", ())
        half.add_jax(OURS, _margin_info_nce, users[: count // 2], items[: len(items) // 2], gradients=2)
        gradients = 4 * (users.size + items.size)
        group.temporary["ours at U=512"] = half.temporary[OURS] - gradients // 2
        group.temporary["ours without the gradients"] = group.temporary[OURS] - gradients
    if "jitted materialised JAX" in named:
        rival = lambda u, v: jax_losses.margin_info_nce(u, v, MARGIN, TEMPERATURE)  # noqa: E731
        group.add_jax("jitted materialised JAX", rival, users, items, gradients=2)
    for name in forms.keys() & named:
        loss = forms[name]
        group.add_torch(name, lambda u, v, loss=loss: loss(u, v, MARGIN, TEMPERATURE), users, items, gradients=2)
    return group


def croloss() -> Group:
    """CROLoss by the Lambda method, sigmoid weights and softplus ranks."""
    users, positives, negatives = _unit(1024, 64), _unit(1024, 64, seed=1), _unit(61440, 64, seed=2)
    items, alpha = len(negatives), 0.8
    bars = (
        Bar("torch, the public form", 3.2),
        Bar("jitted materialised JAX", 2.0),
        Bar(OURS, 10, "MiB of temporary memory"),
    )
    group = Group("CROLoss-lambda", "1024 x 61440, d=64", bars)

    def ours(users, positives, negatives):
        return croloss_in_batch(
            10.0 * users, positives, negatives, items=items, alpha=alpha, kernel="softplus", weight_kernel="sigmoid"
        )

    group.add_jax(OURS, ours, users, positives, negatives, gradients=3)
    rival = partial(jax_losses.croloss_lambda, alpha=alpha, items=items)
    group.add_jax("jitted materialised JAX", rival, users, positives, negatives, gradients=3)
    public = partial(torch_losses.croloss_lambda_public, alpha=alpha, items=items)
    group.add_torch("torch, the public form", public, users, positives, negatives, gradients=3)
    return group


def _graded(lists: int, size: int) -> tuple[jax.Array, jax.Array]:
    """Scores, and labels of four levels that are equally frequent."""
    return _normal(lists, size), jnp.asarray(np.random.default_rng(1).integers(0, 4, (lists, size)), jnp.int32)


def soft_sort(lists: int, size: int, naive: float, eager: float) -> Group:
    """SoftSort cross entropy, literal, p = 1, four levels."""
    scores, labels = _graded(lists, size)
    bars = (Bar("jitted naive JAX", naive), Bar("torch", eager))
    group = Group("SoftSort cross entropy", f"{lists} x {size}", bars)
    group.add_jax(OURS, lambda z, y: soft_sort_cross_entropy(z, y, levels=4), scores, labels, gradients=1)
    rival = lambda z, y: jax_losses.soft_sort_cross_entropy(z, y, 1.0, 0.05)  # noqa: E731
    group.add_jax("jitted naive JAX", rival, scores, labels, gradients=1)
    group.add_torch(
        "torch", lambda z, y: torch_losses.soft_sort_cross_entropy(z, y, 1.0, 0.05), scores, labels, gradients=1
    )
    return group


def rankmax(lists: int, size: int, naive: float, eager: float) -> Group:
    """AM-Rankmax with a linear margin, four levels."""
    scores, labels = _graded(lists, size)
    bars = (Bar("jitted naive JAX", naive), Bar("torch", eager))
    group = Group("AM-Rankmax, linear margin", f"{lists} x {size}", bars)
    group.add_jax(OURS, lambda z, y: am_rankmax(z, y, levels=4), scores, labels, gradients=1)
    group.add_jax("jitted naive JAX", lambda z, y: jax_losses.am_rankmax(z, y, True), scores, labels, gradients=1)
    group.add_torch("torch", torch_losses.am_rankmax, scores, labels, gradients=1)
    return group


def mle() -> Group:
    """ListMLE with the sort, and of lists that are stored in order."""
    scores = _normal(256, 100)
    rank = jnp.asarray(np.random.default_rng(1).permuted(np.tile(np.arange(100), (256, 1)), axis=-1), jnp.int32)
    labels = -rank.astype(jnp.float32)
    bars = (Bar("rax", 7.0), Bar("best torch", 1.2), Bar("rax", 15.0, ours="ours, presorted"))
    group = Group("ListMLE", "256 x 100", bars, sampled=("ours, presorted",))
    group.add_jax(OURS, lambda z, r: list_mle(z, r), scores, rank, gradients=1)
    group.add_jax("ours, presorted", lambda z: list_mle(z), scores, gradients=1)
    rival = lambda z, y: rax.listmle_loss(z, y, reduce_fn=jnp.mean)  # noqa: E731
    group.add_jax("rax", rival, scores, labels, gradients=1)
    group.add_torch("torch, cumulative sum", torch_losses.list_mle_cumsum, scores, labels, gradients=1)
    group.add_torch("torch, logcumsumexp", torch_losses.list_mle_logcumsumexp, scores, labels, gradients=1)
    return group


def logistic() -> Group:
    """Pairwise logistic loss, sum over pairs."""
    scores = _normal(64, 500)
    labels = jnp.asarray(np.random.default_rng(1).integers(0, 5, (64, 500)), jnp.float32)
    bars = (Bar("rax", 4.0), Bar(OURS, 8, "MiB of temporary memory"))
    group = Group("pairwise logistic", "64 x 500", bars)
    group.add_jax(OURS, lambda z, y: pairwise_logistic(z, y), scores, labels, gradients=1)
    rival = lambda z, y: rax.pairwise_logistic_loss(z, y, reduce_fn=jnp.sum) / len(z)  # noqa: E731
    group.add_jax("rax", rival, scores, labels, gradients=1)
    return group


def sdcl() -> Group:
    """SDCL's weighted contrast with gradients through the weights."""
    arrays = _normal(256, 5), _normal(256, 60, seed=1), _normal(256, 5, 256, seed=2), _normal(256, 60, 256, seed=3)
    bars = (Bar("torch, normalise + einsum", 1.2), Bar("torch, cosine_similarity broadcast", 15.0))
    group = Group("SDCL contrast", "B=256 P=5 N=60 D=256", bars)

    def ours(*arrays):
        return adaptive_weighted_contrastive(*arrays, temperature=1.0, stop_weight_gradient=False)

    group.add_jax(OURS, ours, *arrays, gradients=4)
    for name, loss in (
        ("torch, normalise + einsum", torch_losses.sdcl_einsum),
        ("torch, cosine_similarity broadcast", torch_losses.sdcl_broadcast),
    ):
        group.add_torch(name, lambda p, n, x, z, loss=loss: loss(x, z, p, n, 1.0), *arrays, gradients=4)
    return group
