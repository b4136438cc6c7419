"""A version as a tree of files: the metadata image, the mounts of the kernel, and the pyfuse3 tree."""
