"""The store that docs/memories.md shows, and what becomes of it when it breaks one promise."""

import re
import sqlite3
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from feature_store.errors import LockedError
from feature_store.stores import Journal, Memories

PAGE = (Path(__file__).parents[3] / "docs" / "memories.md").read_text()
STORE, TEST = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SHOWN: dict[str, Any] = {"__name__": "shown"}
exec(compile(STORE + TEST, "docs/memories.md", "exec"), SHOWN)  # the page's own code
SqliteStore, SqliteWriter = SHOWN["SqliteStore"], SHOWN["SqliteWriter"]


class WrongStore(SqliteStore):
    """A sound store whose parts are exchanged below."""

    Writer = SqliteWriter

    @contextmanager
    def _writer(self) -> Any:
        with super()._writer():
            yield self.Writer(self)


class LosesTombstones(WrongStore):
    def _were_deleted(self, users: pa.Array) -> Any:
        return super()._were_deleted(users) & False


class ForgetsWhomItNeverHad(WrongStore):
    """Keeps a tombstone of those who had a memory alone."""

    class Writer(SqliteWriter):
        def _delete(self, user: pa.Array) -> bool:
            return bool(self.store.get(user)[1][0]) and super()._delete(user)


class AnswersInAnotherOrder(WrongStore):
    def _find(self, users: pa.Array) -> Any:
        memories, found = super()._find(users)
        return memories.select(range(len(memories))[::-1]), found


class MixesUpWhomItFound(WrongStore):
    def _find(self, users: pa.Array) -> Any:
        memories, found = super()._find(users)
        return memories, found[::-1]


class ForgetsTheJournal(WrongStore):
    """Keeps the journal in its process."""

    kept = Journal()

    def journal(self) -> Journal:
        return self.kept

    class Writer(SqliteWriter):
        def _write(self, bucket: int, memories: Memories, journal: Journal) -> None:
            super()._write(bucket, memories, journal)
            self.store.kept = journal

        def _finish(self, journal: Journal) -> None:
            super()._finish(journal)
            self.store.kept = journal


class ForgetsTheJournalOfEmptySteps(WrongStore):
    class Writer(SqliteWriter):
        def _write(self, bucket: int, memories: Memories, journal: Journal) -> None:
            if len(memories):
                super()._write(bucket, memories, journal)


class ScansInAnyOrder(WrongStore):
    def scan(self) -> Any:
        return iter([*super().scan()][::-1])


class ScansAllAtOnce(WrongStore):
    def scan(self) -> Any:
        parts = [*super().scan()]
        return iter([Memories.concat(parts)] if parts else [])


class LosesABucketsOlderUsers(WrongStore):
    class Writer(SqliteWriter):
        def _write(self, bucket: int, memories: Memories, journal: Journal) -> None:
            self.store.file.execute("DELETE FROM records WHERE bucket = ?", (bucket,))
            super()._write(bucket, memories, journal)


class KeepsTheOlderRecord(WrongStore):
    class Writer(SqliteWriter):
        def _write(self, bucket: int, memories: Memories, journal: Journal) -> None:
            super()._write(bucket, memories.select(~self.store.get(memories.users)[1]), journal)


class DeletesTheRecordAlone(WrongStore):
    class Writer(SqliteWriter):
        def _delete(self, user: pa.Array) -> bool:
            was = super()._delete(user)
            with self.store.file as file:
                file.execute("DELETE FROM deleted")
            return was


class DeletesNoRecord(WrongStore):
    class Writer(SqliteWriter):
        def _delete(self, user: pa.Array) -> bool:
            was = bool(self.store.get(user)[1][0])
            self._bury(SHOWN["tombstones_of"](user))
            return was


class BuriesNobody(WrongStore):
    class Writer(SqliteWriter):
        def _bury(self, tombstones: Any) -> None: ...


class LetsManyWrite(WrongStore):
    def _writer(self) -> Any:
        return SHOWN["contextmanager"](lambda: iter([SqliteWriter(self)]))()


class StaysLocked(WrongStore):
    """Lets no writer in after one that failed."""

    def writer(self) -> Any:
        return SHOWN["contextmanager"](self.once)()

    def once(self) -> Any:
        if getattr(self, "failed", False):
            raise LockedError("another writer is at work")
        with super().writer() as writer:
            self.failed = True
            yield writer
            self.failed = False


class ChecksNothing(WrongStore):
    class Writer(SqliteWriter):
        def write(self, bucket: int, memories: Memories, journal: Journal) -> None:
            self._refuse_closed()
            self._write(bucket, memories, journal)


class WritesForEver(WrongStore):
    class Writer(SqliteWriter):
        def _refuse_closed(self) -> None: ...


class OverwritesAStore(WrongStore):
    @classmethod
    def create(cls, place: str, facts: Any) -> Any:
        Path(place).unlink(missing_ok=True)
        return super().create(place, facts)


class OverwritesWhenItSettles(WrongStore):
    @classmethod
    def settle(cls, draft: str, place: str) -> None:
        Path(draft).rename(place)


