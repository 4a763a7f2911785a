"""From data of one's own to a recipe: what a path holds, what its columns are, what suits it."""
