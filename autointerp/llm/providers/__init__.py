"""One file a provider. A module here registers itself with `autointerp.llm.provider.providers` when it is imported."""
