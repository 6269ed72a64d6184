"""What TRL imports of vLLM's sampling parameters."""


class StructuredOutputsParams:
    pass
