"""An architecture without one of its three parts cannot be made."""

import pytest

from hccp_jax.models.pair_model import PairModel


class WithoutItems(PairModel):
    def user_side(self, user, history, history_mask):
        return user["dense"]

    def pair_logits(self, users, items, cross):
        return users @ items.T


def test_a_part_that_is_missing_is_told_at_once():
    with pytest.raises(TypeError, match=r"abstract.*item_side"):
        WithoutItems()