class CopiesWhenItSettles(WrongStore):
    @classmethod
    def settle(cls, draft: str, place: str) -> None:
        cls.refuse_taken(place)
        Path(place).write_bytes(Path(draft).read_bytes())


class DiscardsWhatIsWritten(WrongStore):
    @classmethod
    def discard(cls, place: str) -> None:
        Path(place).unlink(missing_ok=True)


class DiscardsNothing(WrongStore):
    @classmethod
    def discard(cls, place: str) -> None: ...


class NeverTellsThatItWasReplaced(WrongStore):
    def replaced(self) -> bool:
        return False


class OpensWhatIsNotThere(WrongStore):
    def __init__(self, place: str) -> None:
        if not Path(place).is_file():
            raise FileNotFoundError(place)
        super().__init__(place)


class CountsOnce(WrongStore):
    def count(self) -> int:
        self.counted = getattr(self, "counted", None) or super().count()
        return self.counted


class NarrowsText(WrongStore):
    """Strips ids, so that '' and ' ' are one."""

    class Writer(SqliteWriter):
        def _write(self, bucket: int, memories: Memories, journal: Journal) -> None:
            super()._write(bucket, memories, journal)
            with self.store.file as file:
                file.execute("UPDATE OR REPLACE records SET user = x'' WHERE user = x'20'")


class ReadsAThousandAtMost(WrongStore):
    def _find(self, users: pa.Array) -> Any:
        memories, found = super()._find(users)
        found[1000:] = False
        return memories.select(range(min(len(memories), 1000))), found


class TakesFourKilobytes(WrongStore):
    class Writer(SqliteWriter):
        def _write(self, bucket: int, memories: Memories, journal: Journal) -> None:
            if self.store.facts.memory.bytes_per_user > 4_000:
                raise sqlite3.DataError("too large")
            super()._write(bucket, memories, journal)


class ShowsHalfABuild(WrongStore):
    """Reads half of what a step wrote while its build is under way."""

    def scan(self) -> Any:
        under_way = self.journal().under_way is not None
        return (part.select(range(len(part) // 2)) if under_way else part for part in super().scan())


class HidesItsAddress(WrongStore):
    def __init__(self, place: str) -> None:
        super().__init__(place)
        self.address += uuid.uuid4().hex


class TakesAnyIds(WrongStore):
    def get(self, users: Any) -> Any:
        return super().get(users.cast(pa.int64()) if self.facts.memory.user_type == "int64" else users)


class GivesNoStructure(WrongStore):
    def _find(self, users: pa.Array) -> Any:
        memories, found = super()._find(users)
        return (memories if len(memories) else Memories(memories.users, np.zeros(0))), found


WRONG = {
    LosesTombstones: "a_deleted_user_is_gone_and_stays_so",
    ForgetsWhomItNeverHad: "a_deleted_user_is_gone_and_stays_so",
    DeletesTheRecordAlone: "a_deleted_user_is_gone_and_stays_so",
    DeletesNoRecord: "a_user_is_deleted_from_a_build_under_way",
    BuriesNobody: "tombstones_of_another_store_are_kept",
    AnswersInAnotherOrder: "a_build_is_read_back_in_the_order_asked",
    MixesUpWhomItFound: "a_build_is_read_back_in_the_order_asked",
    ForgetsTheJournal: "a_build_goes_on_after_the_store_was_closed",
    ForgetsTheJournalOfEmptySteps: "a_bucket_may_be_written_more_than_once_in_a_build",
    ScansInAnyOrder: "a_scan_goes_bucket_by_bucket",
    ScansAllAtOnce: "a_scan_goes_bucket_by_bucket",
    LosesABucketsOlderUsers: "a_second_build_replaces_and_adds",
    KeepsTheOlderRecord: "a_second_build_replaces_and_adds",
    ShowsHalfABuild: "a_build_under_way_is_read_whole_or_not_at_all",
    LetsManyWrite: "a_second_writer_is_refused_at_once",
    StaysLocked: "a_second_writer_is_refused_at_once",
    ChecksNothing: "writes_that_cannot_be_right_change_nothing",
    WritesForEver: "a_closed_writer_is_refused",
    OverwritesAStore: "a_store_is_made_once",
    OverwritesWhenItSettles: "a_draft_gets_its_name_when_it_is_whole",
    CopiesWhenItSettles: "a_draft_gets_its_name_when_it_is_whole",
    DiscardsWhatIsWritten: "a_discarded_store_is_gone",
    DiscardsNothing: "a_discarded_store_is_gone",
    NeverTellsThatItWasReplaced: "a_store_tells_that_it_was_replaced",
    OpensWhatIsNotThere: "where_nothing_is_nothing_is_opened",
    HidesItsAddress: "a_store_says_where_it_lies",
    CountsOnce: "a_second_build_replaces_and_adds",
    NarrowsText: "empty_and_strange_texts_are_ids",
    ReadsAThousandAtMost: "many_users_of_one_bucket_are_kept",
    TakesFourKilobytes: "any_layout_is_kept",
    GivesNoStructure: "nobody_asked_and_nobody_found",
    TakesAnyIds: "ids_of_another_type_are_refused",
}
