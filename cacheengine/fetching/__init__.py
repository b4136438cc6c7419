"""Bytes from a store into packs: checked, at the pace that a link, a store and readers leave."""
