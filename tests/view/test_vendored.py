"""What is vendored is what its record says, and is packaged."""

import hashlib
import json
import tomllib

from helpers import ROOT

VENDOR = ROOT / "largegen" / "view" / "page" / "vendor"


def test_openseadragon_is_the_one_that_its_record_names():
    record = json.loads((VENDOR / "openseadragon.json").read_text())
    content = (VENDOR / record["file"].rpartition("/")[2]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == record["sha256"]
    assert f"openseadragon {record['version']}" in content[:200].decode()
    assert "Redistribution and use" in (VENDOR / "openseadragon.LICENSE.txt").read_text()


def test_the_page_asks_nothing_of_other_servers():
    for path in (ROOT / "largegen" / "view" / "page").glob("*.*"):
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")  # a name, not an address
        assert "http://" not in text and "https://" not in text, path.name


def test_wheels_hold_the_page():
    """Hatch takes all files of the package that git knows: none of the page's may be ignored."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert build == {"packages": ["largegen"]}
