"""Pickles give arrays and nothing else: what one asks to run is not run."""

import os
import pickle
from collections import OrderedDict, defaultdict

import numpy as np
import pytest
import recflow_synthetic as synthetic

from hccp_jax.data.sources.recflow_pickles import PickledArray, unpickled
from hccp_jax.errors import UserError

ARRAYS = [
    np.arange(500).reshape(50, 10),
    np.asfortranarray(np.arange(20, dtype=np.int32).reshape(2, 10)),
    np.arange(10, dtype=">i8").reshape(1, 10),
    np.zeros((0, 10), np.int64),
    np.linspace(0, 1, 3, dtype=np.float32),
    np.array([True, False]),
]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("path_of_core", ["numpy.core", "numpy._core"])
def test_arrays_come_back(tmp_path, protocol, path_of_core):
    value = defaultdict(dict, {np.int64(number): array for number, array in enumerate(ARRAYS)})
    value["counts"] = {" user_id": np.int64(7), "like": 0.5, "names": ("a", [1, None, True])}
    raw = pickle.dumps(value, protocol)
    if protocol < 4:  # names lie in the stream as they are
        raw = raw.replace(b"numpy._core", path_of_core.encode())
    (tmp_path / "x.pkl").write_bytes(raw)
    before = np.dtype("i8").byteorder
    found = unpickled(tmp_path / "x.pkl", "x.pkl")
    assert np.dtype("i8").byteorder == before
    assert found.pop("counts") == {" user_id": 7, "like": 0.5, "names": ("a", [1, None, True])}
    assert list(found) == list(range(len(ARRAYS)))
    for array, back in zip(ARRAYS, found.values(), strict=True):
        assert isinstance(back, PickledArray)
        assert back.value.dtype == array.dtype
        np.testing.assert_array_equal(back.value, array)


def test_the_published_factories_are_known(tmp_path):
    (tmp_path / "x.pkl").write_bytes(synthetic.with_published_factory({5: np.ones((50, 10), np.int64)}))
    assert b"utils" in (tmp_path / "x.pkl").read_bytes()
    found = unpickled(tmp_path / "x.pkl", "x.pkl")
    assert found[5].value.sum() == 500
    assert found["new"] == {}


class Runs:
    """What happens if it is unpickled: a call."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_pickle_does_not_run(tmp_path, protocol):
    trap = tmp_path / "trap"
    attacks = {
        f"{os.mkdir.__module__}.mkdir": Runs(os.mkdir, str(trap)),
        "builtins.eval": Runs(eval, f"__import__('os').mkdir({str(trap)!r})"),
        "builtins.getattr": Runs(getattr, "a", "upper"),
        "collections.OrderedDict": OrderedDict(),
    }
    for name, attack in attacks.items():
        (tmp_path / "x.pkl").write_bytes(pickle.dumps({1: attack}, protocol))
        old = name.replace("builtins", "__builtin__") if protocol < 3 else name
        with pytest.raises(UserError, match=rf"^x.pkl: the pickle asks for {old}, which is not let through$"):
            unpickled(tmp_path / "x.pkl", "x.pkl")
    assert not trap.exists()


def test_a_history_with_a_call_is_refused_by_the_conversion(tmp_path):
    from hccp_jax.data.convert import convert

    days = ["2024-02-15", "2024-02-16", "2024-02-18"]
    synthetic.write(tmp_path / "in", 0, days)
    bad = tmp_path / "in" / "seq_effective_50_dict" / "2024-02-16.pkl"
    synthetic.write_pickle(bad, {1000: Runs(os.mkdir, str(tmp_path / "trap"))})
    with pytest.raises(UserError, match=r"seq_effective_50_dict/2024-02-16\.pkl: the pickle asks for posix\.mkdir"):
        convert("recflow", tmp_path / "in", tmp_path / "out", {}, lambda line: None)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    "value",
    [
        {1: np.array([{}, None], object)},
        {1: np.array(["text"])},
        {1: np.zeros(2, [("a", "i8")])},
        {1: np.zeros(2, "M8[s]")},
    ],
)
def test_arrays_of_anything_but_numbers_are_refused(tmp_path, value):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(value))
    with pytest.raises(UserError, match=r"^x.pkl: not a whole pickle of arrays \(an array of type "):
        unpickled(tmp_path / "x.pkl", "x.pkl")


def test_a_pickle_cut_anywhere_is_refused(tmp_path):
    raw = pickle.dumps({number: np.arange(30).reshape(3, 10) for number in range(3)}, 3)
    for size in range(0, len(raw), 7):
        (tmp_path / "x.pkl").write_bytes(raw[:size])
        with pytest.raises(UserError, match=r"^x.pkl: [^\n]*$"):
            unpickled(tmp_path / "x.pkl", "x.pkl")
