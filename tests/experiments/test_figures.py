"""The figures: what is drawn, what is left out without data, and how the files are written."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from experiments import figures
from experiments.claims import Record
from experiments.experiment import Data, Experiment, Kind, Row


@dataclass(frozen=True)
class Settings:
    steps: int = 1


ROWS = (
    Row("base", "Base"),
    Row("other", "Other"),
    Row("good", "Good"),
    Row("truth", "Truth", reference=True),
    Row("random", "Random", reference=True),
)
CUTOFFS = [1, 10, 100]


def experiment(kind=Kind.SIMULATED):
    data = Data(kind, "What it is.")
    return Experiment("demo", "Demo", "A. Author", "Table 1", 1, data, Settings(), {}, ROWS, (), (), 3, print)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Three seeds of each row; the trained rows have logs that end in half a line."""
    made = []
    for place, row in enumerate(ROWS):
        for seed in range(3):
            directory = tmp_path_factory.mktemp(f"{row.name}{seed}")
            level = 0.3 + 0.1 * place + 0.01 * seed
            metrics = {f"{m}@100/octile{j}": level / j for m in ("ISH", "T") for j in figures.OCTILES}
            curves = {"ISH": {"cutoffs": CUTOFFS, "values": [level / 4, level / 2, level]}}
            if not row.reference:
                lines = [json.dumps({"step": s, "loss": level / (s + 1), "click": 0.5, "epoch": 1}) for s in range(120)]
                (directory / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 120, "lo']))
            made.append(Record(row.name, seed, metrics | {"tail_slots@100": 0.2}, {"curves": curves}, directory))
    return made


def labels(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_hit_rate_curves_draw_the_mean_of_the_seeds_on_a_log_axis(records):
    figure = figures.hit_rate_curves(experiment(), records)
    (axis,) = figure.axes
    assert axis.get_xscale() == "log"
    lines = {line.get_label(): line for line in axis.get_lines()}
    np.testing.assert_allclose(lines["Good"].get_xydata(), [[1, 0.51 / 4], [10, 0.51 / 2], [100, 0.51]])
    assert lines["Good"].get_linestyle() == "-"
    assert lines["Truth"].get_linestyle() == "--"
    assert labels(figure) == ["Base", "Other", "Good", "Truth", "Random"]


def test_training_curves_have_a_panel_a_term_and_trained_rows_only(records):
    figure = figures.training_curves(experiment(), records)
    assert [axis.get_title() for axis in figure.axes] == ["loss", "click"]
    assert labels(figure) == ["Base", "Other", "Good"]
    line = figure.axes[0].get_lines()[0]
    assert len(line.get_xdata()) == figures.BINS
    assert line.get_ydata()[0] == pytest.approx(0.31 * (1 + 1 / 2) / 2)  # steps 0 and 1, mean of three seeds


def test_octiles_have_two_hit_rates_and_the_tail_share(records):
    figure = figures.octiles(experiment(), records)
    assert [axis.get_title()[:6] for axis in figure.axes] == ["ISH@10", "T@100", "Share "]
    bars = [container for container in figure.axes[0].containers if container.get_label() == "Good"]
    assert [bar.get_height() for bar in bars[0]] == pytest.approx([0.51 / j for j in figures.OCTILES])


def test_titles_say_simulated_only_of_simulated_data(records):
    for make in (figures.hit_rate_curves, figures.training_curves, figures.octiles):
        assert "simulated" in make(experiment(), records).get_suptitle()
        assert "simulated" not in make(experiment(Kind.REAL), records).get_suptitle()


def test_null_values_and_rows_without_data_are_left_out(records):
    half = [
        Record(
            "base",
            0,
            {"ISH@100/octile1": None},
            {"curves": {"ISH": {"cutoffs": [1, 2], "values": [None, 1]}}},
            Path("x"),
        )
    ]
    figure = figures.hit_rate_curves(experiment(), half)
    assert figure.axes[0].get_lines()[0].get_xydata().tolist() == [[2, 1]]
    assert figures.octiles(experiment(), half) is None


def test_colours_do_not_depend_on_the_rows_that_were_run(records):
    few = [record for record in records if record.row == "good"]
    alone = figures.hit_rate_curves(experiment(), few).axes[0].get_lines()[0].get_color()
    assert alone == figures.COLOURS[2]


def test_save_all_writes_1200_pixel_images(records, tmp_path):
    paths = figures.save_all(tmp_path, experiment(), records)
    assert [path.name for path in paths] == ["hit_rate_curves.png", "training_curves.png", "octiles.png"]
    assert sorted(paths) == sorted((tmp_path / "figures").iterdir())  # no temporary file stays
    for path in paths:
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG")
        assert int.from_bytes(content[16:20], "big") == 1200
        assert path.stem in figures.CAPTIONS


def test_save_all_leaves_out_what_has_no_data(tmp_path):
    bare = [Record("base", 0, {"ISH@100": 0.3}, {}, tmp_path / "none")]
    assert figures.save_all(tmp_path, experiment(), bare) == []
    assert figures.save_all(tmp_path, experiment(), []) == []


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = figures.write_atomically(tmp_path / "a.txt", "old")
    with pytest.raises(TypeError):
        figures.write_atomically(path, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"
