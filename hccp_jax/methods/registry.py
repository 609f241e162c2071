"""Every system by name: how it is built from one configuration, and where its numbers stand in another."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hccp_jax.config import field as setting
from hccp_jax.data.catalogue import FeatureSpec
from hccp_jax.errors import UserError
from hccp_jax.methods.arf import ArfConfig, ArfHyper, arf
from hccp_jax.methods.base import Method
from hccp_jax.methods.copr import CoprConfig, CoprHyper, copr
from hccp_jax.methods.croloss import HyperConfig as CroLossHyper
from hccp_jax.methods.croloss import KernelConfig, croloss_system
from hccp_jax.methods.dat import DatHyper, dat
from hccp_jax.methods.fs_ltr import FsLtrHyper, fs_ltr
from hccp_jax.methods.hap import COMBINERS, hap
from hccp_jax.methods.hap import HyperConfig as HapHyper
from hccp_jax.methods.hccp import HyperConfig as HccpHyper
from hccp_jax.methods.hccp import Layout, NegativesConfig, hccp
from hccp_jax.methods.inttower import IntTowerHyper, inttower
from hccp_jax.methods.lcron import LcronConfig, LcronHyper, lcron
from hccp_jax.methods.multi_positive import MultiPositiveHyper, multi_positive
from hccp_jax.methods.pointwise import PointwiseHyper, pointwise
from hccp_jax.methods.ranktower import RankTowerHyper, RankTowerLossConfig, ranktower
from hccp_jax.methods.rethink import RethinkHyper, rethink
from hccp_jax.methods.sdcl import HyperConfig as SdclHyper
from hccp_jax.methods.sdcl import sdcl
from hccp_jax.models.cold import Cold, ColdConfig
from hccp_jax.models.dat import DatConfig, DualAugmentedTower
from hccp_jax.models.din import Din, DinConfig
from hccp_jax.models.inttower import IntTower, IntTowerConfig
from hccp_jax.models.light_heavy import HapConfig
from hccp_jax.models.logistic_regression import LogisticConfig, LogisticRegression
from hccp_jax.models.mean_history import MeanHistoryConfig
from hccp_jax.models.ranktower import RankTower, RankTowerConfig
from hccp_jax.models.sdcl import SdclConfig
from hccp_jax.models.three_tower import ModelConfig, ThreeTower
from hccp_jax.models.two_tower import TwoTower, TwoTowerConfig


@dataclass(frozen=True)
class CombineConfig:
    """How the gradients of several objectives become one; static."""

    combine: str = setting("sum", "sum of the gradients, or gradient surgery", choices=COMBINERS)


@dataclass(frozen=True)
class SystemConfig:
    """What is static of every system: the sizes of the architectures and the forms of the losses."""

    three_tower: ModelConfig = ModelConfig()
    negatives: NegativesConfig = NegativesConfig()
    logistic_regression: LogisticConfig = LogisticConfig()
    two_tower: TwoTowerConfig = TwoTowerConfig()
    dat: DatConfig = DatConfig()
    cold: ColdConfig = ColdConfig()
    inttower: IntTowerConfig = IntTowerConfig()
    ranktower: RankTowerConfig = RankTowerConfig()
    ranktower_loss: RankTowerLossConfig = RankTowerLossConfig()
    din: DinConfig = DinConfig()
    sdcl: SdclConfig = SdclConfig()
    mean_history: MeanHistoryConfig = MeanHistoryConfig()
    croloss: KernelConfig = KernelConfig()
    hap: HapConfig = HapConfig()
    hap_gradients: CombineConfig = CombineConfig()
    copr: CoprConfig = CoprConfig()
    arf: ArfConfig = ArfConfig()
    lcron: LcronConfig = LcronConfig()


@dataclass(frozen=True)
class HyperConfigs:
    """The traced numbers of every system."""

    hccp: HccpHyper = HccpHyper()
    pointwise: PointwiseHyper = PointwiseHyper()
    dat: DatHyper = DatHyper()
    inttower: IntTowerHyper = IntTowerHyper()
    ranktower: RankTowerHyper = RankTowerHyper()
    sdcl: SdclHyper = SdclHyper()
    croloss: CroLossHyper = CroLossHyper()
    hap: HapHyper = HapHyper()
    copr: CoprHyper = CoprHyper()
    rethink: RethinkHyper = RethinkHyper()
    arf: ArfHyper = ArfHyper()
    lcron: LcronHyper = LcronHyper()
    fs_ltr: FsLtrHyper = FsLtrHyper()
    multi_positive: MultiPositiveHyper = MultiPositiveHyper()


@dataclass(frozen=True)
class System:
    """One system.

    Attributes:
        build: (feature sizes, configuration, layout) -> method.
        hyper: the field of `HyperConfigs` that holds its numbers.
    """

    build: Callable[[FeatureSpec, SystemConfig, Layout], Method]
    hyper: str


def _three_tower(spec: FeatureSpec, config: SystemConfig) -> ThreeTower:
    return ThreeTower(config.three_tower, spec, spec.tasks)


SYSTEMS: dict[str, System] = {
    "hccp": System(lambda s, c, at: hccp(s, c.three_tower, c.negatives, at), "hccp"),
    "copr": System(lambda s, c, at: copr(s, c.three_tower, c.copr, at.sequence), "copr"),
    "rethink": System(lambda s, c, at: rethink(s, c.three_tower), "rethink"),
    "arf": System(lambda s, c, at: arf(s, _three_tower(s, c), c.arf), "arf"),
    "lcron": System(lambda s, c, at: lcron(s, _three_tower(s, c), c.lcron), "lcron"),
    "fs_ltr": System(lambda s, c, at: fs_ltr(s, _three_tower(s, c)), "fs_ltr"),
    "multi_positive": System(lambda s, c, at: multi_positive(s, _three_tower(s, c)), "multi_positive"),
    "logistic_regression": System(
        lambda s, c, at: pointwise(s, LogisticRegression(c.logistic_regression, s)), "pointwise"
    ),
    "two_tower": System(lambda s, c, at: pointwise(s, TwoTower(c.two_tower, s)), "pointwise"),
    # Base of HCCP for logs without stages: its towers, impressions alone
    "three_tower": System(lambda s, c, at: pointwise(s, _three_tower(s, c)), "pointwise"),
    "cold": System(lambda s, c, at: pointwise(s, Cold(c.cold, s), frozenset({"cross"})), "pointwise"),
    "din": System(lambda s, c, at: pointwise(s, Din(c.din, s), frozenset({"history"})), "pointwise"),
    "dat": System(lambda s, c, at: dat(s, DualAugmentedTower(c.dat, s), at.exposed), "dat"),
    "inttower": System(lambda s, c, at: inttower(s, IntTower(c.inttower, s), at.exposed), "inttower"),
    "ranktower": System(lambda s, c, at: ranktower(s, RankTower(c.ranktower, s), c.ranktower_loss), "ranktower"),
    # the same losses and samples on the three towers: what of RankTower is its network
    "ranktower_loss": System(lambda s, c, at: ranktower(s, _three_tower(s, c), c.ranktower_loss), "ranktower"),
    "sdcl": System(lambda s, c, at: sdcl(s, c.sdcl, at.exposed), "sdcl"),
    "croloss": System(lambda s, c, at: croloss_system(s, c.mean_history, c.croloss, at.exposed), "croloss"),
    "hap": System(lambda s, c, at: hap(s, c.hap, at.exposed, c.hap_gradients.combine), "hap"),
}


def build(name: str, spec: FeatureSpec, config: SystemConfig, layout: Layout, has: frozenset[str]) -> Method:
    """The method of a system.

    Args:
        name: one of `SYSTEMS`.
        spec: feature sizes.
        config: what is static.
        layout: which leading slots hold what.
        has: what the data has, in the words of `Method.needs`.

    Raises:
        UserError: if the data lacks what the system needs.
    """
    method = SYSTEMS[name].build(spec, config, layout)
    missing = sorted(method.needs - has)
    if missing:
        raise UserError(f"system={name!r}: needs {', '.join(missing)}, which the data has not; it has {_listed(has)}")
    return method


def _listed(has: frozenset[str]) -> str:
    return ", ".join(sorted(has)) or "impressions only"


def numbers(name: str, hypers: HyperConfigs) -> Any:
    """The traced numbers of a system."""
    return getattr(hypers, SYSTEMS[name].hyper)
