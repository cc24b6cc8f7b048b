"""Ids are found among known ones, whichever way is the cheaper."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.vocabulary import id_index
from feature_store.vocabulary.id_index import IdIndex

IDS = {"int64": st.integers(-(2**63), 2**63 - 1), "string": st.text(max_size=8)}
NEAR = {place: st.integers(place, place + 40) for place in (-(2**63), -20, 2**63 - 41)}  # few numbers are unknown


@settings(deadline=None, max_examples=150)
@given(data=st.data(), kind=st.sampled_from(sorted(IDS)), with_null=st.booleans())
def test_it_finds_what_a_dictionary_finds(data: st.DataObject, kind: str, with_null: bool) -> None:
    known = data.draw(st.lists(st.one_of(IDS[kind], st.none()) if with_null else IDS[kind], max_size=90, unique=True))
    drawn = st.one_of(IDS[kind], *([st.sampled_from(known)] if known else []), *([st.none()] if with_null else []))
    values = data.draw(st.lists(drawn, max_size=4))
    index = IdIndex(pa.array(known, kind))
    places = {value: place for place, value in enumerate(known)}
    for _ in range(2):  # the second time from what the first has kept
        assert index.find(pa.array(values, kind)).tolist() == [places.get(value, -1) for value in values]


@settings(deadline=None, max_examples=150)
@given(data=st.data(), place=st.sampled_from(sorted(NEAR)))
def test_ids_near_each_other_are_found_as_by_a_dictionary(data: st.DataObject, place: int) -> None:
    known = data.draw(st.lists(NEAR[place], min_size=15, max_size=40, unique=True))
    values = data.draw(st.lists(st.one_of(NEAR[place], IDS["int64"]), max_size=30))
    with pytest.MonkeyPatch.context() as during:
        during.setattr(id_index.pc, "index_in", None)  # none are searched for
        found = IdIndex(pa.array(known)).find(pa.array(values, pa.int64()))
    places = {value: place for place, value in enumerate(known)}
    assert found.tolist() == [places.get(value, -1) for value in values]


def test_few_values_are_searched_for_and_many_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    index = IdIndex(pa.array(range(1000, 11000, 10)))
    index.find(pa.array([1000]))
    monkeypatch.setattr(id_index.pc, "index_in", None)
    assert index.find(pa.array([10990, 7])).tolist() == [999, -1]
    with pytest.raises(TypeError):
        index.find(pa.array(range(100)))


def test_values_beyond_all_ids_are_unknown() -> None:
    assert IdIndex(pa.array(range(100, 1100))).find(pa.array([2**62, 0, 100])).tolist() == [-1, -1, 0]


def test_two_texts_of_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(id_index, "stable_hash", lambda ids: ids.cast(pa.string()).to_numpy(False).astype("U1"))
    known = [f"{letter}{number}" for letter in "ab" for number in range(20)]
    assert IdIndex(pa.array(known)).find(pa.array(["b19", "c1"])).tolist() == [39, -1]
