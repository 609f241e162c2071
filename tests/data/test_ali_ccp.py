"""Ali-CCP: every sample once, with what a slow reading of the published text gives."""

from collections import Counter

import numpy as np
import pytest
from ali_ccp_synthetic import (
    CROSS,
    HELD,
    PAST,
    PROFILE,
    TRAINING,
    columns,
    converted,
    sample,
    session,
    small,
    write_all,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hccp_jax.data.convert import convert
from hccp_jax.data.sources.ali_ccp_lists import held_out


@pytest.fixture(autouse=True)
def few_samples(monkeypatch):
    """Crossed values of so few samples may separate their labels, which the guards take for a leak."""
    monkeypatch.setattr("hccp_jax.data.guards.TELLS", 2.0)


def test_a_small_copy_by_hand(tmp_path):
    store = converted(small(tmp_path / "in"), tmp_path / "out", past=2, intentions=2)
    none = (0.0, 0.0, 0.0, 0.0)
    ((user, members, codes),) = columns(store, "train")
    assert user == 5
    # clicked first, each part in the order of the file; of a field with several values the heaviest
    assert members == [(12, 1, 1, 1, (2.30259, 0.0, 0.0, 1.5)), (13, 1, 0, 2, none), (11, 0, 0, 0, none)]
    first = codes[0] - 2  # of the context's codes: none, rare, 301
    context, category, shop, brand, intention = first, first + 3, first + 7, first + 9, first + 12
    assert codes[1:3] == (category + 2, category + 3)  # 6 and 8 weigh the same; 7 is lighter
    assert codes[3:] == (shop, shop, brand + 2, brand, intention, intention)
    ((user, members, _),) = columns(store, "validation")
    assert (user, members) == (6, [(11, 0, 0, 0, none)])
    tested = columns(store, "test")
    assert [[item for item, *_ in members] for _, members, _ in tested] == [[14], [11]]  # a list has one context
    assert [codes[0] for *_, codes in tested] == [context + 2, context + 1]  # 302 is not in training
    items = np.asarray(store["items"]["categorical"])
    assert store["published_items"]["id"].tolist() == [0, 11, 12, 13, 14]
    assert items[1, 0] == items[3, 0] == items[2, 0] + 1 == items[4, 0] + 1  # 206 is 71, 70, 71, 70
    assert (items[[1, 2, 4], 3:] == items[1, 3]).all()  # without intentions
    assert (items[3, 3:] == items[1, 3] + [2, 3]).all()
    users = np.asarray(store["users"]["categorical"])
    assert store["published_users"]["id"].tolist() == [0, 5, 6]
    assert users.shape == (3, len(PROFILE))
    assert users[1, 0] == users[2, 0] + 1  # 121 is 42 and 40
    assert users[1, 1] == users[2, 1]
    assert (np.diff(users[1]) > 0).all()
    assert store.facts["timed"] is False
    spec = store.facts["spec"]
    assert (spec["users"], spec["items"], spec["cross"]) == (3, 5, 4)
    assert spec["user_categories"] == intention + 2


def test_held_out():
    keys = np.arange(0, 1 << 32, 9973, dtype=np.int64)
    for percent in (1, 10, 50):
        assert abs(held_out(keys, percent).mean() - percent / 100) < 0.002
    assert held_out(np.array([int(TRAINING[:8], 16), int(HELD[:8], 16)]), 10).tolist() == [False, True]


pasts = st.lists(
    st.tuples(st.sampled_from(PAST), st.integers(1, 6), st.sampled_from(["0.5", "1.0", "2.5"])),
    max_size=12,
    unique_by=lambda entry: entry[:2],
)
crossed = st.tuples(st.sampled_from(CROSS), st.integers(1, 9), st.sampled_from(["0.5", "2.25", "1e1"]))
samples = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.integers(1, 5),
        st.sampled_from([301, 302]),
        st.integers(0, 1),
        st.integers(0, 1),
        st.lists(
            st.tuples(st.sampled_from(CROSS), st.integers(1, 9), st.sampled_from(["0.5", "2.25", "1e1"])), max_size=6
        ),
    ),
    max_size=30,
)
INDICES = [TRAINING, HELD, *(f"{7919 * number:08x}abcdef" for number in range(1, 4))]  # the sixth session is missing


def heaviest(entries, field: str, width: int) -> list[int]:
    weights = sorted((-float(value), number) for name, number, value in entries if name == field)
    return [number for _, number in weights][:width]


