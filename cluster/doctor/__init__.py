"""`serinus doctor`: is everything here that serinus needs, and what to do where it is not. Nothing heavy is imported."""
