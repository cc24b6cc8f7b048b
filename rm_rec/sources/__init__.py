"""Sources of answers: what a click head is told of a user. The window and the memory's slots come with the package."""
