"""How often somebody may try a password.

Wrong ones are counted by name and address, and by address: ten of one person and fifty in all from one place within a
quarter of an hour. The count is of the place that asks and never of the person alone, so nobody can lock the owner out
of an account: from elsewhere they come in as ever. A try is counted before the password is looked at, and taken back if
it is right; however many come at once, no more than that are looked at.
"""

from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network

from sqlalchemy import Connection, text

from workers import tickets

#: Seconds that a count lasts, and tries that it allows: for one name from one address, and for all from it.
WINDOW = 900
MOST_OF_NAME, MOST_OF_ADDRESS = 10, 50
#: Of IPv6, everybody has at least so many bits to themselves.
_NETWORK = 64

COUNT = text("""
    INSERT INTO wrong_passwords AS w (name, address) VALUES (:name, :address)
    ON CONFLICT (name, address) DO UPDATE SET
        count = CASE WHEN w.since > now() - make_interval(secs => :window) THEN least(w.count, 1000000) ELSE 0 END + 1,
        since = CASE WHEN w.since > now() - make_interval(secs => :window) THEN w.since ELSE now() END
    RETURNING count AS tries, extract(epoch FROM since - now())::float8 + :window AS rest
""")
UNCOUNT = text("""
    WITH own AS (DELETE FROM wrong_passwords WHERE name = :name AND address = :address)
    UPDATE wrong_passwords SET count = count - 1 WHERE name = '' AND address = :address AND count > 0
""")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a password may be tried."""

    #: Seconds to wait; 0 when it may.
    wait: float = 0.0
    #: This is the try that was one too many; those after it are not worth a line.
    first: bool = False


def count(connection: Connection, name: str, address: str) -> Verdict:
    """Count a try before it is made, and say whether it may be."""
    all_of_it = _counted(connection, b"", address, MOST_OF_ADDRESS)
    if all_of_it.wait:
        return all_of_it
    return _counted(connection, tickets.digest(name.lower()), address, MOST_OF_NAME)


def uncount(connection: Connection, name: str, address: str) -> None:
    """Take a try back: the password was right, and what was wrong before it was a slip."""
    connection.execute(UNCOUNT, {"name": tickets.digest(name.lower()), "address": address})


def place(host: str) -> str:
    """Return what counts as one place: an IPv4 address, or a network of IPv6."""
    try:
        address = ip_address(host)
    except ValueError:
        return host[:100]
    if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
        return str(ip_network((address, _NETWORK), strict=False))
    return str(address.ipv4_mapped if isinstance(address, IPv6Address) else address)


def _counted(connection: Connection, name: bytes, address: str, most: int) -> Verdict:
    row = connection.execute(COUNT, {"name": name, "address": address, "window": WINDOW}).one()
    return Verdict(max(row.rest, 1.0), first=row.tries == most + 1) if row.tries > most else Verdict()
