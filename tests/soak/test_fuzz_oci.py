"""Long fuzzing of what strangers send as container images. BANGER_FUZZ_EXAMPLES says how many examples each test tries."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fakes import oci_fuzz

EXAMPLES = int(os.environ.get("BANGER_FUZZ_EXAMPLES", "50000"))
long = settings(max_examples=EXAMPLES, deadline=None, database=None, print_blob=True, suppress_health_check=list(HealthCheck))

pytestmark = pytest.mark.timeout(7200)


@long
@given(oci_fuzz.references)
def test_references(text: str) -> None:
    oci_fuzz.check_reference(text)


@long
@given(oci_fuzz.documents())
def test_documents(untrusted: bytes) -> None:
    oci_fuzz.check_document(untrusted)


@long
@given(oci_fuzz.configs())
def test_configs(untrusted: bytes) -> None:
    oci_fuzz.check_config(untrusted)


@long
@given(oci_fuzz.challenges)
def test_challenges(untrusted: list[str]) -> None:
    oci_fuzz.check_challenges(untrusted)


@long
@given(oci_fuzz.archives())
def test_archives(untrusted: bytes) -> None:
    oci_fuzz.check_archive(untrusted)
