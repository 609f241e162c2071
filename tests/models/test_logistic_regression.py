import numpy as np
import pytest
from drawn_batch import (
    SPEC,
    apply,
    draw_batch,
    draw_parameters,
    expect,
    expect_half_precision,
    expect_padding_to_change_nothing,
    expect_precomputed_items_to_serve,
    gradients,
    inputs,
)

from hccp_jax.models.logistic_regression import LogisticConfig, LogisticRegression

MODEL = LogisticRegression(LogisticConfig(), SPEC)


@pytest.fixture(scope="module")
def made():
    batch = draw_batch()
    return MODEL, draw_parameters(MODEL, batch), batch


def definition(p, batch, row, slot):
    """The bias and one weight for each feature, feature by feature."""
    z = float(p["bias"])
    for side, features, index in (("user", batch.user, (row,)), ("item", batch.items, (row, slot))):
        z += p[f"{side}_id"][f"{side}_rows"][features["id"][index], 0]
        for value in features["categorical"][index]:
            z += p[f"{side}_category"]["embedding"][value, 0]
        for weight, x in zip(p[f"{side}_dense"]["kernel"][:, 0], features["dense"][index], strict=True):
            z += weight * x
    for past in np.flatnonzero(batch.history_mask[row]):
        for group, x in enumerate(batch.history["groups"][row, past]):
            z += x * p["past_item"]["item_rows"][batch.history["id"][row, past], group]
    return z + sum(w * x for w, x in zip(p["cross_weight"]["kernel"][:, 0], batch.cross[row, slot], strict=True))


def test_forward_pass_is_the_definition(made):
    expect(definition, *made)


def test_padding_does_not_change_a_real_score(made):
    expect_padding_to_change_nothing(*made)


def test_precomputed_items_serve_every_request(made):
    expect_precomputed_items_to_serve(*made)


@pytest.mark.slow
def test_bfloat16_computes_near_float32_and_returns_it(made):
    expect_half_precision(*made)


def test_user_and_item_meet_in_the_cross_features_only(made):
    """Without them, another user moves all candidates alike."""
    model, parameters, batch = made
    other = draw_batch(seed=4)
    before, after = (
        np.asarray(apply(model, parameters, each.user, each.history, each.history_mask, batch.items, None))
        for each in (batch, other)
    )
    moved = after - before
    np.testing.assert_allclose(moved, np.broadcast_to(moved[..., :1], moved.shape), atol=2e-6)
    assert np.abs(moved[..., 0]).max() > 0.1


def test_it_begins_at_one_half_and_every_weight_learns(made):
    model, parameters, batch = made
    zeros = {name: {key: 0 * leaf for key, leaf in part.items()} for name, part in parameters.items() if name != "bias"}
    np.testing.assert_array_equal(apply(model, {**zeros, "bias": np.float32(0)}, *inputs(batch)), 0)
    for name, gradient in gradients(model, parameters, batch).items():
        leaf = gradient if name == "bias" else next(iter(gradient.values()))
        assert np.abs(leaf).max() > 0, name
    # tables learn only rows that were seen
    unseen = np.setdiff1d(np.arange(SPEC.items), batch.items["id"])
    found = gradients(model, parameters, batch)["item_id"]["item_rows"]
    np.testing.assert_array_equal(found[unseen], 0)
