"""Running code that nobody has read: the jail, and what examines a solution inside it."""
