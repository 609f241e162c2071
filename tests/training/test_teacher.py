"""The teacher: calibration against brute force, and what is written where."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from tiny_hccp import drawn, featurised, tiny

from hccp_jax.data.requests import Stage, first_slots, validate
from hccp_jax.data.source import record, replay
from hccp_jax.training.teacher import Calibration, calibrate, predictor, write_teacher


@pytest.mark.parametrize("seed", range(4))
def test_calibration_has_the_smallest_log_loss(seed):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=400) * 3
    labels = (rng.random(400) < 1 / (1 + np.exp(-(0.4 * z - 1.5)))).astype(float)
    where = rng.random(400) < 0.7

    def log_loss(weights):
        logit = weights[0] * z[where] + weights[1]
        return np.mean(np.logaddexp(0, logit) - labels[where] * logit)

    found = calibrate(z, labels, where)
    best = minimize(log_loss, [1.0, 0.0], tol=1e-10)
    np.testing.assert_allclose(found, best.x, atol=1e-4)
    # the mean prediction is the rate: that is what calibrated means
    predicted = 1 / (1 + np.exp(-(found.scale * z[where] + found.offset)))
    np.testing.assert_allclose(predicted.mean(), labels[where].mean(), rtol=1e-6)


def test_one_class_or_nothing_is_left_as_it_is():
    z = np.array([1.0, -2.0])
    assert calibrate(z, np.zeros(2), np.ones(2, bool)) == Calibration(1.0, 0.0)
    assert calibrate(z, np.array([0, 1]), np.zeros(2, bool)) == Calibration(1.0, 0.0)


def test_separable_classes_stay_finite():
    found = calibrate(np.array([-1.0, 1.0]), np.array([0.0, 1.0]), np.ones(2, bool))
    assert np.isfinite(found).all()
    assert found.scale > 1


def test_predictions_are_those_of_the_model_and_stand_where_the_ranker_scored(small_world):
    made = tiny(small_world)
    slots = made.layout.sequence
    predict = predictor(made.method, made.parameters, made.source.featurise, made.source.catalogue, slots)
    logits = predict(made.log)
    batch = featurised(made.source, made.log, range(8))
    direct = jax.jit(made.method.heads)(made.parameters, batch)
    for name, values in direct.items():
        np.testing.assert_allclose(logits[name][:8], values[:, :slots], rtol=1e-4, atol=1e-4)
    ranked = (made.log.stage == Stage.EXPOSED) | (made.log.stage == Stage.RANKED)
    calibrations = {"click": Calibration(0.5, -1.0)}
    written = write_teacher(made.log, logits, calibrations, ranked)
    validate(written)
    found = written.teacher["click"]
    expected = 1 / (1 + np.exp(-(0.5 * logits["click"] - 1.0)))
    np.testing.assert_allclose(found[:, :slots][ranked[:, :slots]], expected[ranked[:, :slots]], rtol=1e-6)
    assert (found[~ranked] == 0).all()
    assert first_slots(written, 3).teacher["click"].shape == (len(found), 3)


def test_a_recorded_log_replays_the_batches_of_its_source(small_world):
    made = tiny(small_world)
    size = made.source.batch_at(0, 0).mask.shape[0]
    logs = {seed: record(made.source, seed, 4, 2) for seed in (0, 3)}
    again = replay(made.source, logs, size)
    for first, steps in ((0, 4), (2, 1)):
        jax.tree.map(
            np.testing.assert_array_equal, again.chunk([3, 0], first, steps), made.source.chunk([3, 0], first, steps)
        )
    assert again.epoch_steps == made.source.epoch_steps


def test_drawn_parameters_differ(small_world):
    """The teacher of the test above is no constant."""
    made = tiny(small_world)
    batch = featurised(made.source, made.log, range(2))
    heads = jax.jit(made.method.heads)(drawn(made.method, batch, seed=1), batch)
    assert jnp.std(heads["click"]) > 0.1
