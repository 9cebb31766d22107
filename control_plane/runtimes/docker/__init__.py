"""Replicas as containers of one Docker Engine."""
