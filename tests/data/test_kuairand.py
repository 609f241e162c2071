"""Reading, checking and splitting the files of KuaiRand."""

import gzip
from dataclasses import replace

import kuairand_synthetic as synthetic
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hccp_jax.data import kuairand as kr
from hccp_jax.data.kuairand_files import read_text
from hccp_jax.errors import UserError


@pytest.mark.parametrize("gz", [False, True])
def test_reads_plain_and_gzipped(tmp_path, gz):
    tables = kr.read(synthetic.write_all(tmp_path, gz=gz))
    assert (tables.users.height, tables.videos.height, len(tables.log.user)) == (12, 60, 400)
    assert np.all(np.diff(tables.log.time) >= 0)
    assert tables.log.item.min() >= 1
    assert tables.earlier_source.startswith(kr.EARLIER_DERIVED)
    assert tables.videos["video_duration"].null_count() == 7
    assert tables.videos["tag"].null_count() == 15


def test_the_earlier_history_is_optional_and_the_earlier_log_takes_its_place(tmp_path):
    synthetic.write_all(tmp_path, history=False)
    assert len(kr.read(tmp_path).earlier.user) == 0
    rows = [synthetic.log_row(3, v, -9, 60 * v, long_view=v % 2) for v in (5, 2, 7)]
    synthetic.write(tmp_path, synthetic.LOG_HEADER, rows, kr.EARLIER_LOG)
    tables = kr.read(tmp_path)
    np.testing.assert_array_equal(tables.earlier.item, [3, 6, 8])  # by time
    np.testing.assert_array_equal(tables.earlier.long_view, [0, 1, 1])
    assert tables.earlier.click.sum() == 0  # its order and long-view flags are used only
    synthetic.write(tmp_path, synthetic.LOG_HEADER, [synthetic.log_row(3, 1, 0, 80_000)], kr.EARLIER_LOG)
    with pytest.raises(UserError, match=f"{kr.EARLIER_LOG}: row 1: not earlier than"):
        kr.read(tmp_path)


def test_the_derived_history_may_not_overlap_the_log(tmp_path):
    synthetic.write_all(tmp_path, rows=[*synthetic.log_rows(), synthetic.log_row(1, 1, -1, 7)])
    with pytest.raises(UserError, match=r"history_0408_0424\.csv: row 1: covers days to 2022-04-24"):
        kr.read(tmp_path)


def test_duplicates_are_removed_and_conflicts_merged_by_the_larger_label(tmp_path):
    twice = synthetic.log_row(1, 1, 0, 10, click=1)
    conflict = [synthetic.log_row(2, 2, 0, 20, click=1), synthetic.log_row(2, 2, 0, 20, long_view=1)]
    tables = kr.read(
        synthetic.write_all(tmp_path, rows=[twice, twice, twice, *conflict, synthetic.log_row(3, 3, 1, 0)])
    )
    assert (tables.duplicates, tables.conflicts) == (2, 1)
    np.testing.assert_array_equal(tables.log.user, [2, 3, 4])
    np.testing.assert_array_equal(tables.log.click, [1, 1, 0])
    np.testing.assert_array_equal(tables.log.long_view, [0, 1, 0])


def test_days_come_from_the_time_of_exposure_and_early_minutes_join_the_first_day(tmp_path):
    late = synthetic.log_row(1, 1, 0, 86_399).replace(",20220425,", ",20220426,")  # logged in the next hour
    early = synthetic.log_row(1, 2, 0, -60).replace(",20220424,", ",20220425,")
    tables = kr.read(synthetic.write_all(tmp_path, rows=[late, early, synthetic.log_row(1, 3, 1, 0)]))
    np.testing.assert_array_equal(tables.log.day - tables.log.day[0], [0, 0, 1])
    np.testing.assert_array_equal(kr.hour_of_day(tables.log.time), [23, 23, 0])


