"""Files for public leaderboards."""
