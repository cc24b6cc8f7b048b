"""A version is named alike wherever it is named, and pages lead somewhere."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
PAGES = ("CONTRIBUTING.md", "SECURITY.md", "docs/releasing.md", "docs/dependencies.md")


def headings() -> list[tuple[str, str]]:
    """Each version of the changelog, newest first, with its date."""
    return re.findall(r"^## (\d+\.\d+\.\d+)(?: \((.+)\))?$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_the_changelog_and_the_citation_name_the_version_and_its_date() -> None:
    (version, date) = next(heading for heading in headings() if heading[1] != "unreleased")
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert version == VERSION == cited["version"]
    assert date == str(cited["date-released"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", date)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    links = re.findall(r"\]\(((?!http)[^)]+)\)", path.read_text())
    for link in links:
        file, _, heading = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        if heading:
            titles = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles], link


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_are_there(page: str) -> None:
    """Such as `pipelines/models/artifact.py`: a move of the file is a move in the page."""
    named = re.findall(
        r"`((?:rm_rec|feature_store|pipelines|tests|benchmarks|third_party|\.ci)/[\w./-]+)`", (ROOT / page).read_text()
    )
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing


def test_the_formats_that_the_page_names_are_those_of_the_code() -> None:
    """Whoever changes a format says on the page what becomes of the one before."""
    rows = (ROOT / "docs" / "releasing.md").read_text().splitlines()
    found = [re.search(r"\| (?:[^|]*): (\d+) \(`([\w/]+\.py)`\)", row) for row in rows]
    formats = {match[2]: match[1] for match in found if match}
    assert len(formats) == 5
    for file, number in formats.items():
        assert re.search(rf"^FORMAT(?:_VERSION)? = {number}$", (ROOT / file).read_text(), re.MULTILINE), file


def test_the_readmes_installation_is_a_block_that_ci_runs() -> None:
    """What `.ci/install` cuts out of the page."""
    section = (ROOT / "README.md").read_text().partition("\n## Install\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1
    lines = [line for line in blocks[0].splitlines() if line]
    assert lines[0] == "python3 -m venv env"
    assert all(line.startswith("env/bin/") for line in lines[1:])
    assert [bool(re.search(r"rm_rec-\*\.whl|fbgemm_gpu-\*\.whl", line)) for line in lines] == [
        *(False, False, True, True, False, False)
    ]
