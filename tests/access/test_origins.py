"""Pages of other origins."""

import pytest
from multidict import CIMultiDict

from stfs.access.origins import HEADERS, Origins

LISTED = Origins(True, ("https://a.example", "http://localhost:3000"))


def test_every_origin_no_origin_or_those_that_are_listed():
    assert Origins(False).fixed() == Origins(False).allowing("https://a.example") == {}
    assert Origins(True).fixed() == {"Access-Control-Allow-Origin": "*"}
    assert Origins(True).allowing("https://a.example") == {}
    assert LISTED.fixed() == {"Vary": "Origin"}
    assert LISTED.allowing("https://a.example") == {"Access-Control-Allow-Origin": "https://a.example"}
    for other in (None, "", "null", "https://a.example.evil", "http://a.example", "https://a.example:8443"):
        assert LISTED.allowing(other) == {}
        assert LISTED.preflight(other, "x") == {}


def test_a_preflight_is_told_what_may_be_sent():
    for origins in (Origins(True), LISTED):
        told = origins.preflight("https://a.example", "authorization, content-type")
        assert told["Access-Control-Allow-Headers"] == "authorization, content-type"
        assert "POST" in told["Access-Control-Allow-Methods"]
    assert "Authorization" in Origins(True).preflight(None, None)["Access-Control-Allow-Headers"] == HEADERS


@pytest.mark.parametrize(
    ("headers", "foreign"),
    [
        ({}, False),
        ({"Host": "h:1"}, False),
        ({"Origin": "http://h:1", "Host": "h:1"}, False),
        ({"Origin": "http://H:1", "Host": "h:1"}, False),
        ({"Origin": "http://evil", "Host": "h:1"}, True),
        ({"Origin": "null", "Host": "h:1"}, True),
        ({"Origin": "http://evil"}, True),
        ({"Origin": "http://evil", "Host": "h:1", "Sec-Fetch-Site": "same-origin"}, False),
        ({"Origin": "http://h:1", "Host": "h:1", "Sec-Fetch-Site": "cross-site"}, True),
        ({"Sec-Fetch-Site": "none"}, False),
        ({"Sec-Fetch-Site": "same-site"}, True),
        ({"sec-fetch-site": "cross-site", "origin": "https://a.example"}, False),
    ],
)
def test_what_comes_from_a_page_that_is_not_ours(headers, foreign):
    assert LISTED.is_foreign(CIMultiDict(headers)) is foreign
