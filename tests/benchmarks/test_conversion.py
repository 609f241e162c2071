"""The benchmark of conversions converts all that it generates, and reads what it says that it reads."""

import numpy as np
import polars as pl
import pytest

from experiments.benchmarks import conversion
from hccp_jax.data.store import open_store
from hccp_jax.errors import UserError


@pytest.fixture
def log(tmp_path, monkeypatch):
    """A generated log of several blocks."""
    monkeypatch.setattr(conversion, "_BLOCK", 1000)
    (tmp_path / "input").mkdir()
    conversion.write_rows(tmp_path / "input" / conversion.FILE, 3500)
    return tmp_path / "input" / conversion.FILE


def test_every_row_is_converted_once_and_can_be_read_at_any_step(tmp_path, log, monkeypatch):
    monkeypatch.setattr(conversion.buckets, "ROWS", 1000)
    conversion.plain(log, tmp_path / "store")
    table = open_store(tmp_path / "store", "full")["events"]
    assert len(table.shards) > 1
    found = pl.DataFrame({name: np.asarray(table[name]) for name in table.columns})
    assert found["user"].n_unique() == found["user"].rle_id().max() + 1
    rows = pl.read_csv(log, has_header=False, new_columns=list(conversion.COLUMNS))
    codes = dict(zip(conversion.BEHAVIORS, range(4), strict=True))
    coded = rows.with_columns(pl.col("behavior").replace_strict(codes)).cast(pl.Int32)
    assert found.sort(found.columns).equals(coded.sort(coded.columns))
    times = conversion.seconds_of_batches(table, conversion.FAR_STEP)
    assert len(times) == conversion.READ
    assert min(times) > 0


def test_a_conversion_that_fails_is_told(tmp_path, log):
    log.write_bytes(log.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"^the conversion failed: .*row 3500: cut off, no end of line[^\n]*$"):
        conversion.converted("plain", log.parent, tmp_path / "store")


def test_an_unknown_source_is_told():
    with pytest.raises(UserError, match=r"^source='plan': did you mean plain\?$"):
        conversion.main(["--source=plan"])
