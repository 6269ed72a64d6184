"""What runs inside the sandbox of `pass_rate`: a solution, and apart from it the tests that examine it.

Standard library only, and nothing from outside this folder: it is run by any interpreter. `main` is where it begins.
"""
