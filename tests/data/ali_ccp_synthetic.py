"""Tiny files in exactly the documented schema of Ali-CCP, for tests."""

import gzip
from pathlib import Path

import numpy as np

from hccp_jax.data.convert import convert
from hccp_jax.data.requests import validate

PAST, CROSS = ("109_14", "110_14", "127_14", "150_14"), ("508", "509", "702", "853")
PROFILE = ("121", "122", "124", "125", "126", "127", "128", "129")
TRAINING, HELD = "00000001c0ffee00", "00000000c0ffee00"  # the second is of the validation part: see `test_held_out`


def features(entries) -> str:
    return f"{len(entries)}," + "\x01".join(f"{field}\x02{number}\x03{value}" for field, number, value in entries)


def session(index: str, user: int, past=()) -> str:
    entries = [("101", user, "1.0"), ("121", 40 + user % 3, "1.0"), ("122", 50, "1.0"), *past]
    return f"{index},{features(entries)}"


def sample(number: int, click: int, purchase: int, index: str, item: int, context=301, cross=(), more=()) -> str:
    entries = [("216", 900, "1.0"), ("301", context, "1.0"), ("205", item, "1.0"), ("206", 70 + item % 2, "1.0")]
    return f"{number},{click},{purchase},{index},{features([*entries, *cross, *more])}"


def write_all(
    folder: Path, train: list[str], test: list[str], sessions: dict[str, list[str]], *, gz=False, end="\n"
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"sample_skeleton_train": train, "sample_skeleton_test": test}
    parts |= {f"common_features_{part}": lines for part, lines in sessions.items()}
    for name, lines in parts.items():
        text = "".join(line + end for line in lines).encode()
        (folder / (f"{name}.csv" + ".gz" * gz)).write_bytes(gzip.compress(text) if gz else text)
    return folder


def small(folder: Path, **how) -> Path:
    past = [("109_14", 7, "0.5"), ("109_14", 8, "2.5"), ("109_14", 6, "2.5"), ("127_14", 3, "1")]
    train = [
        sample(1, 0, 0, TRAINING, 11),
        sample(2, 1, 1, TRAINING, 12, cross=[("508", 1, "2.30259"), ("853", 4, "0.1"), ("853", 5, "1.5")]),
        sample(3, 1, 0, TRAINING, 13, more=[("210", 5, "1.0"), ("210", 6, "1.0"), ("999", 1, "1.0")]),
        sample(4, 0, 0, HELD, 11),
    ]
    test = [sample(1, 1, 0, TRAINING, 11, context=302), sample(2, 0, 0, TRAINING, 14)]
    sessions = {"train": [session(TRAINING, 5, past), session(HELD, 6)], "test": [session(TRAINING, 5, past[2:])]}
    return write_all(folder, train, test, sessions, **how)


def converted(folder: Path, output: Path, **changes):
    return convert("ali_ccp", folder, output, changes, lambda line: None)


def columns(store, part: str) -> list:
    """(user, [(item, click, purchase, rank, crossed values)], codes) of each request of a part."""
    users, items = store["published_users"]["id"], store["published_items"]["id"]
    batch, rows = validate(store[part].requests()), []
    for row in range(len(store[part])):
        members = [
            (
                int(items[batch.items["id"][row, slot]]),
                int(batch.labels["click"][row, slot]),
                int(batch.labels["purchase"][row, slot]),
                int(batch.rank[row, slot]),
                tuple(round(float(value), 5) for value in batch.cross[row, slot]),
            )
            for slot in np.flatnonzero(batch.mask[row])
        ]
        rows.append((int(users[batch.user["id"][row]]), members, tuple(batch.user["categorical"][row].tolist())))
        assert not batch.history_mask[row].any()
    return rows
