"""The SAE formats, one file each. A file registers itself: nothing else has to be edited (see docs/sae-formats.md)."""
