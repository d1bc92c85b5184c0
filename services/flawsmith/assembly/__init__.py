"""Products, their real data, and versioned training sets."""
