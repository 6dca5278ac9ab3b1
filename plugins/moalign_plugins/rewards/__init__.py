"""The rewards that moalign ships; one file each."""
