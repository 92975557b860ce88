"""`gstds/DataSelection-v0`: a step is one drawn batch, an action its per-sample loss weights."""
