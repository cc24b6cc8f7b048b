"""The contract of all stores of memories, promise by promise."""

from feature_store.stores.store import MemoryStore
from feature_store.testing.contract import ContractError, NewLocation, StoreCheck
from feature_store.testing.store_deleting import (
    a_deleted_user_stays_deleted,
    a_user_is_deleted_from_a_build_under_way,
    tombstones_of_another_store_are_kept,
)
from feature_store.testing.store_locations import (
    a_draft_is_published_when_complete,
    a_missing_store_cannot_be_opened,
    a_removed_store_is_gone,
    a_replaced_store_is_detected,
    a_store_has_an_address,
    a_store_is_created_once,
)
from feature_store.testing.store_reading import (
    a_build_is_read_back_in_the_requested_order,
    any_schema_is_stored,
    any_text_is_an_id,
    ids_of_another_type_are_refused,
    many_users_of_one_bucket_are_stored,
    read_all_goes_bucket_by_bucket,
    unknown_users_have_no_record,
)
from feature_store.testing.store_writing import (
    a_bucket_may_be_written_more_than_once_in_a_build,
    a_build_continues_after_the_store_was_closed,
    a_build_under_way_is_read_whole_or_not_at_all,
    a_closed_writer_is_refused,
    a_second_build_replaces_and_adds,
    a_second_writer_is_refused_at_once,
    invalid_writes_change_nothing,
)

STORE_CHECKS: tuple[StoreCheck, ...] = tuple(
    StoreCheck(promise)
    for promise in (
        a_store_is_created_once,
        a_missing_store_cannot_be_opened,
        a_store_has_an_address,
        a_build_is_read_back_in_the_requested_order,
        read_all_goes_bucket_by_bucket,
        unknown_users_have_no_record,
        ids_of_another_type_are_refused,
        any_text_is_an_id,
        any_schema_is_stored,
        many_users_of_one_bucket_are_stored,
        a_second_build_replaces_and_adds,
        a_bucket_may_be_written_more_than_once_in_a_build,
        a_build_under_way_is_read_whole_or_not_at_all,
        a_build_continues_after_the_store_was_closed,
        invalid_writes_change_nothing,
        a_closed_writer_is_refused,
        a_second_writer_is_refused_at_once,
        a_deleted_user_stays_deleted,
        a_user_is_deleted_from_a_build_under_way,
        tombstones_of_another_store_are_kept,
        a_draft_is_published_when_complete,
        a_removed_store_is_gone,
        a_replaced_store_is_detected,
    )
)
"""One check for each promise: `check(MyStore, new_location)`, with a `name` and the `promise` as text."""


def check_store(kind: type[MemoryStore], new_location: NewLocation) -> None:
    """Check that a class of stores keeps every promise of the contract.

        check_store(MyStore, new_location=lambda: str(tmp_path / uuid.uuid4().hex))

    Each call of `new_location` returns another location where nothing exists yet, as `MyStore.create` takes it. The
    caller removes what is left there. For a test case of each promise, parametrise over `STORE_CHECKS`.

    Raises:
        ContractError: promises are broken; the message has one line for each, with what was seen.
    """
    broken = []
    for check in STORE_CHECKS:
        try:
            check(kind, new_location)
        except ContractError as error:
            broken.append(error)
    if broken:
        first = f"{kind.__name__} breaks {len(broken)} of {len(STORE_CHECKS)} promises of a store of memories:"
        raise ContractError("\n".join([first, *map(str, broken)])) from broken[0]
