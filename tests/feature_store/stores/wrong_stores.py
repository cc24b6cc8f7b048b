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
        memories, matches = super()._find(users)
        return memories.select(range(len(memories))[::-1]), matches


class MixesUpWhomItFound(WrongStore):
    def _find(self, users: pa.Array) -> Any:
        memories, matches = super()._find(users)
        return memories, matches[::-1]


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
    def read_all(self) -> Any:
        return iter([*super().read_all()][::-1])


class ScansAllAtOnce(WrongStore):
    def read_all(self) -> Any:
        parts = [*super().read_all()]
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
            self._add_tombstones(SHOWN["tombstones_of"](user))
            return was


class BuriesNobody(WrongStore):
    class Writer(SqliteWriter):
        def _add_tombstones(self, tombstones: Any) -> None: ...


class LetsManyWrite(WrongStore):
    def _writer(self) -> Any:
        return SHOWN["contextmanager"](lambda: iter([SqliteWriter(self)]))()


class StaysLocked(WrongStore):
    """Lets no writer in after one that failed."""

    def writer(self) -> Any:
        return SHOWN["contextmanager"](self.once)()

    def once(self) -> Any:
        if getattr(self, "failed", False):
            raise LockedError("another process is writing to it")
        with super().writer() as writer:
            self.failed = True
            yield writer
            self.failed = False


class ChecksNothing(WrongStore):
    class Writer(SqliteWriter):
        def write(self, bucket: int, memories: Memories, journal: Journal) -> None:
            self._check_open()
            self._write(bucket, memories, journal)


class WritesForEver(WrongStore):
    class Writer(SqliteWriter):
        def _check_open(self) -> None: ...


class OverwritesAStore(WrongStore):
    @classmethod
    def create(cls, location: str, facts: Any) -> Any:
        Path(location).unlink(missing_ok=True)
        return super().create(location, facts)


class OverwritesWhenItSettles(WrongStore):
    @classmethod
    def publish(cls, draft: str, location: str) -> None:
        Path(draft).rename(location)


class CopiesWhenItSettles(WrongStore):
    @classmethod
    def publish(cls, draft: str, location: str) -> None:
        cls.check_free(location)
        Path(location).write_bytes(Path(draft).read_bytes())


class DiscardsWhatIsWritten(WrongStore):
    @classmethod
    def remove(cls, location: str) -> None:
        Path(location).unlink(missing_ok=True)


class DiscardsNothing(WrongStore):
    @classmethod
    def remove(cls, location: str) -> None: ...


class NeverTellsThatItWasReplaced(WrongStore):
    def replaced(self) -> bool:
        return False


class OpensWhatIsNotThere(WrongStore):
    def __init__(self, location: str) -> None:
        if not Path(location).is_file():
            raise FileNotFoundError(location)
        super().__init__(location)


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
        memories, matches = super()._find(users)
        matches[1000:] = False
        return memories.select(range(min(len(memories), 1000))), matches


class TakesFourKilobytes(WrongStore):
    class Writer(SqliteWriter):
        def _write(self, bucket: int, memories: Memories, journal: Journal) -> None:
            if self.store.facts.memory.bytes_per_user > 4_000:
                raise sqlite3.DataError("too large")
            super()._write(bucket, memories, journal)


class ShowsHalfABuild(WrongStore):
    """Reads half of what a step wrote while its build is under way."""

    def read_all(self) -> Any:
        under_way = self.journal().under_way is not None
        return (part.select(range(len(part) // 2)) if under_way else part for part in super().read_all())


class HidesItsAddress(WrongStore):
    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.address += uuid.uuid4().hex


class TakesAnyIds(WrongStore):
    def get(self, users: Any) -> Any:
        return super().get(users.cast(pa.int64()) if self.facts.memory.user_type == "int64" else users)


class GivesNoStructure(WrongStore):
    def _find(self, users: pa.Array) -> Any:
        memories, matches = super()._find(users)
        return (memories if len(memories) else Memories(memories.users, np.zeros(0))), matches


WRONG = {
    LosesTombstones: "a_deleted_user_stays_deleted",
    ForgetsWhomItNeverHad: "a_deleted_user_stays_deleted",
    DeletesTheRecordAlone: "a_deleted_user_stays_deleted",
    DeletesNoRecord: "a_user_is_deleted_from_a_build_under_way",
    BuriesNobody: "tombstones_of_another_store_are_kept",
    AnswersInAnotherOrder: "a_build_is_read_back_in_the_requested_order",
    MixesUpWhomItFound: "a_build_is_read_back_in_the_requested_order",
    ForgetsTheJournal: "a_build_continues_after_the_store_was_closed",
    ForgetsTheJournalOfEmptySteps: "a_bucket_may_be_written_more_than_once_in_a_build",
    ScansInAnyOrder: "read_all_goes_bucket_by_bucket",
    ScansAllAtOnce: "read_all_goes_bucket_by_bucket",
    LosesABucketsOlderUsers: "a_second_build_replaces_and_adds",
    KeepsTheOlderRecord: "a_second_build_replaces_and_adds",
    ShowsHalfABuild: "a_build_under_way_is_read_whole_or_not_at_all",
    LetsManyWrite: "a_second_writer_is_refused_at_once",
    StaysLocked: "a_second_writer_is_refused_at_once",
    ChecksNothing: "invalid_writes_change_nothing",
    WritesForEver: "a_closed_writer_is_refused",
    OverwritesAStore: "a_store_is_created_once",
    OverwritesWhenItSettles: "a_draft_is_published_when_complete",
    CopiesWhenItSettles: "a_draft_is_published_when_complete",
    DiscardsWhatIsWritten: "a_removed_store_is_gone",
    DiscardsNothing: "a_removed_store_is_gone",
    NeverTellsThatItWasReplaced: "a_replaced_store_is_detected",
    OpensWhatIsNotThere: "a_missing_store_cannot_be_opened",
    HidesItsAddress: "a_store_has_an_address",
    CountsOnce: "a_second_build_replaces_and_adds",
    NarrowsText: "any_text_is_an_id",
    ReadsAThousandAtMost: "many_users_of_one_bucket_are_stored",
    TakesFourKilobytes: "any_schema_is_stored",
    GivesNoStructure: "unknown_users_have_no_record",
    TakesAnyIds: "ids_of_another_type_are_refused",
}
