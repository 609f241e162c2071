"""A model of sessions over the simulated online test: how long users stay, watch and read.

SDCL reports Average Watch Time (AWT), Average Number of Requests (ANR) and Average Number of Valid Reads (ANVR) of a
week's online test, without defining them (its section on experiments, after table 4). Here they are averages over
sessions of this model, all simulated:

* A session is a user's consecutive requests, at most S. After request k the user goes on with probability
  p_k = sigmoid(bias + slope * satisfaction_k), where satisfaction is the sum of the true click probabilities of what
  was shown: a better page makes the session longer.
* A clicked item is looked at for a log-normal time of mean
  m = seconds * exp(value_effect * value + fit_effect * affinity), with the item's hidden purchase quality and the
  user's fit. A click whose dwell time exceeds a threshold is a valid read.

The request k is reached with probability q_k = prod_{i<k} p_i, so that no Monte Carlo is needed for expectations:
ANR = sum_k q_k, AWT = sum_k q_k sum_j c_kj m_kj, ANVR = sum_k q_k sum_j c_kj P(dwell_kj > threshold), with c the click
probabilities. Realised values beside them are drawn by hashes of request and item, common to all arms.

Axes: G sessions, S requests of a session, R impressions of a request.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.scipy.stats import norm

from hccp_jax.cascade import funnel, logs
from hccp_jax.cascade.ab_test import Shown
from hccp_jax.cascade.world import World, WorldConfig
from hccp_jax.config import field
from hccp_jax.data import hashing
from hccp_jax.errors import UserError


@dataclass(frozen=True)
class SessionConfig:
    """Knobs of the session model."""

    length: int = field(8, "S: requests after which a session ends at the latest", at_least=1, at_most=64)
    bias: float = field(0.0, "logit of going on after a page without any chance of a click")
    slope: float = field(1.0, "logits of going on gained by each expected click of the page", at_least=0.0)
    seconds: float = field(15.0, "mean dwell time (s) of a click on an item of value 0 and affinity 0", above=0.0)
    value_effect: float = field(0.4, "log dwell time gained by each standard deviation of hidden value")
    fit_effect: float = field(0.5, "log dwell time gained by each unit of affinity (a cosine)")
    spread: float = field(1.0, "standard deviation of the log dwell time of a click", above=0.0)
    valid_read: float = field(10.0, "dwell time (s) above which a click is a valid read", above=0.0)


@struct.dataclass
class Sessions:
    """Outcomes by session, [G] float32: expectations given what would be shown, and realised values.

    Attributes:
        expected_requests, expected_watch_time, expected_valid_reads: requests made, seconds watched, valid reads.
        requests, watch_time, valid_reads: the same as drawn.
    """

    expected_requests: jax.Array
    expected_watch_time: jax.Array
    expected_valid_reads: jax.Array
    requests: jax.Array
    watch_time: jax.Array
    valid_reads: jax.Array


def session_requests(config: WorldConfig, session: SessionConfig, count: int) -> np.ndarray:
    """[count, S] int32 request numbers of sessions of `count` different users, in the order of the requests.

    Who makes a request is a hash of its number, so the requests of the stream are gathered by user and the first S of
    each taken. One session a user: sessions are independent but for the items.

    Raises:
        UserError: if the world has too few users for that.
    """
    many = config.users * (4 * session.length + 16)  # several times what is needed, for the unequal luck of users
    if count > config.users or many > 2 * logs.MAX_REQUESTS:
        raise UserError(f"sessions={count}: expected at most world.users={config.users} with short sessions")
    request = np.asarray(logs.request_ids(logs.STREAMS["sessions"], 0, many))
    user = np.asarray(jax.jit(funnel.user_of, static_argnums=0)(config, request))
    by_user = np.argsort(user, kind="stable")
    first = np.searchsorted(user[by_user], np.arange(1, config.users + 2))
    long_enough = np.flatnonzero(np.diff(first) >= session.length)[:count]
    if len(long_enough) < count:
        raise UserError(f"sessions={count}: only {len(long_enough)} of world.users={config.users} make enough requests")
    return request[by_user[first[long_enough][:, None] + np.arange(session.length)]]


def mean_dwell(
    world: World, config: WorldConfig, session: SessionConfig, request: jax.Array, ids: jax.Array
) -> jax.Array:
    """[U, R] mean dwell time in seconds of clicks on items `ids` in requests [U]."""
    context = funnel.contexts(world, config, request)
    fit = funnel.affinity(world, config, context.user, context.intent, ids)
    return session.seconds * jnp.exp(session.value_effect * world.value[ids] + session.fit_effect * fit)


def session_outcomes(
    world: World, config: WorldConfig, session: SessionConfig, request: jax.Array, shown: Shown
) -> Sessions:
    """Outcomes of sessions of an arm.

    Args:
        world: tables.
        config: knobs; static under jit, as is `session`.
        session: knobs of the session model.
        request: [G, S] int32 request numbers of `session_requests`.
        shown: what the arm would show in each of these requests, leaves [G * S, R] row by row.
    """
    number = jnp.ravel(request)
    mean = mean_dwell(world, config, session, number, shown.ids)
    # a log-normal of mean m is m exp(spread z - spread^2 / 2)
    keys = (config.seed, number[:, None], shown.ids)
    dwell = mean * jnp.exp(session.spread * hashing.normal("dwell", *keys) - session.spread**2 / 2)
    read_chance = norm.cdf(jnp.log(mean / session.valid_read) / session.spread - session.spread / 2)
    go_on = jax.nn.sigmoid(session.bias + session.slope * shown.click_chance.sum(axis=-1))

    def page(values: jax.Array) -> jax.Array:
        return values.sum(axis=-1, dtype=jnp.float32).reshape(request.shape)

    def reached(stay: jax.Array) -> jax.Array:
        before = jnp.cumprod(stay.reshape(request.shape)[:, :-1], axis=-1)
        return jnp.concatenate([jnp.ones((len(request), 1), jnp.float32), before], axis=-1)

    chance = reached(go_on)
    made = reached((hashing.uniform("go on", config.seed, number) < go_on).astype(jnp.float32))
    return Sessions(
        expected_requests=chance.sum(axis=-1),
        expected_watch_time=(chance * page(shown.click_chance * mean)).sum(axis=-1),
        expected_valid_reads=(chance * page(shown.click_chance * read_chance)).sum(axis=-1),
        requests=made.sum(axis=-1),
        watch_time=(made * page(shown.click * dwell)).sum(axis=-1),
        valid_reads=(made * page(shown.click & (dwell > session.valid_read))).sum(axis=-1),
    )
