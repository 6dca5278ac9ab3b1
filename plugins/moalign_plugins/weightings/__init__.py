"""The weightings that moalign ships; one file each."""
