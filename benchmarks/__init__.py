"""One module per published number. See README.md for what a benchmark is."""
