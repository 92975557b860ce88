"""The feature store: what the reference says of every training image, computed once."""

from gstds.store.feature_store import FeatureStore, build_store, prepare_store
from gstds.store.format import StoreError

__all__ = ["FeatureStore", "StoreError", "build_store", "prepare_store"]
