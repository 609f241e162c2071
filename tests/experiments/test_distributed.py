"""The command on several hosts: two processes of this machine, tables sharded over both."""

import json

import pytest
from processes import begin, free_port

TINY = ("--smoke", "--rows=base,hccp", "--seeds=1", "--train.tables.update=lazy")
SECONDS = 300


def tiny(out, *flags):
    return begin(*TINY, f"--out={out}", *flags, XLA_FLAGS="", JAX_PLATFORMS="cpu")


def ended(process):
    out, errors = process.communicate(timeout=SECONDS)
    return process.returncode, out, errors


def metrics(out):
    lines = (out / "results.jsonl").read_text().splitlines()
    return {(line["row"], line["seed"]): line["metrics"] for line in map(json.loads, lines)}


@pytest.mark.slow
def test_two_hosts_with_sharded_tables_make_the_table_of_one(tmp_path):
    code, _, errors = ended(tiny(tmp_path / "one"))
    assert code == 0, errors
    where = (f"--coordinator=127.0.0.1:{free_port()}", "--host_count=2", "--model_devices=2")
    both = [tiny(tmp_path / "two", *where, f"--host_index={index}") for index in range(2)]
    (code, out, errors), (other, silent, _) = map(ended, both)
    assert (code, other) == (0, 0), errors
    assert "2 x cpu of 2 hosts" in out
    assert "mesh of 1 x 2 (batch x tables)" in out
    assert "Base" not in silent  # the primary prints and writes
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert one.keys() == two.keys()
    for key, values in one.items():
        for name, value in values.items():
            assert two[key][name] == pytest.approx(value, abs=1e-4, nan_ok=True), (key, name)


REFUSED = [
    (("--coordinator=localhost:1",), "host_count: expected with the other two of coordinator"),
    (("--host_count=2", "--host_index=0"), "coordinator: expected with the other two"),
    (("--model_devices=2",), "model_devices=2: expected at most devices=1"),
    (("--model_devices=0",), "model_devices=0: expected at least 1"),
    (("--devices=2", "--model_devices=2", "--train.tables.update=dense"), "expected train.tables.update=lazy or"),
]


@pytest.mark.parametrize(
    ("flags", "line"), [REFUSED[0], *(pytest.param(*x, marks=pytest.mark.slow) for x in REFUSED[1:])]
)
def test_flags_that_do_not_go_together_are_refused_in_a_line(tmp_path, flags, line):
    code, _, errors = ended(tiny(tmp_path / "out", *flags))
    assert (code, errors.count("\n")) == (2, 1), errors
    assert line in errors
