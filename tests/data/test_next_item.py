"""Samples and questions of next-item prediction against the protocol in loops over users."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hccp_jax.data.catalogue import Catalogue
from hccp_jax.data.next_item import TASK, feature_spec, next_item_source, questions
from hccp_jax.data.requests import Stage, validate
from hccp_jax.data.sequences import Sequences
from hccp_jax.errors import UserError

ITEMS, SIZE, HISTORY, NEGATIVES = 40, 8, 6, 5


@pytest.fixture(scope="module")
def part():
    """Users 100.. with sequences of 1 to 19 events; some items come again."""
    length = np.concatenate([np.arange(1, 20), [5, 9, 12]]).astype(np.int32)
    item = np.random.default_rng(0).integers(1, ITEMS, length.sum()).astype(np.int32)
    begin = np.cumsum(length, dtype=np.int64) - length
    return Sequences(100 + np.arange(len(length), dtype=np.int32), begin, length, item)


@pytest.fixture(scope="module")
def source(part):
    return next_item_source(feature_spec(ITEMS), Catalogue({}, {}), part, SIZE, HISTORY, NEGATIVES)


def sequence(part, user):
    row = int(np.flatnonzero(part.user == user)[0])
    return part.item[part.begin[row] : part.begin[row] + part.length[row]].tolist()


def test_a_sample_is_a_position_and_what_was_before(part, source):
    batches = source.chunk([0, 5], 3, 40)
    assert {name: leaf.shape[:3] for name, leaf in batches.items()} == dict.fromkeys(batches, (2, 40, SIZE))
    positions = {}
    for user, history, item in zip(
        *(batches[n].reshape(2 * 40 * SIZE, -1) for n in ("user", "history", "item")), strict=True
    ):
        own = sequence(part, user[0])
        past = [i for i in history if i]
        assert history.tolist() == past + [0] * (HISTORY - len(past))
        fits = [k for k in range(4, len(own)) if own[k] == item[0] and own[max(0, k - HISTORY) : k] == past]
        assert fits
        positions.setdefault(len(own), set()).add(fits[0])
    assert positions[12] >= set(range(4, 12)) - {7}
    assert min(positions) == 5  # shorter ones have nothing to predict


def test_positions_are_uniform(part):
    only = Sequences(
        part.user[-1:], part.begin[-1:], part.length[-1:], np.arange(1, 1 + len(part.item), dtype=np.int32)
    )
    batches = next_item_source(feature_spec(999), Catalogue({}, {}), only, 100, 3, 1).chunk([0], 0, 80)
    counts = np.bincount(batches["item"].ravel() - only.item[only.begin[0]])
    assert (counts[:4] == 0).all()
    np.testing.assert_allclose(counts[4:], 1000, atol=150)


def test_an_epoch_has_every_user_once_and_any_chunk_is_a_part_of_one(part, source):
    usable = part.user[part.length > 4]
    assert source.epochs(10) == pytest.approx(10 * SIZE / len(usable))
    long = source.chunk([7], 0, 12)
    users = long["user"].ravel()
    epochs = users[: len(users) // len(usable) * len(usable)].reshape(-1, len(usable))
    for epoch in epochs:
        assert sorted(epoch) == sorted(usable)
    assert (epochs[0] != epochs[1]).any()
    later = source.chunk([3, 7], 5, 2)
    for name, leaf in later.items():
        np.testing.assert_array_equal(leaf[1], long[name][0, 5:7])
        halves = [source.chunk([3, 7], 5, 2, part=(index, 2))[name] for index in range(2)]
        np.testing.assert_array_equal(np.concatenate(halves, axis=2), leaf)
    assert (later["item"][0] != later["item"][1]).any()
    np.testing.assert_array_equal(source.frequency, np.bincount(part.item, minlength=ITEMS))


def test_a_batch_is_requests_with_random_items_of_its_own(source):
    featurise = jax.jit(source.featurise)
    batch = source.batch_at(1, 4)
    found = validate(featurise(batch, source.catalogue), {"items.id": ITEMS, "history.id": ITEMS})
    np.testing.assert_array_equal(found.items["id"][:, 0], batch["item"])
    np.testing.assert_array_equal(found.stage, [[Stage.EXPOSED] + [Stage.POOL] * NEGATIVES] * SIZE)
    np.testing.assert_array_equal(found.labels[TASK], found.stage == Stage.EXPOSED)
    np.testing.assert_array_equal(found.history_mask, found.history["id"] > 0)
    half = featurise({name: leaf[4:] for name, leaf in batch.items()}, source.catalogue)
    np.testing.assert_array_equal(half.items["id"], found.items["id"][4:])  # whatever device they are on
    other = featurise(source.batch_at(1, 5), source.catalogue)
    assert (np.asarray(other.items["id"][:, 1:]) != found.items["id"][:, 1:]).mean() > 0.8


def test_random_items_are_uniform(source):
    many = source.chunk([0], 0, 400)
    flat = {name: jnp.asarray(leaf.reshape(-1, *leaf.shape[3:])) for name, leaf in many.items()}
    drawn = np.asarray(jax.jit(source.featurise)(flat, source.catalogue).items["id"][:, 1:])
    counts = np.bincount(drawn.ravel(), minlength=ITEMS)
    assert counts[0] == 0
    expected = drawn.size / (ITEMS - 1)
    assert ((counts[1:] - expected) ** 2 / expected).sum() < 80  # chi squared, 38 degrees: 1e-4 above 79


def test_questions_are_the_last_fifth_each_item_once(part):
    asked = questions(part, HISTORY)
    expected = {}
    for user in part.user:
        own = sequence(part, user)
        k = int(len(own) * 0.8)
        if k:
            expected[int(user)] = (own[max(0, k - HISTORY) : k], sorted(set(own[k:])))
    assert asked.user.tolist() == list(expected)
    for row, user in enumerate(asked.user):
        past, targets = expected[int(user)]
        assert asked.history[row].tolist() == past + [0] * (HISTORY - len(past))
        assert sorted(asked.target[asked.row == row]) == targets
    assert (np.diff(asked.row) >= 0).all()
    few = questions(part, HISTORY, users=4)
    assert len(few.user) == 4
    assert set(few.user) < set(asked.user)
    assert few.row.max() == 3


def test_sequences_too_short_are_one_line(part):
    short = Sequences(part.user[:1], part.begin[:1], part.length[:1], part.item)
    with pytest.raises(UserError, match="no held-out user has two events"):
        questions(short, 3)
    with pytest.raises(UserError, match="no user has more than 4 events"):
        next_item_source(feature_spec(ITEMS), Catalogue({}, {}), short, 4, 3, 2)
