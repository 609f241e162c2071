"""The numbers that CROLoss prints in its Tables 2-4: recall at N = 50, 100, 200 and 500, in per cent."""

from collections.abc import Iterable, Mapping

CUTOFFS = (50, 100, 200, 500)
Numbers = Mapping[str, tuple[float, float, float, float]]

# Amazon Books: 459,133 users, 313,966 items
BOOKS: Numbers = {
    "cross_entropy": (9.68, 13.24, 17.46, 24.26),
    "triplet": (7.53, 11.21, 15.93, 24.11),
    "bpr": (8.24, 12.08, 16.96, 25.21),
    "hinge_06": (9.03, 12.95, 17.64, 25.56),
    "hinge_08": (9.50, 13.35, 18.04, 25.63),
    "hinge_1": (9.88, 13.55, 17.94, 24.99),
    "hinge_12": (9.53, 12.87, 16.76, 22.91),
    "sigmoid_06": (9.57, 13.63, 18.51, 26.59),
    "sigmoid_08": (9.94, 13.77, 18.56, 26.35),
    "sigmoid_1": (9.96, 13.94, 18.59, 26.09),
    "sigmoid_12": (10.05, 13.88, 18.38, 25.66),
    "exponential_06": (8.90, 12.44, 16.75, 23.81),
    "exponential_08": (9.39, 12.87, 17.11, 24.13),
    "exponential_12": (9.99, 13.56, 17.71, 24.33),
    "softplus_06": (9.63, 13.54, 18.30, 26.20),
    "softplus_08": (9.97, 13.85, 18.59, 26.19),
    "softplus_1": (10.20, 14.03, 18.63, 26.06),
    "softplus_12": (10.19, 14.03, 18.49, 25.51),
    "lambda_sigmoid_softplus_06": (9.65, 13.58, 18.39, 26.29),
    "lambda_sigmoid_softplus_08": (9.80, 13.78, 18.50, 26.25),
    "lambda_sigmoid_softplus": (10.17, 14.07, 18.81, 26.20),
    "lambda_sigmoid_softplus_12": (10.19, 14.01, 18.46, 25.96),
    "lambda_unit_step_hinge": (9.07, 12.865, 17.46, 24.96),
    "lambda_unit_step_exponential": (8.74, 12.15, 16.35, 23.20),
    "lambda_unit_step_softplus": (9.98, 13.85, 18.53, 25.96),
    "lambda_sigmoid_hinge": (9.435, 13.305, 17.995, 25.69),
    "lambda_sigmoid_exponential": (8.79, 12.10, 16.26, 22.90),
}

# Taobao: 976,779 users, 1,708,530 items; the rows that are run here, too
TAOBAO: Numbers = {
    "cross_entropy": (4.71, 6.59, 9.01, 13.13),
    "triplet": (2.46, 3.71, 5.43, 8.84),
    "bpr": (2.89, 4.33, 6.35, 10.25),
    "hinge_1": (3.75, 5.37, 7.51, 11.35),
    "hinge_12": (3.96, 5.62, 7.82, 11.64),
    "hinge_14": (4.02, 5.62, 7.68, 11.18),
    "sigmoid_1": (3.89, 5.62, 7.91, 11.93),
    "sigmoid_12": (4.04, 5.84, 8.21, 12.19),
    "sigmoid_14": (4.11, 5.87, 8.15, 12.13),
    "exponential_12": (4.74, 6.71, 9.20, 13.33),
    "exponential_14": (4.75, 6.65, 9.06, 13.13),
    "softplus_1": (4.21, 5.98, 8.32, 12.51),
    "softplus_12": (4.30, 6.12, 8.55, 12.70),
    "softplus_14": (4.36, 6.21, 8.52, 12.54),
    "lambda_sigmoid_exponential": (4.55, 6.39, 8.75, 12.90),
    "lambda_sigmoid_exponential_14": (5.27, 7.35, 10.01, 14.57),
}


def by_metric(numbers: Numbers, rows: Iterable[str]) -> dict[str, dict[str, float]]:
    """The numbers of these rows as metric -> row -> number; rows that the paper does not have are left out."""
    found = [row for row in rows if row in numbers]
    return {f"recall@{n}": {row: numbers[row][place] for row in found} for place, n in enumerate(CUTOFFS)}
