"""The experiments: run one, compare many, track, report, command line."""
