"""Stores of users' memories: one record of fixed size for each user, in LMDB, Parquet snapshots or Redis.

store = create_store("lmdb:memories", StoreFacts(space_id=..., memory=schema, num_buckets=64))
with store.writer() as writer:
    writer.write(bucket, make_memories(schema, users, ...), journal)
memories, has_memory = open_store("memories").get(users)
"""

from feature_store.stores.addresses import create_store, open_store, public_address
from feature_store.stores.copying import copy
from feature_store.stores.memory_schema import MemorySchema, PartType
from feature_store.stores.record import Memories, check, make_memories, seal
from feature_store.stores.shared import shared_store
from feature_store.stores.store import (
    Build,
    Journal,
    MemoryStore,
    NoMemoriesError,
    SourceFile,
    StoreFacts,
    StoreWriter,
    UnderWay,
)
from feature_store.stores.users import bucket_of

__all__ = [
    "Build",
    "Journal",
    "Memories",
    "MemorySchema",
    "MemoryStore",
    "NoMemoriesError",
    "PartType",
    "SourceFile",
    "StoreFacts",
    "StoreWriter",
    "UnderWay",
    "bucket_of",
    "check",
    "copy",
    "create_store",
    "make_memories",
    "open_store",
    "public_address",
    "seal",
    "shared_store",
]
