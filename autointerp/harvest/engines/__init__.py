"""One file for each way of getting a harvest done."""
