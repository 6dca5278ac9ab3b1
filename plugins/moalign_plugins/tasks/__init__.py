"""The tasks that moalign ships; one file each."""
