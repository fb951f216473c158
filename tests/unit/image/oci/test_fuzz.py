"""A little of what tests/soak/test_fuzz_oci.py does."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings

from tests.fakes import oci_fuzz

little = settings(max_examples=100, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])


@little
@given(oci_fuzz.references)
def test_references(text: str) -> None:
    oci_fuzz.check_reference(text)


@little
@given(oci_fuzz.documents())
def test_documents(untrusted: bytes) -> None:
    oci_fuzz.check_document(untrusted)


@little
@given(oci_fuzz.configs())
def test_configs(untrusted: bytes) -> None:
    oci_fuzz.check_config(untrusted)


@little
@given(oci_fuzz.challenges)
def test_challenges(untrusted: list[str]) -> None:
    oci_fuzz.check_challenges(untrusted)


@little
@given(oci_fuzz.archives())
def test_archives(untrusted: bytes) -> None:
    oci_fuzz.check_archive(untrusted)
