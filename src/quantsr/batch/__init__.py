"""Many photographs, one after the other, so that none stops the rest."""
