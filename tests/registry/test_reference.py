"""Names, versions and aliases: what is well formed, and that nothing else gets through."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import BadReference, LorikeetError, Reference, UsageError, check_alias, check_name
from registry.reference import RESERVED_NAMES

names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True).filter(
    lambda name: name not in RESERVED_NAMES
)


@given(names, st.integers(1, 999_999_999))
def test_a_version_reference_reads_back(name: str, number: int) -> None:
    reference = Reference.parse(f"{name}@{number}")
    assert reference == Reference(name, version=number)
    assert Reference.parse(str(reference)) == reference


@given(names, st.from_regex(r"[a-z][a-z0-9._-]{0,31}", fullmatch=True))
def test_an_alias_reference_reads_back(name: str, alias: str) -> None:
    reference = Reference.parse(f"{name}@{alias}")
    assert reference == Reference(name, alias=alias)
    assert Reference.parse(str(reference)) == reference


@given(names)
def test_a_bare_name_has_neither(name: str) -> None:
    assert Reference.parse(name) == Reference(name)
    assert str(Reference(name)) == name


@given(st.text())
def test_whatever_is_accepted_is_safe_in_a_path_and_a_url(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except BadReference as error:
        assert error.remedy
        return
    assert re.fullmatch(r"[a-z0-9][a-z0-9._-]*(@[a-z0-9][a-z0-9._-]*)?", text)
    assert str(reference) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@",
        "@3",
        "titulares@",
        "titulares@0",
        "titulares@03",
        "titulares@-1",
        "titulares@3@prod",
        "titulares@PROD",
        "Titulares",
        "../titulares",
        ".titulares",
        "a/b",
        "a b",
        "niño",
        "x" * 65,
        "titulares\n",
        "titulares@3\n",
        "text",
        "image@1",
        "input",
        "audio",
        "video@prod",
    ],
)
def test_ill_formed_references_are_refused_with_a_remedy(text: str) -> None:
    with pytest.raises(BadReference) as caught:
        Reference.parse(text)
    assert isinstance(caught.value, UsageError)
    assert caught.value.exit_code == 2
    assert caught.value.remedy


def test_a_long_name_is_cut_in_the_message() -> None:
    with pytest.raises(LorikeetError) as caught:
        check_name("x" * 5000)
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("alias", ["", "3", "Prod", "a@b", "a" * 33])
def test_ill_formed_aliases_are_refused(alias: str) -> None:
    with pytest.raises(BadReference):
        check_alias(alias)
