"""Events as padded lists, against loops over the events one by one."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hccp_jax.data.lists import DAY_MS, earlier, lists_by, local_day, padded, reordered

HOUR_MS = 3_600_000


@st.composite
def logs(draw, users: int = 5, times: int = 12, most: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Users [n] and times [n] of events, sorted by both; few times, so that many are equal."""
    pairs = draw(st.lists(st.tuples(st.integers(1, users), st.integers(0, times)), max_size=most))
    table = np.array(sorted(pairs), np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


@given(logs(), st.lists(st.tuples(st.integers(0, 7), st.integers(-1, 14)), max_size=10), st.integers(0, 5))
@settings(max_examples=80, deadline=None)
def test_what_came_before_is_what_a_loop_finds(log, questions, width):
    user, time = log
    asked = np.array(questions, np.int64).reshape(-1, 2)
    events, real = earlier(user, time, asked[:, 0], asked[:, 1], width)
    assert events.shape == real.shape == (len(questions), width)
    for (who, when), row, there in zip(questions, events, real, strict=True):
        past = [event for event in range(len(user)) if user[event] == who and time[event] < when]
        last = past[len(past) - min(width, len(past)) :]
        assert row.tolist() == [0] * (width - len(last)) + last
        assert there.tolist() == [False] * (width - len(last)) + [True] * len(last)


def test_what_came_before_in_small():
    user, time = np.array([1, 1, 1, 3]), np.array([10, 20, 20, 5])
    events, real = earlier(user, time, np.array([1, 3, 2, 1]), np.array([20, 6, 99, 21]), 2)
    assert events.tolist() == [[0, 0], [0, 3], [0, 0], [1, 2]]
    assert real.tolist() == [[False, True], [False, True], [False, False], [True, True]]


@given(logs(), st.integers(1, 4), st.one_of(st.none(), st.integers(0, 5)), st.data())
@settings(max_examples=80, deadline=None)
def test_lists_are_what_a_loop_makes(log, width, gap, data):
    user, time = log
    group = np.array(data.draw(st.lists(st.integers(0, 1), min_size=len(user), max_size=len(user))), np.int64)
    slots = lists_by((user, group), width, None if gap is None else (time, gap))
    wanted: list[list[int]] = []
    for event in range(len(user)):
        new = event == 0 or (user[event], group[event]) != (user[event - 1], group[event - 1])
        new = new or (gap is not None and time[event] - time[event - 1] > gap) or len(wanted[-1]) == width
        if new:
            wanted.append([])
        wanted[-1].append(event)
    assert slots.first.tolist() == [events[0] for events in wanted]
    assert slots.row.tolist() == [row for row, events in enumerate(wanted) for _ in events]
    assert slots.slot.tolist() == [slot for events in wanted for slot in range(len(events))]
    values = np.stack([np.arange(len(user)), time], axis=1).astype(np.int32)
    table = padded(slots, width, values, -7)
    assert table.shape == (len(wanted), width, 2)
    assert table.dtype == np.int32
    for row, events in zip(table, wanted, strict=True):
        assert row.tolist() == [[e, time[e]] for e in events] + [[-7, -7]] * (width - len(events))


@given(logs(), st.integers(1, 4), st.data())
@settings(max_examples=100, deadline=None)
def test_lists_are_sorted_each_for_itself(log, width, data):
    user, time = log
    rank = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(user), max_size=len(user))), np.int64)
    slots = lists_by((user,), width)
    order = reordered(slots, time, rank)
    events = range(len(user))
    wanted = sorted(events, key=lambda event: (slots.row[event], rank[event], time[event], event))
    assert order.tolist() == wanted
    assert slots.row[order].tolist() == slots.row.tolist()


@given(st.lists(st.integers(-3 * DAY_MS, 20_000 * DAY_MS), min_size=1), st.integers(-12, 14))
def test_a_day_begins_at_midnight_of_the_zone(times, zone):
    days = local_day(np.array(times, np.int64), zone)
    assert days.dtype == np.int32
    for day, time in zip(days.tolist(), times, strict=True):
        midnight = day * DAY_MS - zone * HOUR_MS
        assert midnight <= time < midnight + DAY_MS


def test_the_last_millisecond_before_midnight_in_china():
    midnight = 1_511_539_200_000  # 2017-11-25 00:00 at UTC+8, which is 16:00 of the day before at UTC
    days = [local_day(np.array([midnight - 1, midnight]), zone).tolist() for zone in (0, 8)]
    assert days == [[17494, 17494], [17494, 17495]]


def test_lists_cover_a_long_log_without_a_loop():
    """The same at a size at which index types matter."""
    count = 300_000
    user = np.sort(np.random.default_rng(0).integers(1, 2_000, count)).astype(np.int32)
    slots = lists_by((user,), 7)
    lengths = np.bincount(slots.row)
    assert lengths.sum() == count
    assert lengths.max() == 7
    assert (user[slots.first[slots.row]] == user).all()
