"""Bundled studies, one folder each; a package so that an installed moalign can find them."""
