"""Bring what a recipe reads from the network into a folder, for machines without one (docs/offline.md)."""
