"""What a method is: pure functions over parameters and batches, and a served score."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from hccp_jax.data.requests import RequestBatch

Parameters = Any
Heads = dict[str, jax.Array]


class Method(NamedTuple):
    """A published system as pure functions; batches have their catalogue features attached.

    Attributes:
        init: (key, batch) -> parameters.
        loss: (parameters, hyper, batch, key, progress, axis) -> (global loss, terms); `progress` is the share of
            training done, `axis` names the device axis or is None.
        heads: (parameters, batch) -> {head: [U, K] logits}.
        served: (heads, hyper) -> [U, K], the score that ranks at serving time.
        user_side: (parameters, batch) -> what the user tower gives once per request, a pytree with leading axis U.
        item_vectors: (parameters, item features) -> [..., d], precomputable for a whole catalogue.
        pair_scores: (parameters, user side, item vectors [U, K, d] or [K, d], cross or None) -> heads.
    """

    init: Callable[[jax.Array, RequestBatch], Parameters]
    loss: Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
    heads: Callable[[Parameters, RequestBatch], Heads]
    served: Callable[[Heads, Any], jax.Array]
    user_side: Callable[[Parameters, RequestBatch], Any]
    item_vectors: Callable[[Parameters, dict[str, jax.Array]], jax.Array]
    pair_scores: Callable[..., Heads]
