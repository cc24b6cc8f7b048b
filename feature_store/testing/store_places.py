"""What a store of memories promises of its place: made once, opened by anyone, given its name when it is whole."""

from feature_store.stores.store import MemoryStore, NoMemoriesError
from feature_store.testing.contract import NewPlace, expect, expect_equal, expect_records, refused
from feature_store.testing.sample_memories import FACTS, by_user, fill, journal_at


def a_store_is_made_once(kind: type[MemoryStore], new_place: NewPlace) -> None:
    """Where a store is, `create` and `refuse_taken` raise a DataError and the store is as it was."""
    place = new_place()
    kind.refuse_taken(place)
    with kind.create(place, FACTS) as store:
        written = fill(store)
    with refused("a second create()"):
        kind.create(place, FACTS).close()
    with refused("refuse_taken() where a store is"):
        kind.refuse_taken(place)
    with kind(place) as store:
        expect_records("scan() after a second create()", by_user(store.scan()), written)


def where_nothing_is_nothing_is_opened(kind: type[MemoryStore], new_place: NewPlace) -> None:
    """To open what is not there is a NoMemoriesError, and makes nothing."""
    place = new_place()
    with refused("opening a place where nothing is", error_type=NoMemoriesError):
        kind(place).close()
    kind.refuse_taken(place)


def a_store_says_where_it_lies(kind: type[MemoryStore], new_place: NewPlace) -> None:
    """A store has an address, the same whenever it is opened, and shows itself by it."""
    place = new_place()
    with kind.create(place, FACTS) as store:
        address = store.address
        expect(bool(address), "the address is empty")
        expect_equal("repr()", repr(store), f"{type(store).__name__}({address!r})")
    with kind(place) as store:
        expect_equal("address of a store opened again", store.address, address)


def a_draft_gets_its_name_when_it_is_whole(kind: type[MemoryStore], new_place: NewPlace) -> None:
    """What is written at `draft_of(place)` is at `place` after `settle`, and there alone; a taken place is refused."""
    place = new_place()
    draft = kind.draft_of(place)
    expect(draft != place, "draft_of(place) is the place itself")
    kind.discard(draft)
    with kind.create(draft, FACTS) as store:
        written = fill(store)
    with refused("opening a place whose draft is not settled", error_type=NoMemoriesError):
        kind(place).close()
    kind.settle(draft, place)
    with kind(place) as store:
        expect_records("scan() of a settled store", by_user(store.scan()), written)
        expect_equal("journal() of a settled store", store.journal(), journal_at(1, 0))
    with refused("opening a draft that was settled", error_type=NoMemoriesError):
        kind(draft).close()
    kind.create(draft, FACTS).close()
    with refused("settle() where a store is"):
        kind.settle(draft, place)
    with kind(place) as store:
        expect_records("scan() after a refused settle()", by_user(store.scan()), written)


def a_discarded_store_is_gone(kind: type[MemoryStore], new_place: NewPlace) -> None:
    """`discard` removes a store, or nothing where nothing is; one that is being written is kept with a DataError."""
    place = new_place()
    kind.discard(place)
    with kind.create(place, FACTS) as store:
        written = fill(store)
        with store.writer(), refused("discard() of a store that is being written"):
            kind.discard(place)
        expect_records("scan() after a refused discard()", by_user(store.scan()), written)
    kind.discard(place)
    with refused("opening a store that was discarded", error_type=NoMemoriesError):
        kind(place).close()
    with kind.create(place, FACTS) as store:
        expect_equal("count() of a store made where another was discarded", store.count(), 0)


def a_store_tells_that_it_was_replaced(kind: type[MemoryStore], new_place: NewPlace) -> None:
    """`replaced` is false while builds go on, and true once the store was discarded or another made in its place."""
    place = new_place()
    with kind.create(place, FACTS) as store:
        fill(store)
        expect(not store.replaced(), "replaced() is true of a store that was only written to")
        kind.discard(place)
        expect(store.replaced(), "replaced() is false of a store that was discarded")
    kind.discard(place)
    with kind.create(place, FACTS.model_copy(update={"space_id": "space-2"})) as store:
        expect(not store.replaced(), "replaced() is true of a store that was made where another was discarded")
