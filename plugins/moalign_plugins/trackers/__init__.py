"""The trackers that moalign ships; one file each."""
