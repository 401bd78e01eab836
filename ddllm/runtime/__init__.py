"""What runs need from the machine: devices, working directories, checkpoints, metrics and progress."""
