"""The sample feed: a generated stream of posts whose truth is known."""
