"""Two towers: a retrieval model of users and items, learned from engagement as it comes."""
