"""The learner: a network, its optimizer, one weighted update, and its evaluation."""
