"""The data page and the command that says where data are had leave no source out."""

from pathlib import Path

import pytest

from hccp_jax.data.sources.__main__ import main
from hccp_jax.data.sources.registry import SOURCES, source

PAGE = (Path(__file__).parents[2] / "hccp_jax" / "data" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SOURCES)
def test_each_source_has_a_paragraph_a_command_and_is_described(name, capsys):
    dataset = source(name)
    assert f"(`{name}`" in PAGE
    assert f"python -m hccp_jax.data.convert --source={name} --input=" in PAGE
    assert main([name]) == 0
    said = capsys.readouterr().out
    assert all(part in said for part in (dataset.title, dataset.licence, dataset.where))
    assert all(file.name in said for file in dataset.files)
    assert dataset.files


def test_all_are_described_and_a_wrong_name_is_one_line(capsys):
    assert main([]) == 0
    assert capsys.readouterr().out.count("licence:") == len(SOURCES)
    assert main(["kuairnd"]) == 2
    assert capsys.readouterr().err == "error: source='kuairnd': unknown; did you mean kuairand?\n"
