"""Nobody talks us into calling our own network, however the address is written or what it turns into."""

from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpcore
import pytest
from httpx import HTTPTransport
from pydantic import SecretStr, TypeAdapter, ValidationError

from integrations import Rejected, Unavailable
from integrations._guard import AddressGuard, ForbiddenAddressError, is_public
from integrations._http import HttpUpstream
from integrations._settings import OutsideAddress
from tests.integrations.mail import CERTIFICATES
from tests.integrations.scripted import Scripted, scripted_server

PUBLIC = ["8.8.8.8", "93.184.216.34", "2606:4700:4700::1111", "2001:4860:4860::8888"]
OURS = [
    "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.1.2.3", "224.0.0.1",
    "239.1.1.1", "240.0.0.1", "255.255.255.255", "192.0.0.8", "192.0.2.1", "198.18.0.1", "192.88.99.1",
    "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1", "64:ff9b:1::7f00:1",
    "2002:7f00:1::", "2001::1", "2001:db8::1", "3fff::1", "fc00::1", "fd12::1", "fe80::1", "fe80::1%lo", "fec0::1",
    "ff02::1", "100::1",
]  # fmt: skip
SPELLINGS = ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "017700000001", "0", "localhost", "[::1]", "[::ffff:7f00:1]"]


class Opened(httpcore.NetworkBackend):
    """Opens nothing and remembers where a connection would have gone; some addresses do not answer."""

    def __init__(self, *silent: str) -> None:
        self.hosts: list[str] = []
        self._silent = silent

    def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> httpcore.NetworkStream:
        del port
        self.hosts.append(host)
        if host in self._silent:
            raise httpcore.ConnectError("nobody there")
        return httpcore.NetworkStream()


class Names:
    """A name server that answers differently each time; the last answer stays."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = list(answers)
        self.asked = 0

    def __call__(self, host: str, port: int) -> Sequence[str]:
        del host, port
        self.asked += 1
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


def connect(guard: AddressGuard, hosts: Iterable[str] = ("shop.example",)) -> None:
    for host in hosts:
        guard.connect_tcp(host, 443)


@pytest.mark.parametrize("address", PUBLIC)
def test_the_public_internet_may_be_called(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", OURS)
def test_everything_else_may_not(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("host", SPELLINGS)
def test_a_strangers_address_reaches_no_server_of_ours_however_it_is_written(server: Scripted, host: str) -> None:
    client = HttpUpstream("partner", f"http://{host}:{urlsplit(server.url).port}", None, breaker=None, outside=True)
    with pytest.raises(Rejected, match="leads to an address that is not public") as caught:
        client.send("POST", f"http://{host}:{urlsplit(server.url).port}/hook", content=b"{}")
    client.close()
    assert (caught.value.code, server.seen) == ("forbidden_address", [])


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "localhost"])
def test_what_the_operator_configured_may_be_inside_our_network(server: Scripted, host: str) -> None:
    client = HttpUpstream("partner", f"http://{host}:{urlsplit(server.url).port}", None, breaker=None)
    assert client.get("/").status == 200
    client.close()


def trusting(url: str) -> HttpUpstream:
    """Return a client that believes the test server's own certificate."""
    client = HttpUpstream("partner", url, None, breaker=None, deadline=2.0)
    transport = client._client._transport
    assert isinstance(transport, HTTPTransport)
    assert transport._pool._ssl_context is not None
    transport._pool._ssl_context.load_verify_locations(CERTIFICATES / "localhost.pem")
    return client


def test_the_certificate_is_checked_and_must_be_that_of_the_name() -> None:
    with scripted_server(CERTIFICATES) as server:
        assert trusting(server.url).get("/").status == 200
        with pytest.raises(Unavailable, match=r"CERTIFICATE_VERIFY_FAILED.*mismatch"):
            trusting(server.url.replace("localhost", "127.1")).get("/")
        with pytest.raises(Unavailable, match=r"CERTIFICATE_VERIFY_FAILED.*self-signed"):
            HttpUpstream("partner", server.url, None, breaker=None, deadline=2.0).get("/")
        assert len(server.seen) == 1


def test_the_trust_is_for_one_host_and_port() -> None:
    opened = Opened()
    guard = AddressGuard(("10.0.0.1", 443), inner=opened)
    connect(guard, ["10.0.0.1"])
    for host, port in (("10.0.0.1", 6379), ("10.0.0.2", 443)):
        with pytest.raises(ForbiddenAddressError):
            guard.connect_tcp(host, port)
    assert opened.hosts == ["10.0.0.1"]


def test_a_name_with_one_private_address_among_public_ones_is_refused() -> None:
    opened = Opened()
    with pytest.raises(ForbiddenAddressError):
        connect(AddressGuard(None, resolve=Names(["8.8.8.8", "10.0.0.1"]), inner=opened))
    assert opened.hosts == []


def test_a_name_that_changes_after_the_check_leads_to_what_was_checked() -> None:
    names, opened = Names(["8.8.8.8"], ["127.0.0.1"]), Opened()
    guard = AddressGuard(None, resolve=names, inner=opened)
    connect(guard)
    assert (opened.hosts, names.asked) == (["8.8.8.8"], 1)
    with pytest.raises(ForbiddenAddressError):
        connect(guard)
    assert opened.hosts == ["8.8.8.8"]


def test_the_next_checked_address_is_tried_when_one_does_not_answer() -> None:
    opened = Opened("8.8.8.8")
    connect(AddressGuard(None, resolve=Names(["8.8.8.8", "93.184.216.34"]), inner=opened))
    assert opened.hosts == ["8.8.8.8", "93.184.216.34"]
    with pytest.raises(httpcore.ConnectError):
        connect(AddressGuard(None, resolve=Names(["8.8.8.8"]), inner=opened))


def test_no_call_leaves_the_configured_server_and_no_credential_with_it(server: Scripted) -> None:
    client = HttpUpstream("partner", "https://shop.example", SecretStr("hunter2hunter2"), breaker=None)
    port = urlsplit(server.url).port
    for link in (server.url, f"https://shop.example@127.0.0.1:{port}/", "https://u:p@shop.example/", "//127.0.0.1/"):
        with pytest.raises(Rejected) as caught:
            client.send("GET", link)
        assert caught.value.code == "foreign_link"
    client.close()
    assert server.seen == []


@pytest.mark.parametrize(
    "address",
    [
        "http://shop.example",
        "http://localhost",
        "https://shop.example:6379",
        "https://u:p@shop.example",
        "ftp://a",
        "x",
    ],
)
def test_a_strangers_address_is_https_on_a_usual_port_and_carries_no_credential(address: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(OutsideAddress).validate_python(address)
    assert TypeAdapter(OutsideAddress).validate_python("https://shop.example/hook/") == "https://shop.example/hook"
