"""Every store of impressions feeds the systems that its data can feed: finite losses, gradients and scores."""

import ali_ccp_synthetic
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recflow_synthetic
import taobao_ads_synthetic
import test_amazon_electronics
import test_jd_ad
import test_kuairand_large
import test_kuairec
import test_movielens
import test_recflow
import test_toutiao

from experiments.logs_ground import featurise_of
from hccp_jax.data.requests import Stage
from hccp_jax.data.source import log_source
from hccp_jax.data.stored import read_logs
from hccp_jax.errors import UserError
from hccp_jax.methods.hccp import Layout
from hccp_jax.methods.registry import SYSTEMS, HyperConfigs, SystemConfig, build


def taobao_ads(where):
    return taobao_ads_synthetic.converted(taobao_ads_synthetic.write_all(where / "in"), where / "out")


def ali_ccp(where):
    folder = ali_ccp_synthetic.small(where / "in")
    return ali_ccp_synthetic.converted(folder, where / "out")


def movielens(where):
    (where / "in").mkdir()
    folder = test_movielens.write(where / "in", test_movielens.some_rows(300))
    return test_movielens.converted(folder, where / "out")


def kuairec(where):
    folder = test_kuairec.write(where / "in", test_kuairec.big_rows(300), test_kuairec.small_rows())
    return test_kuairec.converted(folder, where / "out")


def amazon_electronics(where):
    folder = test_amazon_electronics.write(where / "in", test_amazon_electronics.some_rows(300))
    return test_amazon_electronics.converted(folder, where / "out")


def jd_ad(where):
    folder = test_jd_ad.write(where / "in", test_jd_ad.some_rows(200), test_jd_ad.some_rows(60, seed=1))
    return test_jd_ad.converted(folder, where / "out")


def toutiao(where):
    folder = test_toutiao.write(where / "in", test_toutiao.some_rows(200), test_toutiao.some_rows(60, 1, 900))
    return test_toutiao.converted(folder, where / "out")


def recflow(where):
    recflow_synthetic.write(where / "in", 9, test_recflow.DAYS, requests=6)
    return test_recflow.converted(where / "in", validation_days=1)


def kuairand_large(where):
    folder = test_kuairand_large.write_large(where / "in", test_kuairand_large.some_rows())
    protocol, quiet = test_kuairand_large.PROTOCOL, test_kuairand_large.quiet
    return test_kuairand_large.convert("kuairand_1k", folder, where / "out", protocol, quiet)


STORES = (kuairand_large, taobao_ads, ali_ccp, movielens, kuairec, amazon_electronics, jd_ad, toutiao, recflow)


@pytest.mark.slow
@pytest.mark.parametrize("make", STORES, ids=lambda make: make.__name__)
def test_a_store_feeds_what_its_data_can_feed(make, tmp_path, monkeypatch):
    monkeypatch.setattr("hccp_jax.data.guards.TELLS", 2.0)  # a handful of rows tell anything
    logs = read_logs(make(tmp_path))
    featurise = featurise_of(logs.store)
    source = log_source(logs.spec, logs.catalogue, featurise, logs.part("train"), 8, logs.impressions)
    stored = source.batch_at(0, 0)
    batch = featurise(jax.tree.map(jnp.asarray, stored), logs.catalogue)
    assert (np.asarray(batch.stage) == Stage.EXPOSED).any()
    has = logs.has | ({"cross"} if logs.spec.cross else set())
    fed = 0
    for system in ("logistic_regression", "two_tower", "three_tower", "hccp", "din"):
        try:
            method = build(system, logs.spec, SystemConfig(), Layout(logs.exposed, logs.sequence), frozenset(has))
        except UserError:  # the data lack what it needs
            continue
        fed += 1
        hyper = jax.tree.map(np.float32, getattr(HyperConfigs(), SYSTEMS[system].hyper))
        parameters = method.init(jax.random.key(0), batch)
        loss = lambda p, m=method, h=hyper: m.loss(p, h, batch, jax.random.key(1), np.float32(0), None)[0]  # noqa: E731
        value, gradients = jax.jit(jax.value_and_grad(loss))(parameters)
        assert np.isfinite(value), system
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients)), system
        test = jax.tree.map(lambda leaf: np.asarray(leaf[:4]), logs.part("test"))
        heads = method.heads(parameters, featurise(test, logs.catalogue))
        assert all(np.isfinite(np.asarray(leaf)[test.mask]).all() for leaf in heads.values()), system
    assert fed >= 3
