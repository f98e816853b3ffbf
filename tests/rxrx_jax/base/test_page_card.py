"""What the cards of weights and of datasets share: licences in the hub's terms, and text of others as text."""

import pytest
import yaml

from rxrx_jax.base.page import card

LICENSES = {
    "CC BY-SA 4.0": {"license": "cc-by-sa-4.0"},
    "cc-by-4.0": {"license": "cc-by-4.0"},
    "MIT (https://mit.example/x), (c) Us": {"license": "mit"},
    "CC BY 4.0, except plate 3": {
        "license": "other", "license_name": "cc-by-4.0-except-plate-3", "license_link": "LICENSE",
    },
    "Ours (https://ours.example/terms)": {
        "license": "other", "license_name": "ours", "license_link": "https://ours.example/terms",
    },
    "©": {"license": "other", "license_name": "see-below", "license_link": "LICENSE"},
    "not stated": {"license": "unknown"},
}  # fmt: skip


@pytest.mark.parametrize("text", LICENSES)
def test_only_a_licence_that_the_hub_knows_has_its_name(text):
    assert card.license_fields(text, "LICENSE") == LICENSES[text]


def test_a_licence_without_an_address_or_a_file_has_no_link():
    assert "license_link" not in card.license_fields("Ours")


def test_any_value_is_read_back_from_the_front_matter():
    fields = {"a": "".join(map(chr, (*range(0x20, 0x250), 0x2028, 0xFEFF, 0xFFFE, 0x1F600))) + '---\n: "', "b": ["x"]}
    lines = card.front_matter(fields)
    assert lines[0] == lines[-2] == "---" and len(lines) == 5
    assert yaml.safe_load("\n".join(lines[1:-2])) == fields


def test_a_fence_cannot_be_closed_by_what_it_holds():
    assert card.block("a\n````\nb") == ["`````text", "a", "````", "b", "`````"]
    assert card.escaped("# x\n<b>|*_[a](b)") == "\\# x \\<b\\>\\|\\*\\_\\[a\\](b)"
