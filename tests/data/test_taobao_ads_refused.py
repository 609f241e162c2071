"""Taobao's display ads: files that are not as published, and protocols without data, are refused in one line."""

import gzip
from pathlib import Path

import pytest
from taobao_ads_synthetic import BEGIN, FIRST, converted, read, write_all

from hccp_jax.errors import UserError


def refused(folder: Path, output: Path, match: str, **changes) -> None:
    with pytest.raises(UserError, match=match) as caught:
        converted(folder, output, **changes)
    assert "\n" not in str(caught.value)
    assert not output.exists()
    assert not output.with_name(f"{output.name}.partial").exists()


@pytest.mark.parametrize(
    ("name", "old", "new", "match"),
    [
        ("raw_sample.csv", ",1\n", ",0\n", r"raw_sample\.csv: row 1: nonclk=0, expected 1, 1 - clk"),
        ("raw_sample.csv", f",{FIRST},0", "", r"raw_sample\.csv: row 1: 4 fields, expected 6"),
        ("raw_sample.csv", "234,", "x,", r"raw_sample\.csv: row 1: user='x', expected an integer in \[0, "),
        ("raw_sample.csv", ",0,1\n", ",0,2\n", r"raw_sample\.csv: row 1: clk=2, expected an integer in \[0, 1\]"),
        ("raw_sample.csv", "time_stamp", "time", r"raw_sample\.csv: no column time_stamp; found user, time,"),
        ("ad_feature.csv", "7,6406", "63133,6406", r"ad_feature\.csv: row 1: adgroup_id=63133, expected each id once"),
        ("ad_feature.csv", "170.0", "free", r"ad_feature\.csv: row 1: price='free', expected a number"),
        ("user_profile.csv", "523,5", "234,5", r"user_profile\.csv: row 1: userid=234, expected each id once"),
    ],
)
def test_what_is_not_as_published_is_refused_in_one_line(tmp_path, name, old, new, match):
    path = write_all(tmp_path / "in") / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    refused(tmp_path / "in", tmp_path / "out", match)


def test_cut_off_and_reordered_and_garbage_files(tmp_path):
    path = write_all(tmp_path / "in") / "raw_sample.csv"
    good = path.read_text()
    path.write_text(good[:-1])
    refused(tmp_path / "in", tmp_path / "out", r"raw_sample\.csv: row 3: cut off, no end of line")
    path.write_bytes(bytes(range(256)) * 8)
    refused(tmp_path / "in", tmp_path / "out", r"raw_sample\.csv: ")
    path.unlink()
    refused(tmp_path / "in", tmp_path / "out", r"no raw_sample\.csv there")
    (tmp_path / "in" / "raw_sample.csv.gz").write_bytes(gzip.compress(good.encode())[:-12])
    refused(tmp_path / "in", tmp_path / "out", r"raw_sample\.csv\.gz: .* after row 2")
    (tmp_path / "in" / "raw_sample.csv.gz").unlink()
    lines = [line.split(",") for line in good.splitlines()]
    path.write_text("".join(",".join(line[::-1]) + "\n" for line in lines))
    expect = read(converted(write_all(tmp_path / "same"), tmp_path / "a"))
    assert read(converted(tmp_path / "in", tmp_path / "b")) == expect  # columns are found by name


def test_protocols_that_have_no_data_are_refused(tmp_path):
    write_all(tmp_path / "in")
    out = tmp_path / "out"
    refused(
        *(tmp_path / "in", out, "no impressions from 2017-05-19 to 2017-05-19 .*, the validation part"),
        test_day="20170520",
    )
    refused(tmp_path / "in", out, "test_day=20170507: expected at least 2 days after", test_day="20170507")
    refused(tmp_path / "in", out, "first_day='tuesday': expected a date YYYYMMDD", first_day="tuesday")
    refused(tmp_path / "in", out, r"no behavior_log\.csv there", behaviours=True)
    rows = [(234, BEGIN + second, 7, f"pid{second}", 0) for second in range(70)]
    write_all(tmp_path / "many", rows)
    refused(tmp_path / "many", out, "70 different pid, such as 'pid0'; expected at most 64")
