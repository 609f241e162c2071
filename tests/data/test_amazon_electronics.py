"""Amazon Electronics: JSON reviews and Python-dictionary products, every review once, nothing evaluated."""

import gzip
import json
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hccp_jax.data.convert import convert
from hccp_jax.data.sources import amazon_electronics
from hccp_jax.data.store import open_store
from hccp_jax.errors import UserError

DAY = 86_400
MIDNIGHT = 1_390_176_000
PRODUCTS = [
    {"asin": "0132793040", "imUrl": "http://x", "description": "it's", "categories": [["Electronics", "TV"]]},
    {"asin": "B00004", "categories": [["Electronics", "Cables"], ["Other"]], "price": 7.99, "brand": "Anker"},
    {"asin": "B00005", "categories": [["Electronics", "Cables"]], "title": 'a "quoted" name', "price": 999.0},
    {"asin": "B00006", "categories": [["Electronics"]], "related": {"also_bought": ["B00004"]}},
    {"asin": "UNSEEN", "categories": [["Electronics", "Unseen"]]},
]


def review(user, asin, overall, time, text='Works — "great" é') -> dict:
    return {
        "reviewerID": user,
        "asin": asin,
        "reviewerName": "A. B",
        "helpful": [0, 1],
        "reviewText": text,
        "overall": float(overall),
        "summary": "Good\nand cheap",
        "unixReviewTime": time,
        "reviewTime": "01 20, 2014",
    }


def write(folder: Path, rows, packed=False, products=PRODUCTS) -> Path:
    folder.mkdir(exist_ok=True)
    texts = {
        "reviews_Electronics_5.json": "".join(json.dumps(review(*row)) + "\n" for row in rows),
        "meta_Electronics.json": "".join(f"{product!r}\n" for product in products),
    }
    for name, text in texts.items():
        raw = text.encode()
        (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(raw) if packed else raw)
    return folder


def converted(folder: Path, output: Path, **changes):
    convert("amazon_electronics", folder, output, changes, lambda line: None)
    return open_store(output, "full")


def some_rows(count: int, seed: int = 0):
    draw = np.random.default_rng(seed)
    rows = zip(
        draw.choice(["A2", "A10", "AX", "AZ"], count),
        draw.choice([product["asin"] for product in PRODUCTS[:-1]], count),
        draw.integers(1, 6, count),
        MIDNIGHT + DAY * draw.integers(0, 40, count),
        strict=True,
    )
    return [(str(user), str(asin), int(overall), int(time)) for user, asin, overall, time in rows]


def impressions(store, users, asins):
    for part in ("train", "validation", "test"):
        batch = jax.tree.map(np.asarray, store[part].requests())
        for row, slot in zip(*np.nonzero(batch.mask), strict=True):
            label = float(batch.labels["click"][row, slot])
            yield part, users[batch.user["id"][row] - 1], asins[batch.items["id"][row, slot] - 1], label


@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.integers(0, 2**31), st.integers(250, 400), st.sampled_from(["time", "random"]), st.booleans())
def test_every_review_is_in_the_store_once(tmp_path_factory, seed, count, split, packed):
    rows = some_rows(count, seed)
    folder = write(tmp_path_factory.mktemp("amazon"), [*rows, rows[0]], packed)
    store = converted(folder, folder / "store", split=split)
    users, asins = sorted({row[0] for row in rows}), sorted({row[1] for row in rows})
    found = Counter(tuple(rest) for _, *rest in impressions(store, users, asins))
    assert found == Counter((u, a, float(s > 3)) for u, a, s, _ in dict.fromkeys(rows))
    again = len(rows) + 1 - len(set(rows))
    assert any(line.startswith(f"removed {again} exact duplicates of {count + 1} ") for line in store.facts["lines"])


def test_a_review_of_the_same_day_is_no_history_and_blocks_of_any_size_are_the_same(tmp_path, monkeypatch):
    folder = write(tmp_path / "in", some_rows(200))
    whole = converted(folder, tmp_path / "whole")
    monkeypatch.setattr(amazon_electronics, "BLOCK", 700)
    pieces = converted(folder, tmp_path / "pieces")
    for name, table in whole.manifest["tables"].items():
        assert pieces.manifest["tables"][name]["shards"] == table["shards"]
    for part in ("train", "validation", "test"):
        times, mask = np.asarray(whole[part]["history_time"]), np.asarray(whole[part]["history_mask"])
        late = times >= np.asarray(whole[part]["request_time"])[:, None]
        assert not (mask & late).any()
        assert mask.any()


