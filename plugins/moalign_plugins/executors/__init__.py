"""The executors that moalign ships; one file each."""
