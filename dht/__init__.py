"""Who is out there: signed capacity records, the index of them, and the directory that spreads and gathers them."""

from dht.announcing import offers_moved
from dht.directory import Directory
from dht.index import CapacityIndex, Heard, Provider, Source, Verdict
from dht.providers import FoundProvider, ProviderIndex
from dht.records import CapacityRecord, Offer, RecordError, SignedRecord, check_size, parse_record, sign_record

__all__ = [
    "CapacityIndex",
    "CapacityRecord",
    "Directory",
    "FoundProvider",
    "Heard",
    "Offer",
    "Provider",
    "ProviderIndex",
    "RecordError",
    "SignedRecord",
    "Source",
    "Verdict",
    "check_size",
    "offers_moved",
    "parse_record",
    "sign_record",
]
