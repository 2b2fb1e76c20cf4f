"""What a training makes of the devices it has: processes, CUDA graphs, statistics over a batch."""
