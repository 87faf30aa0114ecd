"""What we learn from it: personal copies of object vectors, and the collections that serve them."""
