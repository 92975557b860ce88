"""`gstds/KeepRatio-v0`: a step is several drawn batches, an action the share of them to keep."""
