"""What a job costs as its size grows."""
