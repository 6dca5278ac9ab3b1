"""The components that ship with moalign, found through the same entry point as any other."""
