"""The optimizers that moalign ships; one file each."""
