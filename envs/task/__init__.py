"""What a run is about and does not change: its options, data, reference and rewards."""
