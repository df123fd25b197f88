"""Societies of agents that share a resource: GovSim (Piatti et al. 2024), exact and at scale."""
