"""Agents that know an endpoint alone, and rollouts that run them."""
