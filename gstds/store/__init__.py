"""The feature store: what the reference says of every training image, computed once."""
