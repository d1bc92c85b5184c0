"""The peers: how each one's environment is made, and the loop that runs inside of it."""
