"""Elasticsearch: the mirror of our products that customers search.

A thin, typed layer over the official client. What it adds: the client's own retries stay off (whoever calls decides),
every failure is one of our errors, a bulk request is judged line by line, and the few questions that checking an
index against the database needs have a method each. Documents arrive as ready newline-delimited JSON and are passed
on as they are.

Documents carry two numeric fields for the checks: ``id``, and ``h``, a 32-bit checksum of the rest.

The client is imported when it is first needed: it takes a fifth of the start of a process, and most never ask.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from integrations._bulk import BulkOutcome, read_outcome
from integrations._errors import IntegrationError, NotFound, Rejected, Unauthorized, Unavailable
from integrations._integration import Integration
from integrations._settings import IntegrationSettings, PlainAddress

if TYPE_CHECKING:
    import elasticsearch

__all__ = ["Bucket", "BulkOutcome", "Elasticsearch", "ElasticsearchSettings"]

REQUEST_TIMEOUT = 30.0
"""Seconds for one request. Leases on work that is being indexed must be longer."""

_CHUNK = 10_000
"""Hits one search may return; the engine allows no more."""

_BULK_FIELDS = "errors,items.*.status,items.*.error.type,items.*.error.reason,items.*.error.caused_by.reason"
"""Nothing but the status of a line that went well: positions stay, and the answer is a seventh of its full size."""


class ElasticsearchSettings(IntegrationSettings):
    """Where the search engine answers."""

    url: PlainAddress = Field(
        description="Address of Elasticsearch; a user and password may be part of it.", repr=False
    )


@dataclass(frozen=True, slots=True)
class Bucket:
    """A range of ids in an index: how many documents, and the sum of their checksums."""

    count: int
    checksum: int


class Elasticsearch(Integration):
    """Client of one Elasticsearch cluster. Every method may raise ``Unavailable`` or ``Rejected``."""

    name: ClassVar[str] = "elasticsearch"
    Settings: ClassVar[type[IntegrationSettings]] = ElasticsearchSettings
    rate: ClassVar[None] = None

    def __init__(self, settings: ElasticsearchSettings) -> None:
        import elasticsearch  # noqa: PLC0415
        from elastic_transport.client_utils import url_to_node_config  # noqa: PLC0415

        super().__init__(settings)
        self._client = elasticsearch.Elasticsearch(
            # The vendor insists on a port in a plain string; an address without one means that of its scheme.
            [url_to_node_config(settings.url, use_default_ports_for_scheme=True)],
            request_timeout=REQUEST_TIMEOUT,
            max_retries=0,
            retry_on_status=(),
            retry_on_timeout=False,
        )

    def close(self) -> None:
        self._client.close()

    def probe(self) -> None:
        with _asking("its version"):
            self._client.info()

    def create_index(
        self,
        name: str,
        mapping: Mapping[str, Any],
        settings: Mapping[str, Any] | None = None,
        aliases: Sequence[str] = (),
    ) -> None:
        """Create an index with its aliases.

        Raises:
            Rejected: It exists already (``code`` is ``resource_already_exists_exception``), or makes no sense.
        """
        with _asking(f"to create the index {name}"):
            self._client.indices.create(
                index=name, mappings=mapping, settings=settings, aliases={alias: {} for alias in aliases}
            )

    def delete_index(self, name: str) -> bool:
        """Delete an index. Returns False if there was none."""
        with contextlib.suppress(NotFound), _asking(f"to delete the index {name}"):
            self._client.indices.delete(index=name)
            return True
        return False

    def index_exists(self, name: str) -> bool:
        """Tell whether there is an index or an alias of this name."""
        with _asking(f"whether {name} exists"):
            return bool(self._client.indices.exists(index=name))

    def indices(self, pattern: str) -> dict[str, dict[str, Any]]:
        """Find indices by a name with ``*`` in it, each with the ``_meta`` of its mapping."""
        with _asking(f"for the indices {pattern}"):
            found = self._client.indices.get_mapping(index=pattern, allow_no_indices=True, ignore_unavailable=True).body
        return {name: dict(index["mappings"].get("_meta", {})) for name, index in sorted(found.items())}

    def alias_targets(self, alias: str) -> list[str]:
        """Return the indices behind an alias; none if there is no such alias."""
        with contextlib.suppress(NotFound), _asking(f"what is behind the alias {alias}"):
            return sorted(self._client.indices.get_alias(name=alias).body)
        return []

    def swap_alias(
        self, alias: str, *, add: Sequence[str], remove: Sequence[str] = (), remove_index: str | None = None
    ) -> None:
        """Point an alias elsewhere in one step: no search in between sees none or both.

        Args:
            alias: The alias.
            add: Indices it points to afterwards.
            remove: Indices it no longer points to.
            remove_index: A real index to delete in the same step, because it squats on the alias's name.
        """
        actions: list[dict[str, dict[str, str]]] = [{"remove": {"index": index, "alias": alias}} for index in remove]
        actions += [{"remove_index": {"index": index}} for index in [remove_index] if index is not None]
        actions += [{"add": {"index": index, "alias": alias}} for index in add]
        with _asking(f"to point the alias {alias} elsewhere"):
            self._client.indices.update_aliases(actions=actions)

    def put_settings(self, index: str, settings: Mapping[str, Any]) -> None:
        """Change settings of an open index, for example ``{"refresh_interval": "1s"}``."""
        with _asking(f"to change settings of {index}"):
            self._client.indices.put_settings(index=index, settings=settings)

    def refresh(self, index: str) -> None:
        """Make everything written so far visible to searches."""
        with _asking(f"to refresh {index}"):
            self._client.indices.refresh(index=index)

    def bulk(self, ndjson: bytes, *, require_alias: bool = False) -> BulkOutcome:
        """Send actions and documents, ready as newline-delimited JSON with a final newline.

        Args:
            ndjson: At most a few megabytes; 1 to 5 is the flat part of the curve.
            require_alias: Refuse to write to (and so to create) anything that is not an alias. Deletes are not covered.

        Raises:
            Rejected: The request as a whole was refused. ``status`` 413: halve it. 400: bisect it.
            Unavailable: Nothing is known about any line; sending all of it again is right with external versions.
        """
        with _asking("to index a batch"):
            response = self._client.bulk(
                operations=[ndjson],  # type: ignore[list-item]  # ready bytes pass through as they are
                filter_path=_BULK_FIELDS,
                require_alias=require_alias or None,
            )
            return read_outcome(response.body)

    def count(self, index: str) -> int:
        """Count the documents that searches see."""
        with _asking(f"to count {index}"):
            return int(self._client.count(index=index)["count"])

    def search(self, index: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Run a search and return the engine's answer as it is."""
        with _asking(f"to search {index}"):
            found: dict[str, Any] = self._client.search(index=index, body=dict(body)).body
            return found

    def documents(self, index: str, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
        """Fetch documents by id; those that are not there are left out."""
        if not ids:
            return {}
        with _asking(f"for documents of {index}"):
            docs = self._client.mget(index=index, ids=[str(number) for number in ids])["docs"]
        return {int(doc["_id"]): doc["_source"] for doc in docs if doc.get("found")}

    def checksum_buckets(self, index: str, interval: int) -> dict[int, Bucket]:
        """Sum up the index by ranges of ``interval`` ids, keyed by the lowest id of each range that is not empty."""
        ranges = {"histogram": {"field": "id", "interval": interval, "min_doc_count": 1}}
        body = {"size": 0, "aggs": {"ranges": {**ranges, "aggs": {"h": {"sum": {"field": "h"}}}}}}
        found = self.search(index, body)["aggregations"]["ranges"]["buckets"]
        # The engine sums as a double, exact below 2**53: two million checksums of 32 bits.
        return {int(bucket["key"]): Bucket(bucket["doc_count"], int(bucket["h"]["value"])) for bucket in found}

    def ids_and_checksums(self, index: str, lo: int, hi: int) -> dict[int, int]:
        """Return the checksum of every document with ``lo <= id < hi``, by id."""
        found: dict[int, int] = {}
        body = {"size": _CHUNK, "sort": [{"id": "asc"}], "_source": ["id", "h"], "track_total_hits": False}
        while True:
            query = {"range": {"id": {"gte": lo, "lt": hi}}}
            hits = self.search(index, {**body, "query": query})["hits"]["hits"]
            found.update((hit["_source"]["id"], hit["_source"]["h"]) for hit in hits)
            if len(hits) < _CHUNK:
                return found
            lo = max(found) + 1


@contextlib.contextmanager
def _asking(what: str) -> Iterator[None]:
    """Turn whatever the official client raises into one of our errors."""
    import elasticsearch  # noqa: PLC0415

    try:
        yield
    except elasticsearch.ApiError as error:
        raise _from_answer(what, error) from None
    except elasticsearch.TransportError as error:
        raise Unavailable(
            f"elasticsearch gave no answer when asked {what} ({type(error).__name__}): it is asked again later;"
            " if this persists, look at the cluster and at the network to it.",
            upstream="elasticsearch",
        ) from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Unavailable(
            f"elasticsearch gave an answer that makes no sense when asked {what} ({type(error).__name__}):"
            " it is asked again later; check what answers at the configured address.",
            upstream="elasticsearch",
        ) from error


def _from_answer(what: str, error: elasticsearch.ApiError) -> IntegrationError:
    status, code = error.meta.status, error.message
    said = f"elasticsearch answered {status} ({code}) when asked {what}"
    if status in {408, 429} or status >= 500 or code == "cluster_block_exception":  # noqa: PLR2004 - HTTP's own numbers
        return Unavailable(
            f"{said}: it is asked again later; look at the cluster's health, load and disks.", upstream="elasticsearch"
        )
    kind: type[Rejected] = Rejected
    advice = f"{_root_cause(error.body)}: asking again gets the same; check what was asked"
    if status in {401, 403}:
        kind, advice = Unauthorized, ": check that our user is current and may do this"
    elif status == 404:  # noqa: PLR2004 - HTTP's own numbers
        kind, advice = NotFound, ": it is not there (any more); look at which indices and aliases there are"
    return kind(f"{said}{advice}.", upstream="elasticsearch", status=status, code=code)


def _root_cause(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    reason = error.get("reason") if isinstance(error, dict) else None
    return f", because {' '.join(str(reason).split())[:200]}" if reason else ""
