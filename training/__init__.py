"""What any run on the Trainer needs to be resumable: checkpoints, the run's folder, signals."""
