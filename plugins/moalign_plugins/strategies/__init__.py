"""The strategies that moalign ships; one file each."""
