"""Nodes of a group that give each other packs."""
