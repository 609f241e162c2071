"""Features of KuaiRand: exact values on a log written by hand, and nothing that looks ahead."""

from dataclasses import fields, replace

import jax
import jax.numpy as jnp
import kuairand_synthetic as synthetic
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hccp_jax.data import kuairand as kr
from hccp_jax.data import kuairand_features as kf
from hccp_jax.data.catalogue import Catalogue, attach
from hccp_jax.data.catalogue_view import with_items
from hccp_jax.data.requests import RequestBatch


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return synthetic.tables(tmp_path_factory.mktemp("kuairand"))


def past_of(tables):
    periods = kr.split(tables.log, synthetic.small_config())
    return kf.collect(tables, periods)


def features_until(tables, period):
    """Everything that a request of a period up to `period` may look at: all users, all tabs."""
    past = past_of(tables)
    user, when = (grid.ravel() for grid in np.meshgrid(np.arange(past.users), np.arange(period + 1)))
    tag = np.arange(past.items, dtype=np.int32) % 5
    history, mask = kf.histories(past, user, when, 4)
    week = kf.week_sums(past, np.ones(len(past.item)))[: period + 1]
    statistics = kf.item_statistics(past)[: period + 1], kf.user_statistics(past)[: period + 1]
    return statistics, history, mask, kf.affinities(past, user, when, tag, 5), week


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_rows_on_or_after_a_period_change_no_feature_of_it(tables, data):
    config, log = synthetic.small_config(), tables.log
    periods = kr.split(log, config)
    period = data.draw(st.integers(0, periods.count - 1))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    later = periods.of >= period
    size = int(later.sum())
    changed = {name: getattr(log, name).copy() for name in kr.Exposures.__dataclass_fields__}
    draws = {"user": (1, 13), "item": (1, 61), "tab": (0, 15), "click": (0, 2), "long_view": (0, 2)}
    for name, (low, high) in draws.items():
        changed[name][later] = rng.integers(low, high, size)
    kept = ~later | (rng.random(len(later)) < 0.7) | (np.diff(log.day, prepend=0) > 0)  # a day keeps its first row
    other = kr.Exposures(**{name: values[kept] for name, values in changed.items()})
    before, after = features_until(tables, period), features_until(replace(tables, log=other), period)
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_a_label_of_the_past_does_change_features(tables):
    log = tables.log
    flipped = replace(tables, log=replace(log, long_view=1 - log.long_view))
    first, second = features_until(tables, 3), features_until(flipped, 3)
    assert not np.array_equal(first[0][0], second[0][0])
    assert not np.array_equal(first[0][1], second[0][1])
    assert not np.array_equal(first[3], second[3])


def hand_made(tables):
    """User 1 saw video 5 before the log, then video 6 on days 0 and 1; user 2 saw video 6 on day 0."""
    rows = {"user": [1, 2, 1, 3, 3, 3], "item": [6, 6, 6, 9, 9, 9], "tab": [1, 4, 4, 0, 0, 0]}
    rows |= {"click": [1, 0, 1, 0, 0, 0], "long_view": [0, 1, 1, 0, 0, 0]}
    log, earlier = {}, {}
    kinds = {field.name: getattr(tables.log, field.name).dtype for field in fields(kr.Exposures)}
    day = np.array([0, 0, 1, 2, 3, 4])
    rows |= {"day": day + 19107, "time": (day + 19107) * 86_400_000 + np.arange(6)}
    first = {"user": [1], "item": [5], "tab": [0], "click": [0], "long_view": [1], "day": [0], "time": [0]}
    for name, kind in kinds.items():
        log[name], earlier[name] = np.asarray(rows[name], kind), np.asarray(first[name], kind)
    return replace(tables, log=kr.Exposures(**log), earlier=kr.Exposures(**earlier))


def logit(rate):
    return np.log(rate / (1 - rate))


def test_statistics_are_the_stated_formulas(tables):
    tables = hand_made(tables)
    past = kf.collect(tables, kr.split(tables.log, synthetic.small_config(test_from="20220429")))
    items, users = kf.item_statistics(past), kf.user_statistics(past)
    # day 1 knows the earlier exposure and two of day 0: clicks 1 of 2, long views 2 of 3
    click, view = (1 + 2 * 0.5) / (2 + 2), (2 + 2 * 0.5) / (3 + 2)
    expected = [logit((1 + 20 * click) / 22) - logit(click), logit((1 + 20 * view) / 22) - logit(view)]
    expected += [np.log1p(2) / 4, np.log1p(2) / 4]
    np.testing.assert_allclose(items[1, 6], expected, atol=1e-6)
    assert items[1, 5, 2] == pytest.approx(np.log1p(1) / 4)
    assert items[1, 5, 3] == 0.0  # an earlier exposure has no date
    assert not items[:, 0].any()
    # user 1 on tab 1: one click of one, one long view of two in all, none of one on the tab
    tab_click, tab_view = (1 + 20 * click) / 21, 20 * view / 21
    expected = [
        *(logit((1 + 10 * click) / 11) - logit(click), logit((1 + 10 * view) / 12) - logit(view), np.log1p(2) / 4),
        *(logit((1 + 10 * tab_click) / 11) - logit(click), logit(10 * tab_view / 11) - logit(view), np.log1p(1) / 4),
    ]
    np.testing.assert_allclose(users[1, 1, 1], expected, atol=1e-6)
    np.testing.assert_allclose(users[0, 3], 0.0, atol=1e-6)  # nothing is known on day 0 about user 3