def expected(drawn: dict, past: dict, changes: dict, vocabulary: int) -> dict:
    """Part -> requests as `columns` reads them, sample by sample."""
    known: list[list[int]] = [
        sorted({context for s, _, context, click, purchase, _ in drawn["train"] if click >= purchase}),
        *(
            sorted({number for entries in past["train"] for number in heaviest(entries, field, changes["past"])})
            for field in PAST
        ),
    ]
    first = [vocabulary - sum(len(ids) + 2 for ids in known[place:]) for place in range(5)]

    def coded(place: int, ids: list[int], width: int) -> list[int]:
        found = [known[place].index(number) + 2 if number in known[place] else 1 for number in ids]
        return [first[place] + code for code in [*found, *[0] * (width - len(found))]]

    requests: dict = {"train": [], "validation": [], "test": []}
    for part in ("train", "test"):
        lists: dict = {}
        for s, item, context, click, purchase, cross in drawn[part]:
            if click < purchase or s == 5:
                continue
            values = tuple(max([0.0, *(float(v) for name, _, v in cross if name == field)]) for field in CROSS)
            lists.setdefault((s, context), []).append((item, click, purchase, values))
        for (s, context), shown in lists.items():
            codes = coded(0, [context], 1)
            for place, field in enumerate(PAST, 1):
                codes += coded(place, heaviest(past[part][s], field, changes["past"]), changes["past"])
            for begin in range(0, len(shown), changes["width"]):
                cut = [(*one[:3], rank, one[3]) for rank, one in enumerate(shown[begin : begin + changes["width"]])]
                name = "validation" if part == "train" and INDICES[s] == HELD else part
                requests[name].append((100 + s, sorted(cut, key=lambda one: -one[1]), tuple(codes)))
    return requests


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    train=samples,
    test=samples,
    past=st.fixed_dictionaries({part: st.lists(pasts, min_size=5, max_size=5) for part in ("train", "test")}),
    changes=st.fixed_dictionaries({"width": st.integers(1, 4), "past": st.integers(1, 3)}),
)
def test_every_sample_is_once_in_the_lists_that_a_slow_reading_gives(tmp_path_factory, train, test, past, changes):
    folder = tmp_path_factory.mktemp("ccp")
    drawn = {
        "train": [*train, (0, 1, 301, 0, 0, []), (1, 2, 301, 0, 0, [])],
        "test": [*test, (0, 5, 301, 0, 0, [])],
    }
    lines = {
        part: [
            sample(number, click, purchase, [*INDICES, "99999999"][s], item, context, cross)
            for number, (s, item, context, click, purchase, cross) in enumerate(rows, 1)
        ]
        for part, rows in drawn.items()
    }
    sessions = {
        part: [session(index, 100 + s, past[part][s]) for s, index in enumerate(INDICES)] for part in ("train", "test")
    }
    store = converted(write_all(folder / "in", lines["train"], lines["test"], sessions), folder / "out", **changes)
    wanted = expected(drawn, past, changes, store.facts["spec"]["user_categories"])
    for part in wanted:
        assert sorted(columns(store, part)) == sorted(wanted[part])
    told = "\n".join(store.facts["lines"])
    for part, rows in drawn.items():
        impossible = sum(click < purchase for *_, click, purchase, _ in rows)
        assert f"{part} as published: {len(rows)} samples of 5 sessions; {impossible} samples bought" in told
    orphans = sum(s == 5 and click >= purchase for rows in drawn.values() for s, _, _, click, purchase, _ in rows)
    assert f"and {orphans} are left out since their common features" in told


@pytest.mark.parametrize("how", [{"gz": True}, {"end": "\r\n"}])
def test_files_gzipped_or_from_windows_give_the_same(tmp_path, how):
    plain = converted(small(tmp_path / "plain"), tmp_path / "a")
    other = converted(small(tmp_path / "other", **how), tmp_path / "b")
    for part in ("train", "validation", "test"):
        assert columns(plain, part) == columns(other, part)


def test_repeated_samples_and_sessions_and_varying_items_are_counted(tmp_path):
    path = small(tmp_path / "in") / "sample_skeleton_train.csv"
    path.write_text(path.read_text() + sample(1, 0, 0, TRAINING, 11) + "\n" + sample(5, 0, 0, TRAINING, 13, 301) + "\n")
    text = path.read_text().replace(f"206\x02{70}\x03", f"206\x02{99}\x03", 1)
    path.write_text(text.replace("301\x02301", "301\x02303", 1))
    (tmp_path / "in" / "common_features_train.csv").write_text(
        "".join(session(index, user) + "\n" for index, user in ((TRAINING, 5), (HELD, 6), (TRAINING, 8)))
    )
    told = "\n".join(converted(tmp_path / "in", tmp_path / "out").facts["lines"])
    assert "1 samples repeat a sample_id" in told
    assert "1 sessions are there twice" in told
    assert "items: 4; features are those of an item's first sample, 1 have others too" in told


def test_rare_ids_share_a_code(tmp_path):
    store = converted(small(tmp_path / "in"), tmp_path / "out", rare=2)
    items = np.asarray(store["items"]["categorical"])
    first = items[1:, 0].min() - 2
    assert items[1:, 0].tolist() == [first + 3, first + 2, first + 3, first + 2]  # 71 and 70, of two items each
    assert items[3, 3] == items[3, 4] == items[1, 3] + 1  # both intentions are of one item


def test_many_buckets_hold_what_one_does_and_a_stopped_conversion_goes_on(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    indices = [f"{number:08x}{'ab' * 4}" for number in random.integers(0, 1 << 32, 40)]
    lines = [
        sample(number, int(number % 9 == 0), 0, indices[random.integers(40)], int(random.integers(1, 30)))
        for number in range(400)
    ]
    sessions = [session(index, number) for number, index in enumerate(indices)]
    folder = write_all(tmp_path / "in", lines[:300], lines[300:], {"train": sessions, "test": sessions})
    one = converted(folder, tmp_path / "one")
    monkeypatch.setattr("hccp_jax.data.buckets.ROWS", 250)

    def stop(line: str) -> None:
        if line.startswith("train: bucket 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert("ali_ccp", folder, tmp_path / "many", {}, stop)
    said: list[str] = []
    many = convert("ali_ccp", folder, tmp_path / "many", {}, said.append)
    assert said[0].startswith("going on: ")
    assert len(many["train"].shards) > 3
    for part in ("train", "validation", "test"):
        assert sorted(columns(one, part)) == sorted(columns(many, part))
    assert Counter(one.facts["lines"]) == Counter(many.facts["lines"])
