"""CROLoss Table 4: the Lambda method with each pair of kernels, phi1 of the weight and phi2 of the slope.

    python launch.py --experiment=croloss_table4 --store=STORE          about 30 minutes on two cores
    python launch.py --experiment=croloss_table4 --smoke --store=STORE

A view of the runs of `croloss`: real sequences in STORE, nothing simulated. Alpha is 1, as on Amazon Books; the plain
loss with the softplus stands first, to compare with. Further pairs are no rows: with phi1 = phi2 the Lambda method has
the gradient of the plain loss, whose rows are in Table 3, and the paper tries no sigmoid as phi2.

The paper finds the sigmoid ahead as phi1 in most cases: with the exponential it is at N = 50 only, and behind at
N = 500; both are claimed. The best phi2 is claimed as on Books, the softplus; on Taobao it is the exponential.
"""

from experiments.croloss_rows import ahead, view

BOOKS = "Table 4, Books"


def _pair(name: str, statement: str, better: str, worse: str, n: int = 100):
    return ahead(f"CRO-4.{name}", BOOKS, statement, f"lambda_{better}", f"lambda_{worse}", n)


CLAIMS = (
    *(
        _pair(
            f"a {kernel}", f"A sigmoid weight beats a unit step ({kernel}).", f"sigmoid_{kernel}", f"unit_step_{kernel}"
        )
        for kernel in ("hinge", "softplus")
    ),
    _pair(
        "a exponential@50",
        "A sigmoid weight beats a unit step at N = 50 (exponential).",
        "sigmoid_exponential",
        "unit_step_exponential",
        50,
    ),
    _pair(
        "a exponential@500",
        "A unit step beats a sigmoid weight at N = 500 (exponential).",
        "unit_step_exponential",
        "sigmoid_exponential",
        500,
    ),
    *(
        _pair(
            f"b {kernel}/{weight.replace('_', ' ')}",
            f"Softplus beats {kernel} under a {weight.replace('_', ' ')} weight.",
            f"{weight}_softplus",
            f"{weight}_{kernel}",
        )
        for weight in ("sigmoid", "unit_step")
        for kernel in ("hinge", "exponential")
    ),
)

EXPERIMENT = view(
    "croloss_table4",
    "CROLoss Table 4: kernels of the Lambda method",
    "Table 4",
    (
        "softplus_1",
        *(
            f"lambda_{weight}_{kernel}"
            for weight in ("unit_step", "sigmoid")
            for kernel in ("hinge", "exponential", "softplus")
        ),
    ),
    CLAIMS,
)
