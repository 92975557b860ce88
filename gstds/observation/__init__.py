"""What a policy is shown of a run, and what looking costs."""
