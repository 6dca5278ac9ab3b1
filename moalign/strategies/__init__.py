"""Base classes of families of strategies; what all of them share is in their own files."""
