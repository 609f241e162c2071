"""Hashed vocabularies: fewer rows, the same ids."""

import dataclasses

import jax
import numpy as np
import pytest
from tiny_hccp import MODEL, NEGATIVES, drawn, featurised, tiny

from hccp_jax.data.catalogue import every_item
from hccp_jax.data.vocabulary import hashed, hashed_rows
from hccp_jax.methods.hccp import hccp


@pytest.mark.parametrize("rows", [2, 50, 10_000])
def test_rows_are_spread_over_the_table_and_padding_has_its_own(rows):
    found = np.asarray(hashed_rows("item row", 5000, rows))
    assert found[0] == 0
    assert (found[1:] > 0).all()
    assert found.max() < rows
    counts = np.bincount(found[1:], minlength=rows)[1:]
    assert counts.max() <= 4999 / (rows - 1) + 6 * np.sqrt(4999 / (rows - 1)) + 2
    assert not np.array_equal(found, hashed_rows("user row", 5000, rows)) or rows == 2


def test_models_look_up_shared_rows_and_the_batch_keeps_its_ids(small_world):
    made = tiny(small_world)
    spec, catalogue = hashed(made.spec, made.source.catalogue, items=50, users=20)
    source = dataclasses.replace(made.source, spec=spec, catalogue=catalogue)
    assert (source.spec.item_rows, source.spec.user_rows) == (50, 20)
    assert (source.spec.items, source.spec.users) == (made.spec.items, made.spec.users)
    batch = featurised(source, made.log, range(4))
    before = featurised(made.source, made.log, range(4))
    for part in ("items", "history", "user"):
        new, old = getattr(batch, part), getattr(before, part)
        np.testing.assert_array_equal(new["id"], old["id"])
        table = (source.catalogue.users if part == "user" else source.catalogue.items)["row"]
        np.testing.assert_array_equal(new["row"], np.asarray(table)[old["id"]])
    method = hccp(source.spec, MODEL, NEGATIVES, made.layout)
    parameters = drawn(method, batch)
    assert parameters["embeddings"]["item_id"]["item_rows"].shape == (50, MODEL.id_width)
    items = every_item(source.catalogue)
    rows = np.asarray(items["row"])
    first, second = next((a, b) for a in range(1, 90) for b in range(a + 1, 90) if rows[a] == rows[b])
    vectors = method.item_side(parameters, jax.tree.map(lambda leaf: leaf[np.array([first, second])], items))
    same = {name: np.array_equal(leaf[first], leaf[second]) for name, leaf in items.items()}
    assert np.array_equal(vectors[0], vectors[1]) == (same["categorical"] and same.get("dense", True))


def test_exact_vocabularies_stay_as_they_are(small_world):
    source = tiny(small_world).source
    spec, catalogue = hashed(source.spec, source.catalogue)
    assert spec == source.spec
    assert "row" not in catalogue.items
