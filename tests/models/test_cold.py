import dataclasses

import jax
import numpy as np
import pytest
from drawn_batch import (
    SPEC,
    K,
    U,
    apply,
    draw_batch,
    draw_parameters,
    expect,
    expect_half_precision,
    expect_padding_to_change_nothing,
    expect_precomputed_items_to_serve,
    fields,
    inputs,
    layer,
    pooled,
    relu,
    sigmoid,
)
from numpy_tower import float64

from hccp_jax.errors import UserError
from hccp_jax.models.cold import Cold, ColdConfig

CONFIG = ColdConfig(id_width=4, category_width=3, hidden=7, second=6)
MODEL = Cold(CONFIG, SPEC)
USER = ["user.id", "user.category_0", "user.category_1", "user.dense", "history_0", "history_1"]
ITEM = ["item.id", "item.category_0", "item.category_1", "item.dense"]
NAMES = [*USER, *ITEM, "cross"]
FEW = ("item.dense", "cross", "user.category_1", "history_1", "item.id")  # in no particular order
SELECTED = Cold(dataclasses.replace(CONFIG, fields=FEW), SPEC)


@pytest.fixture(scope="module")
def made():
    batch = draw_batch()
    return MODEL, draw_parameters(MODEL, batch), batch


def importance_and_fields(p, batch, row, slot, names=NAMES):
    """S and e by field, from the joined W of all fields."""
    every = [*fields(p, "user", batch.user, row), *pooled(p, batch, row)]
    every += [*fields(p, "item", batch.items, row, slot), batch.cross[row, slot].astype(np.float64)]
    found = {name: e for name, e in zip(NAMES, every, strict=True) if name in names}
    kernels = [p[f"{side}_excitation"]["share"]["kernel"] for side in ("user", "item", "cross")]
    logits = np.concatenate(list(found.values())) @ np.concatenate(kernels) + p["user_excitation"]["share"]["bias"]
    return sigmoid(logits), found


def definition(p, batch, row, slot, names=NAMES):
    """Excited fields v_i = s_i e_i, joined, into the MLP."""
    s, found = importance_and_fields(p, batch, row, slot, names)
    assert s.shape == (len(names),)
    joined = np.concatenate([weight * e for weight, e in zip(s, found.values(), strict=True)])
    kernel = np.concatenate(
        [p[f"{side}_products"][f"field_{i}"]["kernel"] for side in ("user", "item", "cross")
         for i in range(len(p[f"{side}_products"]))]
    )  # fmt: skip
    x = relu(joined @ kernel + p["hidden_bias"])
    return layer(p["output"], relu(layer(p["second"], x)))


def test_forward_pass_is_the_definition(made):
    expect(definition, *made)


def test_a_retrained_model_sees_the_chosen_fields_only(made):
    _, _, batch = made
    parameters = draw_parameters(SELECTED, batch)
    kept = [name for name in NAMES if name in FEW]
    expect(lambda p, *where: definition(p, *where, names=kept), SELECTED, parameters, batch)
    before = apply(SELECTED, parameters, *inputs(batch))
    for side, name in (("user", "id"), ("user", "dense"), ("items", "categorical")):
        changed = {**getattr(batch, side), name: getattr(batch, side)[name][::-1]}
        np.testing.assert_array_equal(apply(SELECTED, parameters, *inputs(batch.replace(**{side: changed}))), before)
    expect_precomputed_items_to_serve(SELECTED, parameters, batch)
    found = apply(SELECTED, parameters, *inputs(batch), batch.mask, method="mean_importance")
    assert set(found) == set(FEW)


def test_without_its_field_cross_features_are_not_seen(made):
    _, _, batch = made
    model = Cold(dataclasses.replace(CONFIG, fields=("user.id", "item.id")), SPEC)
    parameters = draw_parameters(model, batch)
    assert not [name for name in parameters if name.startswith("cross")]
    without = apply(model, parameters, *inputs(batch.replace(cross=None)))
    np.testing.assert_array_equal(apply(model, parameters, *inputs(batch)), without)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("user.id", "item.name"), "unknown field 'item.name'"),
        (("user.dens", "item.id"), "did you mean user.dense"),
        (("user.id", "item.id", "price"), "unknown field 'price'"),
        (("user.id", "cross"), "expected at least one of item.id"),
        (("item.id",), "expected at least one of user.id"),
    ],
)
def test_names_of_fields_are_checked(made, fields, message):
    _, _, batch = made
    model = Cold(dataclasses.replace(CONFIG, fields=fields), SPEC)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), *inputs(batch))


def test_mean_importance_is_that_of_real_candidates(made):
    """By name, between 0 and 1, over chosen slots only."""
    model, parameters, batch = made
    where = np.zeros((U, K), bool)
    where[0, :2] = where[2, 4] = True
    found = apply(model, parameters, *inputs(batch), where, method="mean_importance")
    p = float64(parameters)
    expected = np.mean([importance_and_fields(p, batch, *slot)[0] for slot in np.argwhere(where)], axis=0)
    assert set(found) == set(NAMES)
    for name, value in zip(NAMES, expected, strict=True):
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)
    nothing = apply(model, parameters, *inputs(batch), where & False, method="mean_importance")
    assert all(value == 0 for value in nothing.values())


def test_importance_depends_on_the_candidate(made):
    """Also that of the user's fields, so that the first layer is no sum of a user and an item part."""
    _, parameters, batch = made
    p = float64(parameters)
    logits = [[definition(p, batch, row, slot)[0] for slot in range(K)] for row in range(U)]
    both = [importance_and_fields(p, batch, 0, slot)[0][: len(USER)] for slot in range(2)]
    assert np.abs(both[0] - both[1]).max() > 0.05
    found = apply(MODEL, parameters, *inputs(batch))[:, 0]
    np.testing.assert_allclose(found, logits, rtol=2e-5, atol=2e-5)


def test_no_cross_features_and_zeros_score_alike(made):
    model, parameters, batch = made
    without = apply(model, parameters, *inputs(batch.replace(cross=None)))
    zeros = apply(model, parameters, *inputs(batch.replace(cross=np.zeros_like(batch.cross))))
    np.testing.assert_allclose(zeros, without, rtol=1e-6, atol=1e-6)
    assert np.abs(without - apply(model, parameters, *inputs(batch))).max() > 0.01


def test_padding_does_not_change_a_real_score(made):
    expect_padding_to_change_nothing(*made)


def test_precomputed_items_serve_every_request(made):
    expect_precomputed_items_to_serve(*made)


@pytest.mark.slow
def test_bfloat16_computes_near_float32_and_returns_it(made):
    expect_half_precision(*made)
