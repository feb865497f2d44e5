"""The span objectives on a pair of stock encoders of any family."""
