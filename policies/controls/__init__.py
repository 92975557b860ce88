"""What policies are held against: uniform random samples, everything, another one's counts."""
