"""How forwards are written."""

from __future__ import annotations

import pytest

from banger.model.errors import BadRequest
from banger.model.forwards import MAX_FORWARDS, Forward, check_forwards, parse_forward, without
from banger.model.records import VMSpec
from banger.store.codec import from_json, to_json


@pytest.mark.parametrize(
    ("text", "bind", "host", "guest"),
    [
        ("8080:80", "127.0.0.1", 8080, 80),
        ("0:80", "127.0.0.1", 0, 80),
        ("0.0.0.0:8080:80", "0.0.0.0", 8080, 80),
        ("[::1]:8080:80", "::1", 8080, 80),
        ("[::]:65535:65535", "::", 65535, 65535),
    ],
)
def test_what_is_understood(text: str, bind: str, host: int, guest: int) -> None:
    assert parse_forward(text) == Forward(bind=bind, host_port=host, guest_port=guest)


@pytest.mark.parametrize(
    "text",
    [
        "", "80", "8080:", ":80", "a:80", "8080:80:", "8080:0", "65536:80", "8080:65536", "-1:80", "localhost:8080:80", "1.2.3:8080:80", "1.2.3.256:8080:80",
        "::1:8080:80", "[127.0.0.1:8080:80", "[fe80::1%eth0]:8080:80", "[0::1]:8080:80", "01.2.3.4:1:1", "8080:80\n", " 8080:80", "٣:80", "8080:80/udp",
        "[]:1:1", "[127.0.0.1]:80",
    ],
)  # fmt: skip
def test_what_is_not(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_forward(text)
    assert caught.value.hint


def test_endpoints() -> None:
    assert [str(parse_forward(text)) for text in ("8080:80", "[::1]:1:2")] == ["127.0.0.1:8080 -> 80", "[::1]:1 -> 2"]


def test_each_port_of_the_host_once() -> None:
    same_port = (parse_forward("8080:80"), parse_forward("0.0.0.0:8080:80"))
    check_forwards(same_port)
    with pytest.raises(BadRequest, match=r"8080 of 127\.0\.0\.1 is given twice"):
        check_forwards((*same_port, parse_forward("8080:81")))
    with pytest.raises(BadRequest, match="ports are 1 to"):
        check_forwards((parse_forward("0:80"),))
    check_forwards((parse_forward("0:80"), parse_forward("0:80")), any_port=True)
    with pytest.raises(BadRequest, match="too many"):
        check_forwards([Forward(host_port=port, guest_port=1) for port in range(1, MAX_FORWARDS + 2)])


def test_taking_back() -> None:
    forwards = tuple(map(parse_forward, ("8080:80", "0.0.0.0:8080:80", "[::1]:8081:81")))
    assert without(forwards, "8080") == forwards[2:]
    assert without(forwards, "0.0.0.0:8080") == (forwards[0], forwards[2])
    assert without(forwards, "[::1]:8081") == forwards[:2]
    assert without(forwards, "8081:81") == forwards[:2]
    with pytest.raises(BadRequest, match="9 is not published") as caught:
        without(forwards, "9")
    assert "127.0.0.1:8080 -> 80" in caught.value.hint
    with pytest.raises(BadRequest, match="no port"):
        without(forwards, "web")


def test_rows_of_an_older_version_publish_nothing() -> None:
    spec = VMSpec(vcpu_count=1, memory_mib=512, system_overlay_bytes=1, work_disk_bytes=1, publish=(parse_forward("8080:80"),))
    assert from_json(to_json(spec), VMSpec) == spec
    old = '{"vcpu_count":1,"memory_mib":512,"system_overlay_bytes":1,"work_disk_bytes":1,"nat":false}'
    assert from_json(old, VMSpec).publish == ()
