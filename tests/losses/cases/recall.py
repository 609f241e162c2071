"""CROLoss and its Lambda method, positive by positive and negative by negative."""

from math import exp, log, log1p

from hccp_jax.losses.recall import KERNELS, croloss

from .case import HARD, POSITIVE, Case

ITEMS = 60

# (weight kernel, kernel); without the first it is the plain loss.
LAMBDAS = [("sigmoid", "softplus"), ("unit_step", "exponential"), ("sigmoid", "exponential"), ("exponential", "hinge")]
METHODS = [(None, kernel) for kernel in KERNELS] + LAMBDAS

PHI = {
    "hinge": lambda gap, margin: max(gap + margin, 0.0),
    "sigmoid": lambda gap, _: 1 / (1 + exp(-gap)) if gap > 0 else exp(gap) / (1 + exp(gap)),
    "exponential": lambda gap, _: exp(gap),
    "softplus": lambda gap, _: max(gap, 0.0) + log1p(exp(-abs(gap))),
    "unit_step": lambda gap, _: float(gap >= 0),
}
SLOPE = {
    "hinge": lambda gap, margin: float(gap > -margin),
    "sigmoid": lambda gap, _: PHI["sigmoid"](gap, _) * PHI["sigmoid"](-gap, _),
    "exponential": PHI["exponential"],
    "softplus": PHI["sigmoid"],
    "unit_step": lambda gap, _: 0.0,
}


def named(method):
    return dict(zip(("weight_kernel", "kernel"), method, strict=True))


def rank_oracle(positive, negatives, items, kernel, margin=5.0, rank="scaled"):
    """Eq 16 and 24; without a negative the positive is first."""
    if not len(negatives):
        return 1.0
    total, share = sum(PHI[kernel](n - positive, margin) for n in negatives), items / len(negatives)
    return share * (1 + total) if rank == "scaled" else 1 + share * total


def weight_oracle(rank, items, alpha, scale="log"):
    """W of Eq 13, and its derivative w."""
    factor = log(items + 1) if scale == "log" else 1.0
    if alpha == 1:
        return factor * log(rank) / log(items + 1), factor / rank / log(items + 1)
    whole = 1 - (items + 1) ** (1 - alpha)
    return factor * (1 - rank ** (1 - alpha)) / whole, factor * (alpha - 1) * rank**-alpha / whole


def croloss_oracle(
    positives,
    negatives,
    items,
    alpha=1.0,
    kernel="softplus",
    weight_kernel=None,
    hinge_margin=5.0,
    rank="scaled",
    scale="log",
):
    """Sum over positives; None without one."""
    if not len(positives):
        return None
    total = 0.0
    for p in positives:
        estimate = rank_oracle(p, negatives, items, kernel, hinge_margin, rank)
        if weight_kernel is None:
            total += weight_oracle(estimate, items, alpha, scale)[0]
        else:
            weighed = rank_oracle(p, negatives, items, weight_kernel, hinge_margin, rank)
            total += weight_oracle(weighed, items, alpha, scale)[1] * estimate
    return total


def case(name, modes=("fwd", "rev"), **chosen):
    def loss(s, a, where, **kw):
        masks = {"positive_where": where & (a["kind"] == POSITIVE), "negative_where": where & (a["kind"] >= HARD)}
        return croloss(s, s, items=ITEMS, **masks, **chosen, **kw)

    def oracle(s, a):
        return croloss_oracle(s[a["kind"] == POSITIVE], s[a["kind"] >= HARD], ITEMS, **chosen)

    return Case(name, loss, oracle, needs_positive=True, modes=modes)


CASES = [
    case("croloss_softplus", kernel="softplus"),
    case("croloss_sigmoid_unbiased", kernel="sigmoid", alpha=0.8, rank="unbiased"),
    case("croloss_exponential_unscaled", kernel="exponential", alpha=1.4, scale="none"),
    case("croloss_hinge_near_one", kernel="hinge", alpha=1.0001),
    # The weight is a constant to the gradient, which is therefore not the slope of the value.
    case("croloss_lambda", modes=(), kernel="softplus", weight_kernel="sigmoid", alpha=1.2),
]
