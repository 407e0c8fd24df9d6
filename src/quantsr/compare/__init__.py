"""Fair comparisons: variants of recipes, trained alike, scored alike, in one table."""
