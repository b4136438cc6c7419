"""The pack cache of a node: what lies on its disks, what of it counts, and what goes when room is needed."""
