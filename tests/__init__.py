"""A package, not a bare folder: verl's wheel installs a top-level ``tests`` that would answer in its place."""
