"""Sizes, names, limits, errors and op ids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.model import errors
from banger.model.errors import BadRequest, BangerError
from banger.model.limits import check_spec, defaults_for_host
from banger.model.names import check_new_vm_name, check_vm_name, generate_name
from banger.model.opid import OP_ID_PATTERN, new_op_id
from banger.model.sizes import GIB, KIB, MIB, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512M", 512 * MIB),
        ("4G", 4 * GIB),
        ("4GiB", 4 * GIB),
        ("512MiB", 512 * MIB),
        ("4KiB", 4 * KIB),
        ("2048", 2048 * MIB),
        ("1t", 1024 * GIB),
        (" 8 GB ", 8 * GIB),
    ],
)
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "0M", "-1G", "1.5G", "4X", "G", "4GG", "1e3", "٤G", "9" * 16])
def test_what_is_not_a_size(text: str) -> None:
    with pytest.raises(BadRequest, match="not a size"):
        parse_size(text)


@given(st.integers(1, 10**6), st.sampled_from("KMGT"))
def test_formatting_is_right_to_a_tenth_of_the_unit(number: int, unit: str) -> None:
    size = parse_size(f"{number}{unit}")
    shown = format_size(size)
    factor = {"K": KIB, "M": MIB, "G": GIB, "T": 1024 * GIB}[shown[-1]]
    assert abs(float(shown[:-1]) * factor - size) <= factor * 0.051


@pytest.mark.parametrize("name", ["a", "box", "b-0", "0x", "a" * 63, "0" * 31, "0" * 33])
def test_good_names(name: str) -> None:
    assert check_vm_name(name) == name


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a.b", "a_b", "a b", "a\n", "../x", "a" * 64, "ä", "0123456789abcdef" * 2])
def test_bad_names(name: str) -> None:
    with pytest.raises(BadRequest, match="bad name"):
        check_vm_name(name)


@pytest.mark.parametrize("name", ["0123456789ab", "deadbeefcafe0", "0" * 31, "a" * 32])
def test_new_names_are_no_short_ids(name: str) -> None:
    with pytest.raises(BadRequest, match="bad name"):
        check_new_vm_name(name)


@pytest.mark.parametrize("name", ["box", "deadbeef", "0123456789a", "0123456789ag", "0123456789-ab", "0" * 33])
def test_good_new_names(name: str) -> None:
    assert check_new_vm_name(name) == name


def test_generated_names_are_good() -> None:
    for _ in range(200):
        check_new_vm_name(generate_name())


@pytest.mark.parametrize(
    ("argument", "value"), [("vcpu_count", 0), ("vcpu_count", 65), ("memory_mib", 1), ("work_disk_bytes", MIB), ("system_overlay_bytes", 200 * GIB)]
)
def test_limits(argument: str, value: int) -> None:
    sizes: dict[str, int | None] = {"vcpu_count": None, "memory_mib": None, "work_disk_bytes": None, "system_overlay_bytes": None}
    with pytest.raises(BadRequest):
        check_spec(**(sizes | {argument: value}))
    check_spec(**sizes)


@pytest.mark.parametrize(
    ("cpus", "gib", "vcpu", "mib", "auto"),
    [
        (2, 24, 2, 3072, {"memory_mib"}),
        (64, 256, 4, 8192, {"memory_mib", "vcpu_count"}),
        (1, 2, 2, 2048, set()),
        (12, 64, 3, 8192, {"memory_mib", "vcpu_count"}),
    ],
)
def test_defaults_follow_the_host(cpus: int, gib: int, vcpu: int, mib: int, auto: set[str]) -> None:
    defaults = defaults_for_host(cpus, gib * GIB)
    assert (defaults.vcpu_count, defaults.memory_mib) == (vcpu, mib)
    assert {name for name, origin in defaults.provenance.items() if origin == "auto"} == auto


def test_every_error_code_is_unique_and_rebuilds_its_class() -> None:
    for code, kind in errors.BY_CODE.items():
        rebuilt = errors.from_code(code, "what", hint="do", op_id="op-1", vm="box")
        assert type(rebuilt) is kind
        assert (rebuilt.message, rebuilt.hint, rebuilt.op_id, rebuilt.vm) == ("what", "do", "op-1", "box")
    assert type(errors.from_code("from_the_future", "what")) is BangerError


def test_the_drawn_tree_is_the_tree() -> None:
    drawn = {line.split()[-2]: line.split()[-1] for line in (errors.__doc__ or "").splitlines() if "  " in line.strip() and line.split()[-1].islower()}
    kinds: list[type[BangerError]] = [BangerError, *_below(BangerError)]
    real = {kind.__name__: kind.code for kind in kinds if kind.__module__ == errors.__name__}
    assert drawn == real


def _below(kind: type[BangerError]) -> list[type[BangerError]]:
    return [leaf for child in kind.__subclasses__() for leaf in (child, *_below(child))]


def test_op_ids() -> None:
    assert OP_ID_PATTERN.fullmatch(new_op_id())
    assert len({new_op_id() for _ in range(100)}) == 100
