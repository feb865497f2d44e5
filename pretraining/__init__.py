"""What `run_pretraining.py` is made of."""
