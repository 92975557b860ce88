"""The record of runs in MLflow: delivered in the background, kept on disk meanwhile."""
