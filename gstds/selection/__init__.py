"""How many samples of a drawn batch are kept, and which: pure functions over arrays."""

from gstds.selection.schedules import make_schedule as make_schedule
from gstds.selection.weights import hybrid as hybrid
from gstds.selection.weights import kept_count as kept_count
from gstds.selection.weights import top_k as top_k
from gstds.selection.weights import uniform as uniform
from gstds.selection.weights import weighted_sample as weighted_sample
from gstds.selection.weights import weights_for_ratio as weights_for_ratio
