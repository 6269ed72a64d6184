"""A review of the simulated user: the faults there are, and how they are found by rule and by a model."""
