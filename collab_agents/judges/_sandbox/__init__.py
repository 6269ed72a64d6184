"""Running untrusted code: `jail` starts a program in bubblewrap within limits, and `examiner` is what runs inside it.

There, `supervise` forks a process for the solution (`solution`), and the tests (`suite`) run in that process or in
another one, as `isolation` decides.
"""
