"""Checks of what a store of memories promises about creating, opening, publishing and removing it."""

from feature_store.errors import LockedError
from feature_store.stores.store import MemoryStore, NoMemoriesError
from feature_store.testing.contract import NewLocation, expect, expect_equal, expect_error, expect_records
from feature_store.testing.sample_memories import FACTS, by_user, fill, journal_at


def a_store_is_created_once(kind: type[MemoryStore], new_location: NewLocation) -> None:
    """Where a store exists, `create` and `check_free` raise DataError and leave it unchanged."""
    location = new_location()
    kind.check_free(location)
    with kind.create(location, FACTS) as store:
        written = fill(store)
    with expect_error("a second create()"):
        kind.create(location, FACTS).close()
    with expect_error("check_free() where a store exists"):
        kind.check_free(location)
    with kind(location) as store:
        expect_records("read_all() after a second create()", by_user(store.read_all()), written)


def a_missing_store_cannot_be_opened(kind: type[MemoryStore], new_location: NewLocation) -> None:
    """Opening a location without a store raises NoMemoriesError and creates nothing."""
    location = new_location()
    with expect_error("opening a location without a store", error_type=NoMemoriesError):
        kind(location).close()
    kind.check_free(location)


def a_store_has_an_address(kind: type[MemoryStore], new_location: NewLocation) -> None:
    """A store has an address, the same each time it is opened, which its `repr` shows."""
    location = new_location()
    with kind.create(location, FACTS) as store:
        address = store.address
        expect(bool(address), "the address is empty")
        expect_equal("repr()", repr(store), f"{type(store).__name__}({address!r})")
    with kind(location) as store:
        expect_equal("address of a store opened again", store.address, address)


def a_draft_is_published_when_complete(kind: type[MemoryStore], new_location: NewLocation) -> None:
    """`publish` moves a store from `draft_location(location)` to `location`, unless there is a store already."""
    location = new_location()
    draft = kind.draft_location(location)
    expect(draft != location, "draft_location(location) equals the location")
    kind.remove(draft)
    with kind.create(draft, FACTS) as store:
        written = fill(store)
    with expect_error("opening a location whose draft is not published", error_type=NoMemoriesError):
        kind(location).close()
    kind.publish(draft, location)
    with kind(location) as store:
        expect_records("read_all() of a published store", by_user(store.read_all()), written)
        expect_equal("journal() of a published store", store.journal(), journal_at(1, 0))
    with expect_error("opening a draft that was published", error_type=NoMemoriesError):
        kind(draft).close()
    kind.create(draft, FACTS).close()
    with expect_error("publish() where a store exists"):
        kind.publish(draft, location)
    with kind(location) as store:
        expect_records("read_all() after a refused publish()", by_user(store.read_all()), written)


def a_removed_store_is_gone(kind: type[MemoryStore], new_location: NewLocation) -> None:
    """`remove` removes a store if there is one; for a store that is being written it raises LockedError."""
    location = new_location()
    kind.remove(location)
    with kind.create(location, FACTS) as store:
        written = fill(store)
        with store.writer(), expect_error("remove() of a store that is being written", error_type=LockedError):
            kind.remove(location)
        expect_records("read_all() after a refused remove()", by_user(store.read_all()), written)
    kind.remove(location)
    with expect_error("opening a store that was removed", error_type=NoMemoriesError):
        kind(location).close()
    with kind.create(location, FACTS) as store:
        expect_equal("count() of a store created where another was removed", store.count(), 0)


def a_replaced_store_is_detected(kind: type[MemoryStore], new_location: NewLocation) -> None:
    """`replaced` is false while builds are written, and true after the store is removed or replaced by another."""
    location = new_location()
    with kind.create(location, FACTS) as store:
        fill(store)
        expect(not store.replaced(), "replaced() is true for a store that was only written to")
        kind.remove(location)
        expect(store.replaced(), "replaced() is false for a store that was removed")
    kind.remove(location)
    with kind.create(location, FACTS.model_copy(update={"space_id": "space-2"})) as store:
        expect(not store.replaced(), "replaced() is true for a store created where another was removed")
