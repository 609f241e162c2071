"""Lists of users: real exposures and their feedback, and simulated candidates that the user had not seen."""

import dataclasses

import jax
import numpy as np
import pytest
from kuairand_synthetic import small_config, write_all

from hccp_jax.data.kuairand_dataset import load
from hccp_jax.data.kuairand_lists import user_lists


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    config = small_config()
    data = load(write_all(tmp_path_factory.mktemp("kuairand")), config)
    return data, config, {period: user_lists(data, period, config) for period in ("test", "validation")}


def exposures(log):
    """User -> item -> most kinds of feedback, exposure by exposure."""
    found = {}
    for row, user in enumerate(log.user["id"]):
        for slot in np.flatnonzero(log.mask[row]):
            own = found.setdefault(int(user), {})
            kinds = sum(float(label[row, slot]) for label in log.labels.values())
            item = int(log.items["id"][row, slot])
            own[item] = max(own.get(item, 0.0), kinds)
    return found


@pytest.mark.parametrize("period", ["test", "validation"])
def test_lists_begin_with_all_that_was_shown_and_its_feedback(made, period):
    data, _, lists = made
    shown = exposures(getattr(data, period))
    users = np.asarray(lists[period].requests.user["id"])
    assert users.tolist() == sorted(user for user, items in shown.items() if max(items.values()) > 0)
    width = lists[period].feedback.shape[1]
    for row, user in enumerate(users):
        ids = lists[period].ids[row, :width]
        found = dict(zip(ids[ids > 0].tolist(), lists[period].feedback[row][ids > 0].tolist(), strict=True))
        assert found == shown[int(user)]
        assert not lists[period].feedback[row][ids == 0].any()


@pytest.mark.parametrize("period", ["test", "validation"])
def test_candidates_are_distinct_and_new_to_the_user(made, period):
    data, _, lists = made
    view, width = data.views[period], lists[period].feedback.shape[1]
    counts = []
    for row, user in enumerate(lists[period].requests.user["id"]):
        ids = lists[period].ids[row]
        ids = ids[ids > 0]
        assert len(set(ids.tolist())) == len(ids)
        candidates = lists[period].ids[row, width:]
        seen = view.seen[np.flatnonzero(view.requests.user["id"] == user)[0]]
        assert not seen[candidates[candidates > 0]].any()
        counts.append((candidates > 0).sum())
    assert min(counts) > 0
    assert lists[period].ids.max() < data.spec.items


def test_candidates_hang_on_the_user_and_the_seed_and_not_on_who_else_is_asked(made):
    data, config, lists = made
    few = user_lists(data, "test", config, users=3)
    users, every = np.asarray(few.requests.user["id"]), np.asarray(lists["test"].requests.user["id"])
    assert 3 <= len(users) < len(every)
    for row, user in enumerate(users):
        whole = lists["test"].ids[np.flatnonzero(every == user)[0]]
        assert set(few.ids[row].tolist()) - {0} == set(whole.tolist()) - {0}
    other = user_lists(data, "test", dataclasses.replace(config, seed=config.seed + 1))
    width = other.feedback.shape[1]
    np.testing.assert_array_equal(other.ids[:, :width], lists["test"].ids[:, :width])
    assert any(set(a) != set(b) for a, b in zip(other.ids.tolist(), lists["test"].ids.tolist(), strict=True))


def test_the_order_of_the_log_does_not_matter(made):
    data, config, lists = made
    turned = dataclasses.replace(data, test=jax.tree.map(lambda leaf: np.asarray(leaf)[::-1], data.test))
    found = user_lists(turned, "test", config)
    np.testing.assert_array_equal(found.ids, lists["test"].ids)
    np.testing.assert_array_equal(found.feedback, lists["test"].feedback)
