"""Agents that set the keep ratio: trained before, or learning while they are deployed."""
