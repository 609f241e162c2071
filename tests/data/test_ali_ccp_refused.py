"""Ali-CCP: files that are not as documented are refused in one line."""

import gzip
from pathlib import Path

import pytest
from ali_ccp_synthetic import TRAINING, converted, session, small

from hccp_jax.errors import UserError


def refused(folder: Path, output: Path, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        converted(folder, output)
    assert "\n" not in str(caught.value)
    assert not output.exists()
    assert not output.with_name(f"{output.name}.partial").exists()


@pytest.mark.parametrize(
    ("name", "old", "new", "match"),
    [
        (
            "sample_skeleton_train.csv",
            "1,0,0",
            "1,0,2",
            r"train\.csv: row 1: purchase=2, expected an int",
        ),
        ("sample_skeleton_test.csv", "1,1,0,", "1,1,", r"skeleton_test\.csv: row 1: 5 fields, expected 6"),
        (
            "sample_skeleton_train.csv",
            TRAINING,
            "the user",
            r"row 1: common_feature_index='the user', expected a hex",
        ),
        (
            "sample_skeleton_train.csv",
            ",4,216",
            ",5,216",
            r"train\.csv: row 1: 4 entries in feature_list, expected 5",
        ),
        (
            "common_features_train.csv",
            "\x0242",
            "\x02x",
            r"row 1: feature_list has '121\\x02x\\x031\.0', exp",
        ),
        (
            "common_features_test.csv",
            "\x0242",
            "\x029999999999",
            r"row 1: feature_list has '121\\x029999999999",
        ),
        (
            "common_features_test.csv",
            "\x031.0",
            "\x03nan",
            r"row 1: feature_list has '101\\x025\\x03nan', exp",
        ),
        (
            "common_features_test.csv",
            "\x031.0\x01121",
            "\x01121",
            r"row 1: feature_list has '101\\x025', exp",
        ),
        ("sample_skeleton_test.csv", "\x01", ";", r"skeleton_test\.csv: row 1: 3 entries in feature_list, expected 4"),
    ],
)
def test_what_is_not_as_published_is_refused_in_one_line(tmp_path, name, old, new, match):
    path = small(tmp_path / "in") / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    refused(tmp_path / "in", tmp_path / "out", match)


def test_cut_off_garbage_and_missing_files(tmp_path):
    path = small(tmp_path / "in") / "common_features_test.csv"
    good = path.read_text()
    path.write_text(good[:-1])
    refused(tmp_path / "in", tmp_path / "out", r"common_features_test\.csv: row 1: cut off, no end of line")
    path.write_bytes(bytes(range(256)) * 8)
    refused(tmp_path / "in", tmp_path / "out", r"common_features_test\.csv: ")
    path.write_text("sample_id,click\n" + good)
    refused(tmp_path / "in", tmp_path / "out", r"common_features_test\.csv: row 1: 2 fields, expected 3")
    path.write_text(session("00000005abcdef", 3) + "\n")
    refused(tmp_path / "in", tmp_path / "out", "no sample of the test part has common features")
    path.unlink()
    refused(tmp_path / "in", tmp_path / "out", r"no common_features_test\.csv there")
    (tmp_path / "in" / "common_features_test.csv.gz").write_bytes(gzip.compress(good.encode())[:-12])
    refused(tmp_path / "in", tmp_path / "out", r"common_features_test\.csv\.gz: .* after row")
