"""Addresses, wherever they come from, are addresses: nothing else gets into units, command lines and configurations."""

from __future__ import annotations

from pathlib import Path

import pytest

from sepnas.deploy.services import DeviceService
from sepnas.errors import SpecError
from sepnas.search.trials.machines import Machines, parse_machine
from sepnas.spec.hosts import Hosts, parse_address

GOOD = [
    *("127.0.0.1:1", "board:17300", "Board-2.local:17300", "a.example.:80", "9board:80", "[::1]:1", "[2001:db8::5]:80"),
    *("[fe80::1%eth0]:80", "[fe80::1%2]:80", "[fe80::1%wlan0.100]:80", "[::ffff:192.0.2.1]:80"),
]
BAD = [
    *("[::1%x\nExecStartPre=touch pwned\n#]:17300", "a\nb:80", "a b:80", "a;b:80", "$(id):80", "`id`:80", "%n:80"),
    *(
        "-oProxyCommand=x:80",
        "board-:80",
        "a..b:80",
        "1.2.3:80",
        "0x7f.1:80",
        "256.1.1.1:80",
        "[127.0.0.1]:80",
        "::1:80",
    ),
    *(
        "[::1%]:80",
        "[::1%a/b]:80",
        "[::1%-x]:80",
        "[::1%%n]:80",
        "[::1%a b]:80",
        "[::1]80",
        "[]:80",
        ":80",
        "a:8\u0660",
    ),
    *(
        "::1:80",
        "a:8\u0660",
        "b\u00f6rd:80",
        "board\u2028:80",
        "a_b:80",
        f"{'a' * 64}:80",
        f"{'a.' * 130}a:80",
        "a\0:80",
        "'a':80",
        '"a":80',
    ),
]


@pytest.mark.parametrize("address", GOOD)
def test_an_address_is_an_address_or_a_name(address: str):
    """IP addresses, IPv6 ones with their interface, and names by RFC 1123 are taken as they are."""
    host, port = parse_address(address)
    assert address in (f"{host}:{port}", f"[{host}]:{port}")
    assert Hosts.on([address]).address(0) == address


@pytest.mark.parametrize("address", BAD)
def test_what_is_no_address_is_refused(address: str):
    """Line breaks, blanks, options, placeholders and all that is neither an address nor a name is a SpecError."""
    with pytest.raises(SpecError) as caught:
        parse_address(address)
    assert "\n" not in str(caught.value)
    with pytest.raises(SpecError, match=r"addresses: field `devices\.0\.address`"):
        Hosts.on([address])


def test_a_hosts_file_puts_nothing_into_a_unit(tmp_path: Path):
    """A line break in an address of a hosts file is refused with its place; of an interface `%` is written doubled."""
    path = tmp_path / "hosts.yaml"
    path.write_text(
        "format: sepnas.hosts\nversion: 1\ndevices:\n"
        '- {rank: 0, address: "[::1%x\\nExecStartPre=touch pwned\\n#]:17300"}\n'
    )
    with pytest.raises(SpecError, match=r"hosts\.yaml: field `devices\.0\.address`: expected an IP address or a host"):
        Hosts.load(path)
    unit = DeviceService("n", 0, 1, "[::1%eth0]:17300", "torch").unit()
    assert "--listen [::1%%eth0]:17300 " in unit


@pytest.mark.parametrize("text", ["me@[::1]:22", "me@board", "me@board:2222", "me.2@192.0.2.1"])
def test_a_machine_is_a_user_and_a_host(text: str):
    """What SSH takes, an IPv6 address in brackets."""
    machine = parse_machine(text)
    assert f"{machine.user}@{machine.host}" in text.replace("[", "").replace("]", "")


@pytest.mark.parametrize(
    "wrong",
    [
        {"host": "-oProxyCommand=touch x"},
        {"host": "a\nb"},
        {"user": "-l"},
        {"user": "a b"},
        {"user": "a\n"},
        {"python": "python'; touch x; '"},
        {"python": "python\n"},
        {"ssh_key": "a\nb"},
        {"known_hosts": ""},
    ],
)
def test_a_machine_brings_no_option_and_no_command(wrong: dict[str, str]):
    """Names that SSH or a shell would read otherwise are refused with their field."""
    with pytest.raises(SpecError, match=rf"machines\.0\.{next(iter(wrong))}"):
        Machines.from_data({"machines": [{"host": "board", "user": "me", **wrong}]}, "m.yaml")


@pytest.mark.parametrize("text", ["me@a:\u0662", "me@a:999999", "me@", "@a", "me@a:b", "me@a\nb:1", "me"])
def test_a_machine_that_is_none_is_refused(text: str):
    """What is neither USER@HOST nor a file is an error of ours."""
    with pytest.raises(SpecError):
        parse_machine(text)
