"""Sizes of models as JSON, recipes of runs as YAML, and Accelerate's settings for several devices."""
