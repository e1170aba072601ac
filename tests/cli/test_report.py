"""--report as a user types it."""

import pytest

from tests.report.pages import Page


def rescale(cli, place, weights, *more):
    arguments = ("--images", place / "pictures", "--num-images", "4", "-o", place / "out.caffemodel")
    return cli("rescale", place / "net.prototxt", weights, *arguments, *more)


def test_a_page_tells_what_was_asked_for(cli, place, weights):
    speed = ("--threads", "1", "--memory-limit", "8G")  # of no account for the result, and so for the page
    outcome = rescale(cli, place, weights, "--mode", "equalize", "--report", place / "page.html", *speed)
    assert outcome.code == 0, outcome.err
    assert f"wrote {place / 'page.html'}" in outcome.out
    page = Page((place / "page.html").read_text())
    assert page.check() == []
    terms = dict(zip(page.texts["dt"], page.texts["dd"], strict=True))
    assert terms["net"] == str(place / "net.prototxt")
    assert terms["output"] == str(place / "out.caffemodel")
    assert terms["options"].split("\n") == ["--mode equalize", f"--images {place / 'pictures'}", "--num-images 4"]
    assert terms["pictures"].startswith("4 of 12 pictures")
    assert "--batch-size 16" in page.texts["details"][0]
    assert page.texts["p"][0].endswith("· rescale")


def test_measure_writes_a_page_too(cli, place, weights):
    arguments = ("measure", place / "net.prototxt", weights, "--images", place / "pictures", "--num-images", "4")
    outcome = cli(*arguments, "--compare", weights, "--report", place / "page.html")
    assert outcome.code == 0, outcome.err
    page = Page((place / "page.html").read_text())
    assert page.texts["p"][0].endswith("· measure")
    assert page.tables[0][1][:2] == ["A", "B"]
    again = cli(*arguments, "--report", place / "page.html")
    assert again.code == 1
    assert "page.html: exists already; --force replaces it" in again.err


def test_dry_run_writes_no_page(cli, place, weights):
    assert rescale(cli, place, weights, "--dry-run", "--report", place / "page.html").code == 0
    assert not (place / "page.html").exists()


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_page_does_not_take_the_outputs_place(cli, place, weights, force):
    outcome = rescale(cli, place, weights, "--report", place / "out.caffemodel", *force)
    assert outcome.code == 2
    assert "--report" in outcome.err
    assert "is the file of --output, too" in outcome.err
    assert not (place / "out.caffemodel").exists()
