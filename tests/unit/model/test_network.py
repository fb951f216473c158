"""Which bridges and subnets may be."""

from __future__ import annotations

import pytest

from banger.model.errors import BadRequest
from banger.model.network import network_plan


@pytest.mark.parametrize("bridge", ["banger0", "lab", "counter0", "a", "inet_"])
def test_names_of_bridges(bridge: str) -> None:
    assert network_plan(bridge).bridge == bridge


@pytest.mark.parametrize("bridge", ["", "Banger", "0banger", "banger-0", "abcdefghijk", "counter", "inet", "table", "ip6", "ct", "masquerade"])
def test_names_that_the_kernel_or_nft_would_misread(bridge: str) -> None:
    with pytest.raises(BadRequest, match="cannot name a bridge") as caught:
        network_plan(bridge)
    assert caught.value.hint


@pytest.mark.parametrize("subnet", ["10.0.0.0/16", "172.16.0.0/24", "172.31.255.0/29", "192.168.7.0/24", "100.64.0.0/24"])
def test_private_subnets(subnet: str) -> None:
    assert str(network_plan(subnet=subnet).subnet) == subnet


@pytest.mark.parametrize(
    "subnet",
    ["0.0.0.0/24", "0.1.0.0/16", "8.8.8.0/24", "127.0.0.0/24", "169.254.0.0/24", "172.32.0.0/24", "100.128.0.0/24", "192.0.2.0/24", "198.18.0.0/24",
     "224.0.0.0/24", "240.0.0.0/24", "255.255.255.0/24", "10.0.0.0/8", "10.0.0.0/30", "10.0.0.1/24", "fd00::/64", ""],
)  # fmt: skip
def test_others(subnet: str) -> None:
    with pytest.raises(BadRequest, match="subnet"):
        network_plan(subnet=subnet)
