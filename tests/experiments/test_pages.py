"""The pages in a browser, on a phone and on a desk: they load whole, ask for nothing, and fit."""

import io
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from browser import CHROMIUM, Browser
from rich.console import Console
from written_run import claim, experiment, write_run

from experiments import ledger_files, report
from experiments.ledger import read_ledger

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine to show the pages")
SIZES = {"phone": (390, 844), "desk": (1280, 900)}


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """A full run and a smoke run with their reports, and the ledger of both and of an experiment that was not run."""
    out = tmp_path_factory.mktemp("pages")
    long = experiment("long", claims=(claim("CRO-1", "good", paper="CROLoss Table 2"),))
    for name, of, steps in (("full run", experiment(), 400), ("small", long, 10)):
        command = f"python launch.py --experiment={of.name} --out='{name}' --a.very.long.dotted.flag.name={'x' * 60}"
        write_run(out / name, of, worlds=3, steps=steps, command=command)
        report.write_all(out / name, of, command, Console(file=io.StringIO()))
    third = experiment("third", claims=(claim("HAP-1", "good"),))
    ledger = read_ledger(out, [experiment(), long, third])
    ledger_files.write_all(ledger, "python launch.py --claims", Console(file=io.StringIO()))
    return out


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["full run/report.html", "small/report.html", "ledger.html"])
def test_a_page_loads_whole_and_fits(out, browser, name, size):
    seen = browser.see(out / name, *SIZES[size])
    assert seen.viewport == SIZES[size][0]
    assert seen.width <= seen.viewport
    assert seen.images > 0
    assert seen.broken == []
    assert seen.cut == []
    assert seen.errors == []
    assert seen.requests == []
    browser.run("document.querySelectorAll('details').forEach(one => one.open = true)")
    opened = browser.measure()
    assert opened["width"] <= opened["viewport"]
    assert opened["cut"] == []


@pytest.mark.parametrize("name", ["full run/report.html", "ledger.html"])
def test_a_page_is_one_file_without_scripts(out, name):
    page = (out / name).read_text()
    assert page.startswith("<!doctype html>")
    assert "<script" not in page
    assert not re.search(r"https?://|@import|url\(", page)
    assert set(re.findall(r'src="(.{22})', page)) == {"data:image/png;base64,"}


def test_every_link_of_the_ledger_leads_somewhere(out, browser):
    links = browser.see(out / "ledger.html", *SIZES["desk"]).links
    assert sum("report.html#claim-" in link for link in links) >= 5
    assert sum(link.endswith(".png") for link in links) >= 2
    for link in links:
        file, _, place = link.partition("#")
        target = out / unquote(file)
        assert target.exists(), link
        if place:
            assert f'id="{place}"' in target.read_text(), link


def test_the_browser_sees_what_is_wrong(tmp_path, browser):
    (tmp_path / "bad.html").write_text(
        '<!doctype html><meta name="viewport" content="width=device-width"><div style="width:900px">wide</div>'
        '<img alt="gone" src="gone.png"><img alt="far" src="http://example.invalid/a.png">'
        '<p style="width:20px">Unbreakable</p><script>console.error("told"); undefined.property</script>'
    )
    seen = browser.see(tmp_path / "bad.html", *SIZES["phone"])
    assert seen.width > 390
    assert seen.broken == ["gone", "far"]
    assert seen.cut == ["Unbreakable"]
    assert len(seen.errors) >= 3
    assert {request.rpartition("/")[2] for request in seen.requests} == {"gone.png", "a.png"}