def test_products_share_categories_and_missing_ones_are_unknown(tmp_path):
    rows = [*some_rows(200), ("A2", "NOT_IN_META", 5, MIDNIGHT)]
    store = converted(write(tmp_path / "in", rows), tmp_path / "store")
    asins = sorted({row[1] for row in rows})
    table = dict(zip(asins, np.asarray(store["items"]["categorical"])[1:].tolist(), strict=True))
    assert table["B00004"][0] == table["B00005"][0] != table["0132793040"][0]
    assert table["B00004"][2] != table["B00005"][2] != table["B00006"][2]  # prices 7.99, 999, none
    assert table["0132793040"][2] == table["B00006"][2] == table["NOT_IN_META"][2]
    assert table["NOT_IN_META"][0] != table["B00006"][0]  # missing is not a category
    assert store.facts["spec"]["item_categories"] > max(max(row) for row in table.values())
    assert "1 of 5 products have no line in meta_Electronics.json" in store.facts["lines"]


def line_of(**changes) -> str:
    whole = review("A2", "B00004", 5, MIDNIGHT) | changes
    return json.dumps({key: value for key, value in whole.items() if value is not ...}) + "\n"


GOOD = line_of()
REVIEWS, META = "reviews_Electronics_5.json", "meta_Electronics.json"
BAD = [
    (REVIEWS, GOOD + GOOD[:-9], "row 2: cut off, no end of line"),
    (REVIEWS, GOOD + '{"reviewerID": "A2"\n', "row 2: no JSON object ("),
    (REVIEWS, GOOD + "A2,B00004,5.0,1390176000\n", "row 2: no JSON object ("),
    (REVIEWS, GOOD + "[1]\n", "row 2: no JSON object (no object)"),
    (REVIEWS, GOOD + line_of(asin=...), "row 2: asin=None, expected text"),
    (REVIEWS, GOOD * 2 + line_of(overall=6.0), "row 3: overall=6.0, expected 1, 2, 3, 4 or 5"),
    (REVIEWS, GOOD + line_of(overall="five"), "row 2: overall='five', expected 1, 2, 3, 4 or 5"),
    (REVIEWS, line_of(unixReviewTime=-1), "row 1: unixReviewTime=-1, expected an integer in [0, 8589934592]"),
    (REVIEWS, "", "row 1: no rows"),
    (META, "{'asin': 'B00004', 'categories': [['A']]\n", "row 1: no product with categories ("),
    (META, "{'asin': 'B00004', 'categories': [[__import__('os').getcwd()]]}\n", "row 1: no product with categories ("),
    (META, "{'asin': 'B00004'}\n", "row 1: no product with categories (KeyError('categories'))"),
    (META, "{'title': 'x'}\n", "row 1: no 'asin': \"{'title': 'x'}\""),
]


@pytest.mark.parametrize(("name", "text", "message"), BAD)
def test_a_file_that_is_not_as_published_is_one_line_and_leaves_nothing(tmp_path, name, text, message):
    folder = write(tmp_path / "in", some_rows(60))
    (folder / name).write_text(text)
    with pytest.raises(UserError) as refused:
        converted(folder, tmp_path / "store")
    assert str(refused.value).startswith(f"{name}: {message}")
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_damaged_gzip_is_told(tmp_path):
    folder = write(tmp_path / "in", some_rows(60), packed=True)
    packed = folder / f"{REVIEWS}.gz"
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(UserError, match=rf"^{REVIEWS}.gz: cannot be read after row \d+ \("):
        converted(folder, tmp_path / "store")


def test_means_are_taken_over_all_reviews_where_the_leak_is_asked_for(tmp_path):
    store = converted(write(tmp_path / "in", some_rows(300)), tmp_path / "store", leak="public_code")
    means: dict[int, set[float]] = {}
    for part in ("train", "validation", "test"):
        for user, mean in zip(np.asarray(store[part]["user.id"]), np.asarray(store[part]["user.dense"]), strict=True):
            means.setdefault(int(user), set()).add(float(mean[0]))
    assert all(len(of_user) == 1 for of_user in means.values())
    assert len(set.union(*means.values())) == 4
