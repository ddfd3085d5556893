"""What is sold and for how much: prices, listings and, later, selection among providers."""
