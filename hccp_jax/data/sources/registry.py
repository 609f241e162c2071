"""Every source by name; a source's module is imported when it is asked for."""

import importlib

from hccp_jax import config
from hccp_jax.data.sources.dataset import DataSet
from hccp_jax.errors import UserError

SOURCES = {
    "ali_ccp": "ali_ccp",
    "kuairand": "kuairand",
    "kuairand_1k": "kuairand_large",
    "kuairand_27k": "kuairand_large",
    "taobao_ads": "taobao_ads",
    "movielens": "movielens",
    "amazon_electronics": "amazon_electronics",
    "jd_ad": "jd_ad",
    "toutiao": "toutiao",
    "kuairec": "kuairec",
    "recflow": "recflow",
    "comirec": "comirec",
    "userbehavior": "userbehavior",
    "amazon_books": "amazon_reviews",
}  # name -> module of this package, which has a DATASET of that name in DATASETS


def source(name: str) -> DataSet:
    """A source by name.

    Raises:
        UserError: for a name that is none, with the near miss.
    """
    if name not in SOURCES:
        raise UserError(f"source={name!r}: unknown; {config.near_miss(name, SOURCES)}")
    module = importlib.import_module(f"hccp_jax.data.sources.{SOURCES[name]}")
    return next(dataset for dataset in module.DATASETS if dataset.name == name)
