"""One reward model for many processes and machines, served by Ray Serve."""
