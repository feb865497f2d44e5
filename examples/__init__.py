"""First use of a model, as a reader would write it: these files import nothing of the package but its models."""
