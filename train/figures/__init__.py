"""Numbers and pictures of finished runs: statistics, tables, plots."""
