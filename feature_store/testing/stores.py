"""The contract of all stores of memories, promise by promise."""

from feature_store.stores.store import MemoryStore
from feature_store.testing.contract import ContractError, NewPlace, StoreCheck
from feature_store.testing.store_deleting import (
    a_deleted_user_is_gone_and_stays_so,
    a_user_is_deleted_from_a_build_under_way,
    tombstones_of_another_store_are_kept,
)
from feature_store.testing.store_places import (
    a_discarded_store_is_gone,
    a_draft_gets_its_name_when_it_is_whole,
    a_store_is_made_once,
    a_store_says_where_it_lies,
    a_store_tells_that_it_was_replaced,
    where_nothing_is_nothing_is_opened,
)
from feature_store.testing.store_reading import (
    a_build_is_read_back_in_the_order_asked,
    a_scan_goes_bucket_by_bucket,
    any_layout_is_kept,
    empty_and_strange_texts_are_ids,
    ids_of_another_type_are_refused,
    many_users_of_one_bucket_are_kept,
    nobody_asked_and_nobody_found,
)
from feature_store.testing.store_writing import (
    a_bucket_may_be_written_more_than_once_in_a_build,
    a_build_goes_on_after_the_store_was_closed,
    a_build_under_way_is_read_whole_or_not_at_all,
    a_closed_writer_is_refused,
    a_second_build_replaces_and_adds,
    a_second_writer_is_refused_at_once,
    writes_that_cannot_be_right_change_nothing,
)

STORE_CHECKS: tuple[StoreCheck, ...] = tuple(
    StoreCheck(promise)
    for promise in (
        a_store_is_made_once,
        where_nothing_is_nothing_is_opened,
        a_store_says_where_it_lies,
        a_build_is_read_back_in_the_order_asked,
        a_scan_goes_bucket_by_bucket,
        nobody_asked_and_nobody_found,
        ids_of_another_type_are_refused,
        empty_and_strange_texts_are_ids,
        any_layout_is_kept,
        many_users_of_one_bucket_are_kept,
        a_second_build_replaces_and_adds,
        a_bucket_may_be_written_more_than_once_in_a_build,
        a_build_under_way_is_read_whole_or_not_at_all,
        a_build_goes_on_after_the_store_was_closed,
        writes_that_cannot_be_right_change_nothing,
        a_closed_writer_is_refused,
        a_second_writer_is_refused_at_once,
        a_deleted_user_is_gone_and_stays_so,
        a_user_is_deleted_from_a_build_under_way,
        tombstones_of_another_store_are_kept,
        a_draft_gets_its_name_when_it_is_whole,
        a_discarded_store_is_gone,
        a_store_tells_that_it_was_replaced,
    )
)
"""Each promise by itself: `check(MyStore, new_place)`, with a `name` and a `promise` in words."""


def check_store(kind: type[MemoryStore], new_place: NewPlace) -> None:
    """Hold a kind of store to the whole contract.

        check_store(MyStore, new_place=lambda: str(tmp_path / uuid.uuid4().hex))

    `new_place` names, at each call, another place where nothing is yet, as `MyStore.create` takes it. What is left
    there is the caller's to remove. To see each promise as a test of its own, parametrise over `STORE_CHECKS`.

    Raises:
        ContractError: promises are broken; the message has a line for each, with what was seen.
    """
    broken = []
    for check in STORE_CHECKS:
        try:
            check(kind, new_place)
        except ContractError as error:
            broken.append(error)
    if broken:
        first = f"{kind.__name__} breaks {len(broken)} of {len(STORE_CHECKS)} promises of a store of memories:"
        raise ContractError("\n".join([first, *map(str, broken)])) from broken[0]
