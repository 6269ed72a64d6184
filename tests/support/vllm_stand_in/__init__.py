"""A stand-in for vLLM, for processes that have this folder on their path.

It has what TRL imports of vLLM (0.31), and plays a small model on a processor, in bfloat16, so that its probabilities
differ from the trainer's as vLLM's do. Weights go to its server over a socket instead of NCCL.
"""
