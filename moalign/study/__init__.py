"""study.yaml to a typed, checked study; overrides; the search space; error positions."""
