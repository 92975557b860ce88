"""What a comparison leaves for people to read: a page, and its summary in MLflow."""