def test_histories_end_with_the_latest_exposure(tables):
    tables = hand_made(tables)
    past = kf.collect(tables, kr.split(tables.log, synthetic.small_config(test_from="20220429")))
    user, period = np.array([1, 1, 1, 4]), np.array([0, 1, 2, 2])
    history, mask = kf.histories(past, user, period, 3)
    np.testing.assert_array_equal(history["id"], [[0, 0, 5], [0, 5, 6], [5, 6, 6], [0, 0, 0]])
    np.testing.assert_array_equal(mask, history["id"] > 0)
    np.testing.assert_array_equal(history["groups"][2], [[1, 1], [1, 0], [1, 1]])
    np.testing.assert_array_equal(kf.histories(past, user, period, 2)[0]["id"][2], [6, 6])


def test_affinities_are_smoothed_shares_and_rates(tables):
    tables = hand_made(tables)
    past = kf.collect(tables, kr.split(tables.log, synthetic.small_config(test_from="20220429")))
    tag = np.zeros(past.items, np.int32)
    tag[6] = 1
    got = kf.affinities(past, np.array([1, 4]), np.array([1, 1]), tag, 2)
    share = np.array([1 + 1, 2 + 1]) / 5  # three exposures before day 1, one more of each tag
    shown, viewed, own = np.array([1, 1]), np.array([1, 0]), (1 + 10 * 0.35) / (2 + 10)
    np.testing.assert_allclose(got[0, :, 0], np.log((shown + 5 * share) / 7 / share), atol=1e-6)
    np.testing.assert_allclose(got[0, :, 1], logit((viewed + 5 * own) / (shown + 5)) - logit(own), atol=1e-6)
    np.testing.assert_allclose(got[1], 0.0, atol=1e-6)


def test_static_tables(tables):
    users, size = kf.encode_users(tables.users)
    assert users.shape == (13, 25)
    assert not users[0].any()
    assert users[1:].min() > 15 + 24  # tab and hour come first
    assert users.max() < size
    field = kr.USER_FIELDS.index("onehot_feat4")  # missing for everybody: its own id, not padding
    assert len(np.unique(users[1:, field])) == 1
    for column in range(users.shape[1] - 1):  # fields do not share ids
        assert not np.intersect1d(users[1:, column], users[1:, column + 1]).size
    groups = kf.activity_groups(tables.users)
    assert groups[0] == 4
    names = dict(enumerate(kf.ACTIVITY))
    for group, text in zip(groups[1:], tables.users["user_active_degree"], strict=True):
        assert (names[group] == text) if group < 4 else text not in kf.ACTIVITY
    assert len(set(groups)) > 2
    items, size, tags = kf.encode_items(tables.videos, 19107)
    assert items["categorical"].shape == (61, 6)
    assert items["categorical"].max() < size
    assert not items["categorical"][0].any()
    first_tags = items["categorical"][1:, 0]  # "39", "12,65" -> 12, missing, "8"
    np.testing.assert_array_equal(first_tags.reshape(-1, 4), np.tile([4, 3, 1, 5], (15, 1)))
    assert tags == 5
    assert len(np.unique(items["categorical"][1:, 1])) == 15  # four videos an author
    assert np.isfinite(items["dense"]).all()
    assert items["dense"][1, 0] == 0.0  # missing duration
    np.testing.assert_allclose(items["dense"][1:, 1], 15 / 30)


def test_request_categories_share_the_user_vocabulary():
    got = kf.request_categories(np.array([0, 14]), np.array([0, 23]))
    np.testing.assert_array_equal(got, [[1, 16], [15, 39]])


def test_cross_features_gather_the_affinity_of_each_tag():
    affinity = np.arange(12, dtype=np.float32).reshape(2, 3, 2) + 1
    blank = np.zeros((2, 1), np.int32)
    user = {"id": np.array([1, 2], np.int32), "affinity": affinity, "day": np.zeros(2, np.int32)}
    history = {"id": blank}
    batch = RequestBatch(user, history, blank > 0, {"id": blank}, None, blank, blank, {}, {}, blank > 0)
    table = np.array([[0, 0], [1, 9], [3, 9]], np.int32)
    catalogue = Catalogue(users={}, items={"categorical": table}, daily=np.ones((1, 3, 2), np.float32))
    attached = attach(with_items(batch, jnp.array([2, 0, 1])), jax.tree.map(jnp.asarray, catalogue))
    cross = jax.jit(kf.cross_features)(attached.replace(user=jax.tree.map(jnp.asarray, attached.user)))
    assert cross.shape == (2, 3, kf.CROSS)
    np.testing.assert_array_equal(cross, np.stack([affinity[:, 2], np.zeros((2, 2)), affinity[:, 0]], axis=1))
