"""The policies that moalign ships; one file each."""
