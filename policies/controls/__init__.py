"""What every policy is held against: uniform random samples, everything, another policy's counts."""
