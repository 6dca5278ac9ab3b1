"""The rollouts that moalign ships; one file each."""
