"""A model whose impressions are labelled events, with memories and candidates."""

import pytest

from tests.end_to_end.scoring.scores import Scored, scored_by
from tests.support.nights import LABELLED


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Scored:
    return scored_by(tmp_path_factory.mktemp("labelled"), LABELLED)