@pytest.mark.parametrize("name", [kr.LOG, kr.USERS, kr.VIDEOS])
def test_a_missing_file_is_named(tmp_path, name):
    synthetic.write_all(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=f"no {name} or {name}.gz there"):
        kr.read(tmp_path)


GOOD = synthetic.log_row(1, 2, 0, 5).split(",")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("user_id", "12", r"user_id='12', expected an integer in \[0, 11\]"),
        ("video_id", "-1", r"video_id='-1', expected an integer in \[0, 59\]"),
        ("video_id", "", r"video_id=nothing, expected"),
        ("date", "20221345", "date='20221345', expected a date YYYYMMDD"),
        ("date", "20220428", "date='20220428', expected at most a day from time_ms"),
        ("time_ms", "yesterday", "time_ms='yesterday', expected an integer"),
        ("is_click", "2", r"is_click='2', expected an integer in \[0, 1\]"),
        ("long_view", "0.5", "long_view='0.5', expected an integer"),
        ("tab", "15", r"tab='15', expected an integer in \[0, 14\]"),
    ],
)
def test_a_bad_value_names_file_row_and_what_is_accepted(tmp_path, column, value, message):
    names = synthetic.LOG_HEADER.split(",")
    bad = ",".join(value if name == column else good for name, good in zip(names, GOOD, strict=True))
    synthetic.write_all(tmp_path, rows=[*synthetic.log_rows()[:7], bad])
    with pytest.raises(UserError, match=f"^{kr.LOG}: row 8: {message}") as caught:
        kr.read(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        (kr.VIDEOS, "3,0,NORMAL", "2,0,NORMAL", "row 3: video_id='2', expected each id once"),
        (kr.VIDEOS, "3,0,NORMAL", "60,0,NORMAL", r"row 4: video_id='60', expected an integer in \[0, 59\]"),
        (kr.VIDEOS, "5997.0", "long", r"row 2: video_duration='long', expected milliseconds"),
        (kr.VIDEOS, "5997.0", "nan", r"row 2: video_duration='nan', expected milliseconds"),
        (kr.VIDEOS, "0,0,NORMAL,2022-04-10", "0,0,NORMAL,10.4.2022", "row 1: upload_dt='10.4.2022', expected a date"),
        (kr.VIDEOS, "video_duration", "duration", "no column video_duration; found video_id"),
        (kr.USERS, "\n3,full", "\n,full", "row 4: user_id=nothing"),
        (kr.LOG, "is_click", "clicked", "no column is_click; found user_id"),
    ],
)
def test_bad_tables_are_refused(tmp_path, name, old, new, message):
    path = synthetic.write_all(tmp_path) / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=f"^{name}: {message}"):
        kr.read(tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a,b\n1,2\n3", r"row 2: cut off, no end of line"),
        (b"a,b\n1,2\n3\n4,5\n", "row 2: 1 fields, expected 2"),
        (b"a,b\n1,2\n\n4,5\n", "row 2: 0 fields, expected 2"),
        (b"a,b\n1,2\n3,4,5\n", "row 2: 3 fields, expected 2"),
        (b'a,b\n1,"2\n', "row 1: unexpected end of data"),
        (b"a,b\n1,2\n3,\xff\n", "row 2: byte 0xff is not UTF-8"),
        (b"", "empty, expected a header"),
        (b"a,b\n", "row 1: no rows after the header"),
        (b"a,c\n1,2\n", "no column b; found a, c"),
    ],
)
def test_broken_csv_is_refused_with_its_row(tmp_path, data, message):
    path = tmp_path / "x.csv"
    path.write_bytes(data)
    with pytest.raises(UserError, match=f"^x.csv: {message}"):
        read_text(path, ("a", "b"))


def test_an_empty_last_field_is_not_a_short_row(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b'a,b\n"1,5",2\n3,\n')
    assert read_text(path, ("a", "b")).rows() == [("1,5", "2"), ("3", None)]


