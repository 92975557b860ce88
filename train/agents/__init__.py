"""Teaching agents to set the keep ratio, with Stable-Baselines3."""
