"""Publishing on the Hub, and model cards."""