@given(st.data())
def test_a_damaged_gzip_is_never_read_silently(tmp_path_factory, data):
    whole = gzip.compress("\n".join([synthetic.LOG_HEADER, *synthetic.log_rows(count=50), ""]).encode())
    cut = data.draw(st.integers(1, len(whole) - 1))
    path = tmp_path_factory.mktemp("cut") / "log.csv.gz"
    path.write_bytes(whole[:cut])
    with pytest.raises(UserError, match=r"^log\.csv\.gz: gzip stream damaged after row \d+: "):
        read_text(path, ("user_id",))


def test_a_gzip_with_a_changed_byte_is_refused(tmp_path):
    path = synthetic.write(tmp_path, synthetic.LOG_HEADER, synthetic.log_rows(), "log.csv", gz=True)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 255
    path.write_bytes(raw)
    with pytest.raises(UserError, match="gzip stream damaged"):
        read_text(path, ("user_id",))


def test_the_split_is_by_day_and_its_parts_do_not_overlap(tmp_path):
    log = kr.read(synthetic.write_all(tmp_path)).log
    periods = kr.split(log, synthetic.small_config())
    assert (periods.training, periods.count) == (4, 6)
    assert periods.text["train"] == "2022-04-25..2022-04-28"
    assert periods.text["test"] == "2022-04-30..2022-05-01"
    np.testing.assert_array_equal(np.minimum(log.day - log.day.min(), 5), periods.of)
    two = kr.split(log, synthetic.small_config(validation_days=2))
    np.testing.assert_array_equal(two.starts - log.day.min(), [0, 1, 2, 3, 5])


@pytest.mark.parametrize("test_from", ["20220425", "20220426", "20220502", "2022-05-01"])
def test_a_split_without_a_part_is_refused(tmp_path, test_from):
    log = kr.read(synthetic.write_all(tmp_path)).log
    with pytest.raises(UserError, match=f"test_from='?{test_from}"):
        kr.split(log, synthetic.small_config(test_from=test_from))


def test_the_guard_trips_when_a_later_part_begins_too_early(tmp_path):
    log = kr.read(synthetic.write_all(tmp_path)).log
    time = log.time.copy()
    time[-1] = time[0]
    with pytest.raises(UserError, match="not before test"):
        kr.split(replace(log, time=time), synthetic.small_config())
    with pytest.raises(UserError, match="train has time_ms=7, not before validation: 7"):
        kr.check_order({"train": np.array([1, 7]), "validation": np.array([7, 9])})


def test_requests_are_lists_by_user_day_and_tab_in_arranged_order(tmp_path):
    rows = [synthetic.log_row(1, v, 0, v, click=v % 2, long_view=1) for v in range(5)]
    rows += [synthetic.log_row(1, 9, 0, 1, tab=4), synthetic.log_row(1, 8, 1, 1), synthetic.log_row(0, 7, 0, 3600)]
    log = kr.read(synthetic.write_all(tmp_path, rows=rows)).log
    lists = kr.group(log, np.zeros(8, np.int32), np.arange(8), 3)
    np.testing.assert_array_equal(lists.user, [1, 2, 2, 2, 2])
    np.testing.assert_array_equal(lists.part, [0, 0, 1, 0, 0])
    np.testing.assert_array_equal(lists.tab, [1, 1, 1, 4, 1])
    np.testing.assert_array_equal(lists.hour, [1, 0, 0, 0, 0])
    # videos 0, 1, 2 then 3, 4 in the order shown; the clicked ones, 1 and 3, come first and keep their rank
    np.testing.assert_array_equal(lists.ids[1:3], [[2, 1, 3], [4, 5, 0]])
    np.testing.assert_array_equal(lists.rank[1:3], [[1, 0, 2], [0, 1, -1]])
    np.testing.assert_array_equal(lists.labels["click"][1:3], [[1, 0, 0], [1, 0, 0]])
    np.testing.assert_array_equal(lists.labels["long_view"][1:3], [[1, 1, 1], [1, 1, 0]])
