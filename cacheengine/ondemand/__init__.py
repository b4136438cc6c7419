"""Reads of what is not resident: packs as files of fetchfs."""
