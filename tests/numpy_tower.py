"""The three-tower model in float64 NumPy, request by request and slot by slot, from a tree of Flax parameters."""

import numpy as np


def float64(tree):
    if isinstance(tree, dict):
        return {name: float64(leaf) for name, leaf in tree.items()}
    if tree is None:
        return None
    array = np.asarray(tree)
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _dense(layer, x):
    return x @ layer["kernel"] + layer["bias"]


def _softmax(x):
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


def mixture(p, x, experts, hidden, tasks):
    """[D] -> [tasks, hidden]: sum_k softmax(W_t x)_k E_k(x), expert by expert."""
    outputs = [
        np.maximum(
            x @ p["experts"]["kernel"][:, k * hidden : (k + 1) * hidden]
            + p["experts"]["bias"][k * hidden : (k + 1) * hidden],
            0,
        )
        for k in range(experts)
    ]
    gates = _dense(p["gates"], x).reshape(tasks, experts)
    return np.stack([sum(w * e for w, e in zip(_softmax(gate), outputs, strict=True)) for gate in gates])


def _looked_up(tables, kind, ids, fields, dense):
    parts = [tables[f"{kind}_id"][f"{kind}_rows"][ids]]
    parts += [tables[f"{kind}_category"]["embedding"][field] for field in (fields if fields is not None else [])]
    parts += [dense] if dense is not None else []
    return np.concatenate(parts)


def _row(features, *index):
    return tuple(features[name][index] if name in features else None for name in ("id", "categorical", "dense"))


def user_side(p, config, heads, user, history, mask, row):
    """[T, d] vectors and [T] offsets of one request."""
    tables = p["embeddings"]
    x = [_looked_up(tables, "user", *_row(user, row))]
    for group in range(history["groups"].shape[-1]):
        total, weight = 0.0, 0.0
        for slot in np.flatnonzero(mask[row]):
            ids, fields, _ = _row(history, row, slot)
            vector = _looked_up(tables, "item", ids, fields, None)
            total = total + history["groups"][row, slot, group] * vector
            weight += history["groups"][row, slot, group]
        fields = history["categorical"].shape[-1] if "categorical" in history else 0
        width = config.id_width + config.category_width * fields
        x.append(total / weight if weight else np.zeros(width))
    mixed = mixture(p["mixture"], np.concatenate(x), config.experts, config.expert_width, heads)
    vectors = np.stack([mixed[t] @ p["user_output"][t] for t in range(heads)])
    offsets = np.array([mixed[t] @ p["user_offset"][t] + p["bias"][t] for t in range(heads)])
    if config.normalize:
        vectors = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors, offsets


def item_vector(p, config, items, *index):
    """[d] of one item."""
    x = _looked_up(p["embeddings"], "item", *_row(items, *index))
    vector = _dense(p["item_output"], np.maximum(_dense(p["item_hidden"], x), 0))
    return vector / np.linalg.norm(vector) if config.normalize else vector


def forward(p, config, heads, batch):
    """User vectors [U, T, d], item vectors [U, K, d], dot products and logits [U, T, K]."""
    p, batch = float64(p), {name: float64(leaf) for name, leaf in vars(batch).items()}
    requests, slots = batch["items"]["id"].shape
    sides = [
        user_side(p, config, heads, batch["user"], batch["history"], batch["history_mask"], row)
        for row in range(requests)
    ]
    users, offsets = (np.stack(part) for part in zip(*sides, strict=True))
    items = np.stack(
        [[item_vector(p, config, batch["items"], row, slot) for slot in range(slots)] for row in range(requests)]
    )
    dots = np.zeros((requests, heads, slots))
    logits = np.zeros_like(dots)
    for row in range(requests):
        for slot in range(slots):
            crossed = np.zeros(heads)
            if batch["cross"] is not None:
                hidden = np.maximum(_dense(p["cross_hidden"], batch["cross"][row, slot]), 0)
                crossed = _dense(p["cross_output"], hidden)
            for t in range(heads):
                dots[row, t, slot] = users[row, t] @ items[row, slot]
                logits[row, t, slot] = (
                    p["dot_weight"][t] * dots[row, t, slot] + p["cross_weight"][t] * crossed[t] + offsets[row, t]
                )
    return users, items, dots, logits
