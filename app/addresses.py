"""What a tenant's URL may look like, and which addresses are on the public internet. Nothing is looked up here."""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MOST_CHARACTERS = 2048
DEFAULT_PORTS = {"https": 443, "http": 80}

# Nothing is decoded, completed or guessed: a spelling that two programs could read differently is no URL here.
_URL = re.compile(
    r"(?P<scheme>[a-z]+)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?(?P<query>\?[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*)?",
    re.IGNORECASE,
)
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")

# Beside what `ipaddress` knows: this list holds what it calls global but is not a host on the internet.
_NOT_PUBLIC = [
    ipaddress.ip_network(text)
    for text in (
        "168.63.129.16/32",  # Azure's platform address: metadata at a public number
        "192.0.0.0/24",  # protocols, and the metadata of one cloud
        "192.88.99.0/24",  # 6to4 relays
        "2001::/23",  # Teredo, ORCHID and other protocols
        "2002::/16",  # 6to4, which holds an IPv4 address
        "3fff::/20",  # documentation
    )
]
_GLOBAL_UNICAST = ipaddress.ip_network(
    "2000::/3"
)  # outside lie NAT64, IPv4-mapped, unique local, link-local, multicast


class InvalidUrl(ValueError):
    """The text is not a URL that requests are sent to; the message says why."""


@dataclass(frozen=True)
class Url:
    """A URL taken apart. host: lower case, an IPv6 address without its brackets; target: path and query."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def address(self) -> Address | None:
        """The address, where the host is one and not a name."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None


def parse(text: str) -> Url:
    """Take a URL apart. Raises InvalidUrl for userinfo, fragments, and any spelling that is not canonical."""
    if len(text) > MOST_CHARACTERS:
        raise InvalidUrl(f"it is longer than {MOST_CHARACTERS} characters")
    match = _URL.fullmatch(text)
    if match is None:
        raise InvalidUrl("it must have the form https://host[:port][/path][?query], in ASCII characters")
    scheme = match["scheme"].lower()
    if scheme not in DEFAULT_PORTS:
        raise InvalidUrl("its scheme must be https")
    port = int(match["port"] or DEFAULT_PORTS[scheme])
    if not 0 < port < 65536:
        raise InvalidUrl("its port must be from 1 to 65535")
    return Url(scheme, _host(match["host"].lower()), port, (match["path"] or "/") + (match["query"] or ""))


def is_public(address: Address) -> bool:
    """Whether an address is a host on the internet, and not one of this machine, its network or its cloud."""
    if address.version == 6 and address not in _GLOBAL_UNICAST:
        return False
    if address.is_multicast or address.is_reserved or not address.is_global:
        return False
    return not within(address, _NOT_PUBLIC)


def within(address: Address, networks: list[Network] | tuple[Network, ...]) -> bool:
    """Whether one of the networks holds the address."""
    return any(address.version == network.version and address in network for network in networks)


def _host(text: str) -> str:
    if text.startswith("["):
        return _literal(text[1:-1], ipaddress.IPv6Address)
    labels = text.split(".")
    if _NUMBER.fullmatch(labels[-1]):  # then every resolver takes it for an IPv4 address, in one of many spellings
        return _literal(text, ipaddress.IPv4Address)
    if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise InvalidUrl("its host is not a valid name")
    return text


def _literal(text: str, kind: Callable[[str], Address]) -> str:
    try:
        return str(kind(text))
    except ValueError:
        raise InvalidUrl("its host is not an address in the usual spelling") from None
