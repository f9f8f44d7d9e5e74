"""A language model on this machine, behind the provider `transformers`.

Requests wait in a queue, one thread takes them in batches, and the beginnings that prompts share are run once. The modules
that need torch are imported when the provider connects.
"""
