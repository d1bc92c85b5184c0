"""Peers measured side by side with flawsmith: prints tables, writes JSON. See README.md."""
