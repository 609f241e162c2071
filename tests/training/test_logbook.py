import json
import sys

import pytest

from hccp_jax.errors import UserError
from hccp_jax.training.logbook import Logbook


def written(directory, steps, resume=0, **more):
    book = Logbook(directory, resume, **more)
    for step in steps:
        book.write(step, {"loss": 1 / step, "fit": float(step)})
    book.close()
    return book.path.read_bytes()


def test_one_json_line_a_step(tmp_path):
    written(tmp_path / "new" / "run", [5, 10])
    lines = (tmp_path / "new" / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 5, "loss": 0.2, "fit": 5.0},
        {"step": 10, "loss": 0.1, "fit": 10.0},
    ]


def test_lines_are_on_disk_at_once(tmp_path):
    book = Logbook(tmp_path, 0)
    book.write(1, {"loss": 0.5})
    assert book.path.read_text() == '{"step": 1, "loss": 0.5}\n'
    book.close()


@pytest.mark.parametrize("resume", [0, 5, 7, 10, 15])
def test_resumption_drops_later_lines_and_ends_in_the_same_file(tmp_path, resume):
    steps = [5, 10, 15]
    straight = written(tmp_path / "straight", steps)
    written(tmp_path / "stopped", steps)
    book = Logbook(tmp_path / "stopped", resume)
    book.close()
    kept = [json.loads(line)["step"] for line in book.path.read_text().splitlines()]
    assert kept == [step for step in steps if step <= resume]
    assert written(tmp_path / "stopped", [step for step in steps if step > resume], resume) == straight


@pytest.mark.parametrize("cut", ['{"step": 10, "lo', '{"step": 10, "loss": 0.1, "fit": 10.0}', "{", "\n", '{"step": 1'])
def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path, cut):
    straight = written(tmp_path / "straight", [5, 10])
    written(tmp_path / "stopped", [5])
    with (tmp_path / "stopped" / "metrics.jsonl").open("a") as file:
        file.write(cut)
    assert written(tmp_path / "stopped", [10], 5) == straight


def test_tensorboard_is_optional(tmp_path, monkeypatch):
    written(tmp_path / "plain", [1])
    assert [path.name for path in (tmp_path / "plain").iterdir()] == ["metrics.jsonl"]
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    written(tmp_path / "plain", [1])
    with pytest.raises(UserError, match=r"^train.tensorboard=true: needs `pip install tensorboardX`$"):
        Logbook(tmp_path / "wanted", 0, tensorboard=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_gets_the_same_values(tmp_path):
    pytest.importorskip("tensorboardX")
    straight = written(tmp_path / "plain", [1, 2])
    assert written(tmp_path / "both", [1, 2], tensorboard=True) == straight
    (events,) = (tmp_path / "both" / "tensorboard").iterdir()
    content = events.read_bytes()
    assert content.count(b"loss") == content.count(b"fit") == 2


def test_a_directory_that_cannot_be_written_is_the_users_mistake(tmp_path):
    (tmp_path / "file").write_text("")
    for directory in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match=r"out=.*file.*: cannot be written \(.+\)") as error:
            Logbook(directory, 0)
        assert "\n" not in str(error.value)
