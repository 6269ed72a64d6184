"""The code that runs inside the sandbox of `pass_rate`: a solution and, separately, the tests that examine it.

It uses only the standard library and this folder, so that any interpreter can run it. It starts at `supervise.main`.
"""
