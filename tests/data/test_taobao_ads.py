"""Taobao's display ads: every impression once, in the lists that a slow reading of the files gives."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from taobao_ads_synthetic import AD_IDS, ADS, BEGIN, DAY, EACH_PART, FIRST, SECOND, converted, expected, read, write_all

from hccp_jax.data.convert import convert

times = st.builds(
    lambda day, second: BEGIN + day * DAY + second, st.integers(-1, 8), st.sampled_from([0, 1, 3700, 80000])
)
impressions = st.lists(
    st.tuples(
        st.sampled_from([234, 523, 999]),
        times,
        st.sampled_from([*AD_IDS, 55]),
        st.sampled_from([FIRST, SECOND]),
        st.integers(0, 1),
    ),
    max_size=40,
)
protocols = st.fixed_dictionaries(
    {
        "lists": st.sampled_from(["day", "gap"]),
        "width": st.integers(1, 4),
        "history": st.integers(1, 3),
        "history_of": st.sampled_from(["clicks", "impressions"]),
    }
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=impressions, changes=protocols)
def test_every_impression_is_once_in_the_lists_that_a_slow_reading_gives(tmp_path_factory, drawn, changes):
    folder = tmp_path_factory.mktemp("ads")
    shown = [*drawn, *EACH_PART]
    store = converted(write_all(folder / "in", shown), folder / "out", **changes)
    found, wanted = read(store), expected(shown, changes)
    for part in wanted:
        assert sorted(found[part]) == sorted(wanted[part])
    inside = [row for row in shown if BEGIN <= row[1] < BEGIN + 8 * DAY]
    pairs = Counter(row[:4] for row in set(inside))
    conflicts = sum(count == 2 for count in pairs.values())
    lines = "\n".join(store.facts["lines"])
    assert f"{len(shown):,} rows, {len(shown) - len(inside)} of them outside" in lines
    assert f"{len(inside) - len(set(inside))} duplicates removed, {conflicts} impressions with both" in lines


@pytest.mark.parametrize("how", [{"gz": True}, {"end": "\r\n"}, {"bom": True}])
def test_files_gzipped_from_windows_or_with_a_mark_give_the_same(tmp_path, how):
    plain = converted(write_all(tmp_path / "plain"), tmp_path / "a")
    other = converted(write_all(tmp_path / "other", **how), tmp_path / "b")
    assert read(plain) == read(other)
    for table in ("items", "users"):
        np.testing.assert_array_equal(plain[table]["categorical"], other[table]["categorical"])


def test_features_of_ads_and_users(tmp_path):
    shown = [*EACH_PART, (999, BEGIN, 55, FIRST, 0)]  # neither is in the files of features
    store = converted(write_all(tmp_path / "in", shown), tmp_path / "out")
    assert store["published_items"]["id"].tolist() == [0, 7, 9, 55, 63133, 1000000]
    assert store["published_users"]["id"].tolist() == [0, 234, 523, 999]
    items = np.asarray(store["items"]["categorical"])
    category, brand = items[:, 0], items[:, 1]
    assert category[1] == category[4] != category[2]  # 6406 twice
    assert brand[2] == brand[4]  # 95471
    assert brand[1] == brand[3] == category.max() + 1  # NULL, and an ad without features: missing
    assert not items[0].any()
    assert items.max() < store.facts["spec"]["item_categories"]
    assert (np.diff(items[1:], axis=1) > 0).all()  # fields lie side by side
    np.testing.assert_allclose(store["items"]["dense"][4, 0], math.log1p(170.0) / 10, rtol=1e-6)
    users = np.asarray(store["users"]["categorical"])
    assert users[1, 4] == users[3, 4] != users[2, 4]  # an empty pvalue_level is as unknown as a missing profile
    assert users[1, 2] == users[2, 2] != users[3, 2]
    assert store.facts["spec"]["users"] == 4
    lines = "\n".join(store.facts["lines"])
    assert "ads: 5, 1 of them without features" in lines
    assert "users: 3, 1 without a profile" in lines


def test_rare_values_share_an_id(tmp_path):
    store = converted(write_all(tmp_path / "in"), tmp_path / "out", rare=2)
    category = store["items"]["categorical"][:, 0]
    assert category[1] == category[3] == 3  # 6406 has two ads
    assert category[2] == category[4] == 2  # 11 and 12 are rare


behaviours = st.lists(
    st.tuples(
        st.sampled_from([234, 523, 1]),
        times,
        st.sampled_from(["pv", "cart", "fav", "buy", "ipv"]),
        st.sampled_from([6406, 11, 77]),
        st.sampled_from([95471, 4, 2, "NULL"]),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(past=behaviours, drawn=impressions)
def test_behaviours_count_strictly_before_their_list(tmp_path_factory, past, drawn):
    folder = tmp_path_factory.mktemp("ads")
    past = [*past, (234, BEGIN - 40 * DAY, "pv", 6406, 95471), (234, -5, "pv", 6406, 95471)]  # too early, garbage
    # without clicks, which a count could tell by chance where there are so few
    shown = [(*row[:-1], 0) for row in (*drawn, *EACH_PART)]
    store = converted(write_all(folder / "in", shown, past), folder / "out", behaviours=True)
    features = {int(row.split(",")[0]): [row.split(",")[place] for place in (1, 4)] for row in ADS}
    users, items = store["published_users"]["id"], store["published_items"]["id"]
    assert store.facts["spec"]["cross"] == 4
    for part in ("train", "validation", "test"):
        batch, begin = store[part].requests(), store[part]["request_time"]
        for row, slot in np.argwhere(batch.mask):
            user, ad = users[batch.user["id"][row]], int(items[batch.items["id"][row, slot]])
            wanted = []
            for place in (0, 1):
                value = features.get(ad, ["NULL", "NULL"])[place]
                kinds = [
                    kind in ("cart", "fav", "buy")
                    for who, when, kind, *found in past
                    if who == user and BEGIN - 14 * DAY <= when < begin[row] // 1000
                    if value != "NULL" and str(found[place]) == value
                ]
                wanted += [math.log1p(kinds.count(False)), math.log1p(kinds.count(True))]
            np.testing.assert_allclose(batch.cross[row, slot], wanted, rtol=1e-6)


def test_many_buckets_hold_what_one_does(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    shown = [
        (int(u), BEGIN + int(t), AD_IDS[a], FIRST, int(c))
        for u, t, a, c in zip(
            random.integers(0, 300, 3000),
            random.integers(0, 8 * DAY, 3000),
            random.integers(0, 4, 3000),
            random.integers(0, 2, 3000),
            strict=True,
        )
    ]
    write_all(tmp_path / "in", [*shown, *EACH_PART])
    one = read(converted(tmp_path / "in", tmp_path / "one"))
    monkeypatch.setattr("hccp_jax.data.buckets.ROWS", 2000)
    several = converted(tmp_path / "in", tmp_path / "several")
    assert len(several["train"].shards) > 5
    many = read(several)
    assert {part: sorted(rows) for part, rows in one.items()} == {part: sorted(rows) for part, rows in many.items()}


def test_a_stopped_conversion_goes_on_and_gives_the_same(tmp_path, monkeypatch):
    write_all(tmp_path / "in")
    monkeypatch.setattr("hccp_jax.data.buckets.ROWS", 100)
    whole = converted(tmp_path / "in", tmp_path / "whole")

    def stop(line: str) -> None:
        if line.startswith("lists: bucket 1"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert("taobao_ads", tmp_path / "in", tmp_path / "out", {}, stop)
    resumed: list[str] = []
    again = convert("taobao_ads", tmp_path / "in", tmp_path / "out", {}, resumed.append)
    assert any(line.startswith("going on") for line in resumed)
    assert read(again) == read(whole)
    assert again.facts["lines"] == whole.facts["lines"]
