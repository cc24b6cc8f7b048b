"""Checks that your own store of memories keeps the contract of all stores; nothing here needs pytest.

from feature_store.testing import check_store

def test_my_store_keeps_the_contract(tmp_path):
    check_store(MyStore, new_location=lambda: str(tmp_path / uuid.uuid4().hex))
"""

from feature_store.testing.contract import ContractError, StoreCheck
from feature_store.testing.stores import STORE_CHECKS, check_store

__all__ = ["STORE_CHECKS", "ContractError", "StoreCheck", "check_store"]
