"""The commands that do not serve: what they find out, what they do, how they tell it."""
