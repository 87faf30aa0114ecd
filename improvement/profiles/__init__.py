"""What a user likes and flees from: one vector that follows every action, and one of dislikes."""
